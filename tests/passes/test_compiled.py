"""Loops in C: the same bits as those in Python, and no need of a compiler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import problems
from weight_programs import seconds

from occ.clibrary import built
from occ.ir import Program, Reader
from occ.passes import compiled, residency, timing
from occ.passes.liveness import liveness
from occ.passes.sizing import size
from occ.passes.timing import TimeModel, predict

times = st.floats(0.0, 4.0)


@st.composite
def models(draw: st.DrawFn) -> TimeModel:
    segments, loads = draw(st.integers(1, 12)), draw(st.integers(0, 8))
    submitted = sorted(draw(st.lists(st.integers(0, loads), min_size=segments, max_size=segments)))
    submitted[-1] = loads
    reads = draw(st.lists(times, min_size=loads, max_size=loads))
    return TimeModel(
        np.array(draw(st.lists(times, min_size=segments, max_size=segments))),
        np.array(submitted, dtype=np.int64),
        np.array([draw(st.integers(-1, loads - 1)) for _ in range(segments)], dtype=np.int64),
        np.array(reads),
        np.array(draw(st.lists(times, min_size=loads, max_size=loads))),
        range(draw(st.integers(0, loads)), loads),
        draw(st.sampled_from([1.0, 1.1, 1.7])),
        draw(times),
        draw(times),
    )


def outcome(model: TimeModel) -> list[bytes]:
    after = (model.starts, model.stops, model.begins, model.ends, np.array(model.now))
    return [array.tobytes() for array in after]


@given(st.data(), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_runs_have_the_same_bits(data: st.DataObject, runs: int) -> None:
    assert compiled.loops() is not None, "these tests need a C compiler"
    model = data.draw(models())
    twin = TimeModel(
        model.seconds, model.submitted, model.awaited, model.reads, model.lags, model.wrapping,
        model.slowdown, 0.0, model.response,
    )  # fmt: skip
    for _ in range(runs):
        model.run()
        twin.run_in_python()
        assert outcome(model) == outcome(twin)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_sizings_are_the_same(case: tuple[Program, list[float], Reader, int]) -> None:
    program, durations, reader, pool_nbytes = case
    costs = seconds(durations)

    def sized() -> tuple[object, object]:
        found = size(program, liveness(program), costs, reader, pool_nbytes)
        return found, predict(found, costs, reader)

    fast = sized()
    with pytest.MonkeyPatch.context() as patch:
        for module in (timing, residency):
            patch.setattr(module, "loops", lambda: None)
        assert sized() == fast


@pytest.fixture
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCC_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_fresh")
def test_no_compiler_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert compiled.loops.__wrapped__() is None


@pytest.mark.usefixtures("_fresh")
def test_no_cache_directory_is_needed(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert compiled.loops.__wrapped__() is None


@pytest.mark.usefixtures("_fresh")
def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.loops.__wrapped__() is not None
    [library] = (tmp_path / "cache").iterdir()
    assert library.suffix == ".so"
    monkeypatch.setenv("PATH", "")
    assert compiled.loops.__wrapped__() is not None
    monkeypatch.setenv("OCC_CACHE_DIR", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / library.name).write_bytes(b"damaged")
    assert compiled.loops.__wrapped__() is None


@pytest.mark.usefixtures("_fresh")
def test_a_library_that_does_not_work_is_not_kept(tmp_path: Path) -> None:
    assert built(compiled.SOURCE, lambda path: False) is None
    assert not (tmp_path / "cache").exists()
