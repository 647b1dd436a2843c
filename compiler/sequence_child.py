"""Runs of a program in the measuring process, each step timed; `occ.sequence` makes the request."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from occ.child import Answer
from occ.contention import Contention
from occ.numbers import CACHES_NBYTES, Pool, in_huge_pages, tensor_at
from occ.reading import Sample
from occ.runtime_stub.tensors import dtype_named
from occ.units import ALIGNMENT, round_up

COLD_NBYTES = 4 * CACHES_NBYTES
"""Memory that weights are taken from in turn, over and over."""

FEWEST_PASSES = 1
MOST_PASSES = 9
ENOUGH_SECONDS = 1.0
"""The steps are run until they have computed for so long in all, within these numbers of passes. Drafts are
many, and what disturbs a pass of more than a second disturbs few of its steps."""

Pass = dict[int, float]
"""Seconds of every step, by its place in the program, or of a step of each case, by its number."""

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Passes:
    """What a step of each case took: seconds `alone`, and `beside` a file being read (empty without one, and
    for resident weights). `contended`: the share of contention while the former was timed."""

    alone: Pass
    beside: Pass
    contended: float


class Memory:
    """The bytes that a sequence's values lie in: one arena, and weights that move on at every pass, so that
    no cache has them, or, where they are resident, stay."""

    def __init__(self, request: Answer, pool: Pool) -> None:
        self._pool = pool
        self._values: list[list[Any]] = request["values"]
        self._weights: dict[int, int] = dict(request["weights"])
        self._offsets: dict[int, int] = dict(request["offsets"])
        self._arena = in_huge_pages(request["nbytes"])
        pool.fill(self._arena, torch.float32)
        self._next = 0
        self._stays = request["resident"] and sum(self._weights.values()) <= COLD_NBYTES
        # Integers index tables and divide; zero is an index of every table.
        for value in self._values:
            _, buffer, _, dtype, *_ = value
            if buffer in self._offsets and not dtype_named(dtype).is_floating_point:
                _view(self._arena, self._offsets[buffer], value).zero_()

    def tensors(self) -> dict[int, Tensor]:
        """The values by number; weights that do not stay are in bytes that were not touched for as long as
        possible."""
        if self._stays:
            self._next = 0
        placed: dict[int, tuple[Tensor, int]] = {}
        found: dict[int, Tensor] = {}
        for value in self._values:
            id, buffer, _, dtype, _, _, packing = value
            if buffer in self._weights:
                if buffer not in placed:
                    placed[buffer] = self._cold(self._weights[buffer], packing[0] if packing else dtype)
                found[id] = _view(*placed[buffer], value)
            else:
                found[id] = _view(self._arena, self._offsets[buffer], value)
        return found

    def _cold(self, nbytes: int, dtype: str) -> tuple[Tensor, int]:
        """Bytes for a weight: where the last one ended, from the beginning where the memory ends."""
        size = max(COLD_NBYTES, round_up(nbytes, ALIGNMENT))
        [memory] = self._pool.copies(size, dtype_named(dtype), 1)
        if self._next + nbytes > memory.numel():
            self._next = 0
        first = self._next
        self._next += round_up(nbytes, ALIGNMENT)
        return memory, first


def sequence_seconds(
    request: Answer, pool: Pool, scope: Mapping[str, Any], sample: Sample | None = None
) -> Passes:
    """Runs of the steps, alone and while `sample` is being read: for every step the median of a few passes,
    then the mean of each case.

    The first pass, in which kernels are set up, does not count. A step that raises on made-up numbers is left
    out, and with it a case where no other step is one.
    """
    memory = Memory(request, pool)
    steps: list[tuple[int, str, list[int]]] = request["steps"]
    codes = {text: compile(text, "<step>", "eval") for _, text, _ in steps}
    alone: list[Pass] = []
    beside: list[Pass] = []
    failed: set[int] = set()
    spent, contention = 0.0, Contention()
    for count in range(MOST_PASSES + 1):
        if count > FEWEST_PASSES and spent >= ENOUGH_SECONDS:
            break
        tensors = memory.tensors()
        calls = [_call(codes[text], ids, tensors, scope) for _, text, ids in steps]
        if not count:
            _timed(calls, failed)
            continue
        with contention.watched():
            taken = _timed(calls, failed)
        spent += sum(taken.values())
        alone.append(taken)
        if sample is not None and not request["resident"]:
            beside.append(sample.beside(partial(_timed, calls, failed)))
    cases = [case for case, _, _ in steps]
    return Passes(_of_cases(cases, alone), _of_cases(cases, beside), contention.share)


def _of_cases(cases: Sequence[int], passes: Sequence[Pass]) -> Pass:
    medians: dict[int, list[float]] = {}
    for index, case in enumerate(cases):
        times = [taken[index] for taken in passes if index in taken]
        if times:
            medians.setdefault(case, []).append(statistics.median(times))
    return {case: statistics.fmean(times) for case, times in medians.items()}


def _call(code: Any, ids: Sequence[int], tensors: Mapping[int, Tensor], scope: Mapping[str, Any]) -> Call:
    names = {**scope, **{f"v{id}": tensors[id] for id in ids}}
    return lambda: eval(code, names)


def _timed(calls: Sequence[Call], failed: set[int]) -> Pass:
    """Seconds of every call; those that raise join `failed` and are not called again."""
    found: Pass = {}
    for index, call in enumerate(calls):
        if index in failed:
            continue
        begin = perf_counter()
        try:
            call()
        except Exception:
            failed.add(index)
            continue
        found[index] = perf_counter() - begin
    return found


def _view(memory: Tensor, first: int, value: Sequence[Any]) -> Tensor:
    _, _, offset, *facts = value
    return tensor_at(memory, first + offset, *facts)
