"""Results that are put together from pieces, each computed by itself and copied to its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from occ.ir import BufferKind
from occ.lower.draft import Draft, StepDraft, Traced, same_layout


@dataclass(frozen=True, slots=True)
class Piece:
    """What a piece of a result adds to what it computes, and its place in the result."""

    added: Traced
    target: Traced


def results_in_pieces(draft: Draft) -> Iterator[tuple[int, list[Piece]]]:
    """Results whose pieces, one channel after the other, each add something: the step that computes the first
    piece and the pieces. Each takes two steps, the second of which copies it; nothing is between them, and
    no other step before those writes any of the result."""
    touched: set[int] = set()
    index = 0
    while index < len(draft.steps):
        pieces: list[Piece] = []
        while (piece := _piece(draft, index + 2 * len(pieces))) is not None and _follows(pieces, piece):
            pieces.append(piece)
        if pieces:
            out = pieces[0].target.buffer
            whole = sum(piece.target.nbytes for piece in pieces) == draft.buffers[out].nbytes
            if whole and draft.root(out)[0] not in touched:
                yield index, pieces
        following = index + max(1, 2 * len(pieces))
        for step in draft.steps[index:following]:
            touched.update(draft.root(tensor.buffer)[0] for tensor in (*step.operands(), *step.outs))
        index = following


def _piece(draft: Draft, index: int) -> Piece | None:
    """The piece that a step computes and the next one copies, if that is what they do."""
    if index + 1 >= len(draft.steps):
        return None
    computing, copying = draft.steps[index : index + 2]
    added = computing.args.get("residual")
    if not isinstance(added, Traced) or copying.kernel != "copy":
        return None
    [target], source = copying.outs, copying.args["source"]
    alone = [draft.root(operand.buffer)[0] for operand in computing.operands()]
    if (
        [made.buffer for made in computing.outs] != [source.buffer]
        or alone.count(draft.root(added.buffer)[0]) > 1
        or target.meta.dim() < 2
    ):
        return None
    return Piece(added, target)


def _follows(pieces: list[Piece], piece: Piece) -> bool:
    """Whether a piece comes right after others of the same result."""
    target = piece.target
    channels = sum(before.target.meta.shape[1] for before in pieces)
    return target.meta.storage_offset() == channels * target.meta.stride(1) and all(
        before.target.buffer == target.buffer and same_layout(before.target.meta, target.meta.stride())
        for before in pieces[:1]
    )


def slices(whole: Traced, dim: int, parts: Iterable[Traced]) -> Iterator[tuple[Traced, Traced]]:
    """The parts of a concatenation, each with its place in the whole."""
    first = 0
    for part in parts:
        extent = part.meta.shape[dim]
        yield part, whole.viewed_as(whole.meta.narrow(dim, first, extent))
        first += extent


def copy_parts_where_copied(draft: Draft) -> None:
    """Let the parts of a concatenation that is only copied, as the next step, be copied themselves."""
    readers = Counter(operand.buffer for step in draft.steps for operand in step.operands())
    steps: list[StepDraft] = []
    for step in draft.steps:
        whole = _copied(draft, steps[-1], step, readers) if steps else None
        if whole is None:
            steps.append(step)
            continue
        joined = steps.pop().args
        for part, target in slices(whole, joined["dim"], joined["tensors"]):
            steps.append(StepDraft(step.name, step.module, "copy", {"source": part}, [target]))
    draft.steps[:] = steps


def _copied(draft: Draft, joined: StepDraft, copying: StepDraft, readers: Mapping[int, int]) -> Traced | None:
    """Where a step copies what the step before joined, with dimensions as there; None unless that is a
    concatenation, and all of it is read there alone."""
    if joined.kernel not in ("cat", "concatenate") or copying.kernel != "copy":
        return None
    [out], source, [target] = joined.outs, copying.args["source"], copying.outs
    if (
        source.buffer != out.buffer
        or draft.buffers[out.buffer].kind is not BufferKind.ACTIVATION
        or readers[out.buffer] > 1
        or source.meta.numel() != out.meta.numel()
        or any(part.meta.dtype != out.meta.dtype for part in joined.args["tensors"])
        # A part of what is replaced, as in a window that moves over a state.
        or any(draft.root(p.buffer)[0] == draft.root(target.buffer)[0] for p in joined.args["tensors"])
    ):
        return None
    order = sorted(range(source.meta.dim()), key=source.meta.stride, reverse=True)
    wanted = sorted(range(out.meta.dim()), key=out.meta.stride, reverse=True)
    if len(order) != len(wanted):
        return None
    dims = [order[wanted.index(dim)] for dim in range(len(order))]
    seen = source.meta.permute(dims)
    if seen.shape != out.meta.shape or not same_layout(seen, out.meta.stride()):
        return None
    return target.viewed_as(target.meta.permute(dims))
