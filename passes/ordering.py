"""The order of steps: which ones there are, and one in which less is live at once.

A step must come after another where the two touch the same bytes and one of them writes. That covers results
that are read, operands that are overwritten, results in place, pieces of a concatenation and states.

The search is dynamic programming over the sets of steps that may have run, as in Serenity (Ahn et al., MLSys
2020): two ways to run the same set leave the same bytes live, so only the one with the lower peak matters.
Where every step before a point must run before every step after it, the program is cut, and each piece is
ordered by itself; in the networks that exist most pieces are single steps. A step that can run without a new
peak and leaves no more live than before runs at once: later would be no better. A piece with more than BEAM
sets of a size, or more than CHOICES steps that can run next, keeps the best of them; it is then no longer
exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from occ.errors import InternalError
from occ.ir import ARENA_KINDS, BufferKind, Program
from occ.units import ALIGNMENT, round_up

BEAM = 64
"""Sets of steps of one size that are kept."""

CHOICES = 8
"""Steps that are tried next after one set."""


def ordered_steps(program: Program, runs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The indices of the program's steps in the order that half-open `runs` of them give; their own order
    where there are none.

    Raises InternalError where the runs do not name every step once, or put one before what it needs.
    """
    count = len(program.steps)
    if not runs:
        return tuple(range(count))
    found = tuple(step for first, last in runs for step in range(first, last))
    if sorted(found) != list(range(count)):
        raise InternalError(f"an order of {len(found)} steps does not name each of the {count} once")
    places = {step: place for place, step in enumerate(found)}
    for step, needed in enumerate(needed_steps(program)):
        for other in needed:
            if places[other] > places[step]:
                names = program.steps[step].name, program.steps[other].name
                raise InternalError(f"step {step} ({names[0]}) runs before step {other} ({names[1]})")
    return found


def runs_of(order: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The order as half-open runs of steps; none where it is the steps' own."""
    if not order:
        return ()
    breaks = [0, *(place for place, (a, b) in enumerate(pairwise(order), 1) if b != a + 1), len(order)]
    found = tuple((order[first], order[last - 1] + 1) for first, last in pairwise(breaks))
    return () if len(found) == 1 else found


def needed_steps(program: Program) -> tuple[tuple[int, ...], ...]:
    """For each step the earlier ones that must run before it, those aside that must run before these."""
    touched: dict[int, list[tuple[int, int, int, bool]]] = {}
    found: list[tuple[int, ...]] = []
    closing: int | None = None
    for index, step in enumerate(program.steps):
        needed: set[int] = set()
        accesses = [(value, False) for value in step.reads] + [(value, True) for value in step.writes]
        for value_id, writes in accesses:
            value = program.values[value_id]
            kind = program.buffers[value.buffer].kind
            if kind is BufferKind.WEIGHT:
                continue
            if kind is BufferKind.INPUT and writes and closing is None:
                closing = index
            first, last = value.extent
            before = touched.setdefault(value.buffer, [])
            for other, start, end, wrote in before:
                # Nothing overlaps with values of no elements; they are written before they are read, too.
                overlap = (start < last and first < end) or start == end or first == last
                if other != index and (writes or wrote) and overlap:
                    needed.add(other)
            if writes:
                before[:] = [known for known in before if not (first <= known[1] and known[2] <= last)]
            before.append((index, first, last, writes))
        if closing is not None:
            # What changes inputs stands at the end of a program, in its own order.
            needed.update(range(index) if index == closing else (index - 1,))
        found.append(tuple(sorted(needed)))
    return tuple(found)


def lower_order(program: Program, beside: Sequence[int]) -> tuple[int, ...]:
    """An order of the steps in which the fullest one needs as few bytes as this search finds; the steps' own
    order where it finds no better, also of those that need not change for it.

    A step needs what is live, states aside, and so many bytes `beside` it.
    """
    needed = needed_steps(program)
    lives = _Lives(program, beside)
    pieces = list(_pieces(needed))
    own = [lives.peak(range(first, last), first, last) for first, last in pieces]
    # Networks repeat layers, and what is alike is ordered alike.
    known: dict[_Signature, tuple[int, ...]] = {}
    found: dict[int, Sequence[int]] = {}
    reached = 0
    # The fullest first: one that needs no more than another at best may stay as it is.
    for number in sorted(range(len(pieces)), key=own.__getitem__, reverse=True):
        if own[number] <= reached:
            break
        first, last = pieces[number]
        piece = _Piece(lives, needed, first, last)
        if piece.signature not in known:
            known[piece.signature] = piece.order()
        found[first] = [first + step for step in known[piece.signature]]
        reached = max(reached, min(own[number], lives.peak(found[first], first, last)))
    return tuple(
        step
        for (first, last), before in zip(pieces, own, strict=True)
        for step in (found[first] if before > reached else range(first, last))
    )


def _pieces(needed: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Half-open runs of steps such that all steps of one must run before all of the next."""
    count = len(needed)
    ancestors = [0] * count
    for step, others in enumerate(needed):
        for other in others:
            ancestors[step] |= ancestors[other] | 1 << other
    descendants = [0] * count
    for step in reversed(range(count)):
        for other in needed[step]:
            descendants[other] |= descendants[step] | 1 << step
    begin = 0
    for step in range(count):
        if ancestors[step].bit_count() == step and descendants[step].bit_count() == count - 1 - step:
            if begin < step:
                yield begin, step
            yield step, step + 1
            begin = step + 1
    if begin < count:
        yield begin, count


class _Lives:
    """The bytes of the buffers that live and die within a run, and the steps that touch them."""

    def __init__(self, program: Program, beside: Sequence[int]) -> None:
        self.beside = tuple(beside)
        kinds = ARENA_KINDS - {BufferKind.STATE}
        self.nbytes = {b.id: round_up(b.nbytes, ALIGNMENT) for b in program.buffers if b.kind in kinds}
        self.of_step: list[tuple[int, ...]] = []
        self.users: dict[int, set[int]] = {}
        for index, step in enumerate(program.steps):
            touched = {program.values[value].buffer for value in step.reads + step.writes}
            mine = tuple(sorted(touched & self.nbytes.keys()))
            self.of_step.append(mine)
            for buffer in mine:
                self.users.setdefault(buffer, set()).add(index)
        self._span = {buffer: (min(users), max(users)) for buffer, users in self.users.items()}

    def peak(self, order: Sequence[int], first: int = 0, last: int | None = None) -> int:
        """What the fullest step needs when the steps [first, last) run in an order, after all before them
        and before all others."""
        end = len(self.of_step) if last is None else last
        around = {b for b, (begin, end) in self._span.items() if begin < first <= end}
        live = most = sum(self.nbytes[buffer] for buffer in around)
        begun = set(around)
        left: dict[int, int] = {}
        for step in order:
            for buffer in self.of_step[step]:
                left.setdefault(buffer, sum(1 for user in self.users[buffer] if user >= first))
                if buffer not in begun:
                    begun.add(buffer)
                    live += self.nbytes[buffer]
            most = max(most, live + self.beside[step])
            for buffer in self.of_step[step]:
                left[buffer] -= 1
                if not left[buffer]:
                    live -= self.nbytes[buffer]
        assert end - first == len(order)
        return most


@dataclass(frozen=True, slots=True)
class _State:
    """A way to have run some steps of a piece: the most that one needed, what is live now, the steps that can
    run next, and the last one that ran."""

    peak: int
    live: int
    ready: tuple[int, ...]
    step: int
    before: _State | None


_Signature = tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[tuple[int, int, bool, bool], ...], ...]]
"""All that the order of a piece depends on."""


class _Piece:
    """The steps [first, last), all of which run after those before and before those after. Steps are counted
    from `first` here, and a set of them is the bits of a number."""

    def __init__(self, lives: _Lives, needed: Sequence[Sequence[int]], first: int, last: int) -> None:
        self._count = last - first
        self._needed = [0] * self._count
        self._next: list[list[int]] = [[] for _ in range(self._count)]
        for step in range(self._count):
            for other in needed[first + step]:
                if other >= first:
                    self._needed[step] |= 1 << other - first
                    self._next[other - first].append(step)
        self._beside = lives.beside[first:last]
        self._touched: list[list[tuple[int, int, bool, bool]]] = []
        self._given = 0
        """Bytes live before the first step of those buffers that the piece touches; others do not matter."""
        known: dict[int, tuple[int, int, bool, bool]] = {}
        for step in range(self._count):
            for buffer in lives.of_step[first + step]:
                if buffer not in known:
                    users = lives.users[buffer]
                    mask = sum(1 << user - first for user in users if first <= user < last)
                    known[buffer] = (lives.nbytes[buffer], mask, min(users) < first, max(users) >= last)
                    self._given += lives.nbytes[buffer] if min(users) < first else 0
            self._touched.append([known[buffer] for buffer in lives.of_step[first + step]])

    @cached_property
    def signature(self) -> _Signature:
        """Pieces with equal ones have equal orders."""
        return tuple(self._needed), self._beside, tuple(tuple(touched) for touched in self._touched)

    def order(self) -> tuple[int, ...]:
        """The order of least peak that is found, of equal ones the one nearest to the steps' own; steps are
        counted from the first."""
        ready = tuple(step for step in range(self._count) if not self._needed[step])
        states = {0: _State(self._given, self._given, ready, -1, None)}
        for _ in range(self._count):
            reached: dict[int, _State] = {}
            for done, state in states.items():
                for peak, live, step in self._moves(done, state):
                    after = done | 1 << step
                    known = reached.get(after)
                    if known is None or peak < known.peak:
                        reached[after] = _State(peak, live, self._ready(after, state, step), step, state)
            if len(reached) > BEAM:
                best = sorted(reached.items(), key=lambda item: (item[1].peak, item[1].live, item[0]))
                reached = dict(best[:BEAM])
            states = reached
        (last,) = states.values()
        found = []
        while last.before is not None:
            found.append(last.step)
            last = last.before
        return tuple(reversed(found))

    def _moves(self, done: int, state: _State) -> list[tuple[int, int, int]]:
        """Steps that may run next, each with the peak and the live bytes after it."""
        moves = []
        for step in state.ready:
            born = dead = 0
            for nbytes, users, begun, outlives in self._touched[step]:
                if not begun and not users & done:
                    born += nbytes
                if not outlives and not users & ~(done | 1 << step):
                    dead += nbytes
            peak = max(state.peak, state.live + born + self._beside[step])
            moves.append((peak, state.live + born - dead, step))
            if peak == state.peak and born <= dead:
                return moves[-1:]
        return sorted(moves)[:CHOICES] if len(moves) > CHOICES else moves

    def _ready(self, done: int, state: _State, ran: int) -> tuple[int, ...]:
        freed = [step for step in self._next[ran] if not self._needed[step] & ~done]
        return tuple(sorted([*(step for step in state.ready if step != ran), *freed]))
