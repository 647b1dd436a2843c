"""Who shares whose bytes: concat pieces written in place, results over operands that die, dead steps.

Each function changes the draft; they run in the order of `share`. Sharing lengthens live ranges but never
raises the sum of live bytes at the step it applies to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from occ.codegen.kernels import kernel_named
from occ.ir import BufferKind
from occ.lower.concats import read_parts
from occ.lower.draft import Draft, StepDraft, Traced, map_tensors, same_layout
from occ.lower.fusion import fuse
from occ.lower.lowering import specs_of
from occ.lower.pieces import Piece, copy_parts_where_copied, results_in_pieces, slices

KEPT = frozenset({BufferKind.OUTPUT, BufferKind.STATE, BufferKind.INPUT})


def share(draft: Draft, *, fused: bool = False) -> None:
    """Share bytes in a finished draft; with `fused`, loops are fused before results take others' bytes."""
    drop_dead_steps(draft)
    copy_parts_where_copied(draft)
    if fused:
        fuse(draft)
        read_parts(draft)
    join_concat_pieces(draft)
    if fused:
        fuse(draft)
    reuse_dying_operands(draft)
    reuse_added_operands(draft)
    drop_copies_onto_themselves(draft)


def drop_dead_steps(draft: Draft) -> None:
    """Remove steps whose results nobody reads and the caller does not get."""
    needed: set[int] = set()
    kept: list[StepDraft] = []
    for step in reversed(draft.steps):
        if any(out.buffer in needed or draft.buffers[out.buffer].kind in KEPT for out in step.outs):
            needed.update(operand.buffer for operand in step.operands())
            kept.append(step)
    draft.steps[:] = reversed(kept)


def join_concat_pieces(draft: Draft) -> None:
    """Let the parts of a concatenation be computed where they end up, where those slices are contiguous."""
    steps: list[StepDraft] = []
    for step in draft.steps:
        if step.kernel != "cat":
            steps.append(step)
            continue
        out, dim = step.outs[0], step.args["dim"]
        contiguous = _slices_are_contiguous(out, dim)
        pending: list[tuple[Traced, Traced]] = []
        joined: set[int] = set()
        for part, target in slices(out, dim, step.args["tensors"]):
            buffer = draft.buffers[part.buffer]
            if (
                contiguous
                and buffer.kind is BufferKind.ACTIVATION
                and buffer.part_of is None
                and part.buffer not in joined
                and part.buffer != out.buffer
                and part.is_whole(buffer)
                and same_layout(part.meta, target.meta.stride())
            ):
                buffer.part_of, buffer.offset = out.buffer, target.offset
                joined.add(part.buffer)
            else:
                pending.append((part, target))
        if not joined:
            steps.append(step)
            continue
        for part, target in pending:
            steps.append(StepDraft(step.name, step.module, "copy", {"source": part}, [target]))
    draft.steps[:] = steps


def _slices_are_contiguous(out: Traced, dim: int) -> bool:
    stride = out.meta.stride(dim)
    return all(
        size == 1 or other == dim or out.meta.stride(other) < stride
        for other, size in enumerate(out.meta.shape)
    )


def reuse_dying_operands(draft: Draft) -> None:
    """Let a result take the bytes of an operand that nobody needs afterwards."""
    last_read, last_write = _last_touches(draft)
    for index, step in enumerate(draft.steps):
        for out, names in zip(step.outs, _overwritable(step), strict=True):
            for name in names:
                dying = step.args.get(name)
                if isinstance(dying, Traced) and _may_overwrite(
                    draft, step, dying, out, index, last_read, last_write
                ):
                    _merge(draft, dying, out, last_read, last_write)
                    step.args = {
                        key: map_tensors(arg, partial(_in_layout_of, out, dying))
                        for key, arg in step.args.items()
                    }
                    break


def _last_touches(draft: Draft) -> tuple[dict[int, int], dict[int, int]]:
    """The last step that reads each root buffer, and the last that writes it."""
    last_read: dict[int, int] = {}
    last_write: dict[int, int] = {}
    for index, step in enumerate(draft.steps):
        for operand in step.operands():
            last_read[draft.root(operand.buffer)[0]] = index
        for out in step.outs:
            last_write[draft.root(out.buffer)[0]] = index
    return last_read, last_write


def _overwritable(step: StepDraft) -> Sequence[Sequence[str]]:
    """For each result of a step the operands whose bytes it may take, by name."""
    entry = kernel_named(step.kernel)
    if entry.overwritable is not None:
        return entry.overwritable(specs_of(step.args), [out.spec for out in step.outs])
    return [entry.overwrites] if len(step.outs) == 1 else [()] * len(step.outs)


def _in_layout_of(out: Traced, overwritten: Traced, operand: Traced) -> Traced:
    """The overwritten operand with exactly the result's strides: torch takes two views of the same bytes for
    a partial overlap where only the strides of dimensions of one element differ."""
    if operand.buffer != overwritten.buffer:
        return operand
    meta = operand.meta.as_strided(out.meta.shape, out.meta.stride(), operand.meta.storage_offset())
    return Traced(operand.name, operand.buffer, meta)


def _may_overwrite(
    draft: Draft,
    step: StepDraft,
    operand: Traced,
    out: Traced,
    index: int,
    last_read: dict[int, int],
    last_write: dict[int, int],
) -> bool:
    target = draft.buffers[out.buffer]
    root, offset = draft.root(operand.buffer)
    source = draft.buffers[root]
    if source.kind not in (BufferKind.ACTIVATION, BufferKind.STATE) or root == draft.root(out.buffer)[0]:
        return False
    if target.part_of is not None or target.kind not in (BufferKind.ACTIVATION, BufferKind.OUTPUT):
        return False
    if source.kind is BufferKind.STATE and target.kind is BufferKind.OUTPUT:
        return False
    if last_read.get(root, -1) > index:
        return False
    if source.kind is BufferKind.ACTIVATION and last_write.get(root, -1) >= index:
        return False
    if source.kind is BufferKind.STATE and not _outlives_updates(draft, out, root, index, last_read):
        return False
    same_bytes = (
        offset == 0
        and operand.is_whole(source)
        and out.is_whole(target)
        and operand.meta.element_size() == out.meta.element_size()
        and tuple(operand.meta.shape) == tuple(out.meta.shape)
        and same_layout(operand.meta, out.meta.stride())
    )
    readers = [other for other in step.operands() if draft.root(other.buffer)[0] == root]
    # Only a pointwise kernel may read, as another operand too, what it overwrites.
    alone = len(readers) == 1 or kernel_named(step.kernel).pointwise
    return same_bytes and alone and all(_same_view(other, operand) for other in readers)


def _outlives_updates(draft: Draft, out: Traced, state: int, index: int, last_read: dict[int, int]) -> bool:
    """Whether a result could lie in the bytes of `state` until it is read for the last time: what updates the
    state later is the result itself, or comes after that."""
    for later, update in enumerate(draft.steps[index + 1 :], index + 1):
        if not any(written.buffer == state for written in update.outs):
            continue
        source = update.args.get("source")
        is_result = (
            update.kernel == "copy"
            and isinstance(source, Traced)
            and _same_view(source, out)
            and source.meta.dtype == update.outs[0].meta.dtype
            and same_layout(source.meta, update.outs[0].meta.stride())
        )
        if not is_result and last_read.get(out.buffer, -1) >= later:
            return False
    return True


def _same_view(one: Traced, other: Traced) -> bool:
    return (
        one.buffer == other.buffer
        and one.meta.storage_offset() == other.meta.storage_offset()
        and tuple(one.meta.shape) == tuple(other.meta.shape)
        and same_layout(one.meta, other.meta.stride())
    )


def _merge(
    draft: Draft, operand: Traced, out: Traced, last_read: dict[int, int], last_write: dict[int, int]
) -> None:
    root = draft.root(operand.buffer)[0]
    if draft.buffers[root].kind is BufferKind.STATE:
        winner, loser = root, out.buffer
    else:
        winner, loser = out.buffer, root
    draft.buffers[loser].part_of, draft.buffers[loser].offset = winner, 0
    for last in (last_read, last_write):
        last[winner] = max(last.get(winner, -1), last.pop(loser, -1))


def reuse_added_operands(draft: Draft) -> None:
    """Let a result that is made in pieces take the bytes of what they add, such as a residual: each piece
    reads of it what its own result then replaces."""
    last_read, last_write = _last_touches(draft)
    for first, pieces in results_in_pieces(draft):
        added, out = pieces[0].added, pieces[0].target
        root, _ = draft.root(added.buffer)
        source, target = draft.buffers[root], draft.buffers[out.buffer]
        last = first + 2 * len(pieces) - 1
        if (
            source.kind is BufferKind.ACTIVATION
            and target.kind in (BufferKind.ACTIVATION, BufferKind.OUTPUT)
            and target.part_of is None
            and root != out.buffer
            and source.nbytes == target.nbytes
            and all(_same_place(draft, piece, root) for piece in pieces)
            and last_write.get(root, last) < first
            and last_read[root] < last
        ):
            _merge(draft, added, out, last_read, last_write)


def _same_place(draft: Draft, piece: Piece, root: int) -> bool:
    """Whether what a piece adds lies in the buffer `root` as the piece's result in the whole result's."""
    buffer, offset = draft.root(piece.added.buffer)
    return (
        buffer == root
        and offset + piece.added.offset == piece.target.offset
        and piece.added.meta.dtype == piece.target.meta.dtype
        and piece.added.meta.shape == piece.target.meta.shape
        and same_layout(piece.added.meta, piece.target.meta.stride())
    )


def drop_copies_onto_themselves(draft: Draft) -> None:
    """Remove copies whose source and target became the same bytes (a state updated in place)."""

    def is_same(step: StepDraft) -> bool:
        if step.kernel != "copy":
            return False
        source, out = step.args["source"], step.outs[0]
        places = [
            (root, offset + tensor.offset)
            for tensor in (source, out)
            for root, offset in [draft.root(tensor.buffer)]
        ]
        return (
            places[0] == places[1]
            and source.meta.dtype == out.meta.dtype
            and same_layout(source.meta, out.meta.stride())
        )

    draft.steps[:] = [step for step in draft.steps if not is_same(step)]


def buffers_touched(draft: Draft) -> Collection[int]:
    """Root buffers that any step reads or writes, in order of first touch."""
    touched: dict[int, None] = {}
    for step in draft.steps:
        for tensor in (*step.operands(), *step.outs, *step.scratch):
            touched.setdefault(draft.root(tensor.buffer)[0])
    return touched
