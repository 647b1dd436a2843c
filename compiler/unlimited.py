"""The draft for a plan without a limit: as fast as it goes, then no larger than that takes.

With all weights resident, bands have no loads to make room for. Yet a network that is as fast with half its
activations leaves the rest to others, and where they fit a cache in bands it is faster.
"""

from __future__ import annotations

from collections.abc import Callable

from occ.drafts import Draft, Drafts
from occ.ir import Choices
from occ.levels import Levels

SAME_SPEED = 1.01
"""Ratio of computing to the fastest that counts as just as fast: as far as measuring tells them apart."""

LEVEL = 0.85
"""Ratio of bytes to the level before that is tried next."""

WORTH = 0.01
"""Share of the whole budget below which bytes are not worth another order or bands."""

SLOWER = 2
"""Levels in a row that are slower, after which no further one is tried."""


def resident_draft(drafts: Drafts) -> Draft:
    """The draft for a plan whose weights are all resident: of those about as fast as the fastest the one that
    takes the fewest bytes. Its threads wait by the policy under which the whole program computes faster."""
    streaming, waiting = drafts.of(Choices()), drafts.resident(Choices())
    if waiting.compute < streaming.compute:
        return _leanest(drafts, waiting, drafts.resident)
    return _leanest(drafts, streaming, drafts.of)


def _leanest(drafts: Drafts, whole: Draft, draft_of: Callable[[Choices], Draft]) -> Draft:
    source, tried, slower = drafts.source, [whole], 0
    worth, fastest = WORTH * whole.resident_nbytes, whole.compute
    if whole.liveness.peak_nbytes < worth:
        return whole
    for level in Levels(source, Choices(), [0] * len(source.steps)).down(LEVEL):
        if whole.liveness.peak_nbytes - level.nbytes < worth:
            continue
        draft = draft_of(level.choices)
        tried.append(draft)
        fastest = min(fastest, draft.compute)
        slower = slower + 1 if draft.compute > SAME_SPEED * fastest else 0
        if slower == SLOWER:
            break
    return min(
        (draft for draft in tried if draft.compute <= SAME_SPEED * fastest),
        key=lambda draft: draft.beside_weights_nbytes,
    )
