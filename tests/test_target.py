"""The target profile: its file, its digest, the cache, and measuring this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from other_processes import computing

from occ import cache, reading, target
from occ.contention import PRESSURE
from occ.errors import InternalError, UsageError
from occ.host import cpus
from occ.ir import Footprint, StepCost
from occ.progress import as_progress
from occ.target import Target, fitted, local_target, openmp_settings, read_target, rounded

PROFILE = Target(
    name="board",
    cpu="Cortex-A76",
    arch="aarch64",
    isa=("neon", "dotprod"),
    torch="2.13.0",
    threads=4,
    bandwidth=4.1e8,
    overhead=1.2e-4,
    slowdown=1.1,
    interruption=7e-5,
    lag=1.5,
    response=1.1e-4,
    product_rate=1e11,
    memory_rate=1e10,
    spin="passive",
    kernels={"relu": StepCost(1.5e-5, 65536, 1.25), "exp of doubles": StepCost(2e-5, 0)},
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCC_CACHE_DIR", str(tmp_path / "cache"))


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    PROFILE.write(tmp_path / "p.json")
    assert read_target(tmp_path / "p.json") == PROFILE
    assert PROFILE.reader.seconds(41_000_000) == pytest.approx(0.1 + 1.2e-4)


def test_the_digest_leaves_out_name_and_kernels() -> None:
    assert replace(PROFILE, name="other", kernels={}).digest == PROFILE.digest
    assert len(PROFILE.digest) == 64
    for change in ({"bandwidth": 4.2e8}, {"threads": 2}, {"spin": "default"}, {"torch": "2.11.0"}):
        assert replace(PROFILE, **change).digest != PROFILE.digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bandwidth": 0}, "bandwidth is 0"),
        ({"bandwidth": "fast"}, "could not convert"),
        ({"slowdown": 0.5}, "slowdown 0.5"),
        ({"interruption": -1}, "interruption -1"),
        ({"response": -1}, "response -1"),
        ({"product_rate": 0}, "product_rate is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"spin": "often"}, "spin is 'often'"),
        ({"format": 99}, "its format is 99"),
        ({"kernels": {"relu": [1]}}, "not a target profile"),
    ],
)
def test_a_bad_profile_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "p.json"
    PROFILE.write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match=words):
        read_target(path)


def test_what_is_no_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(UsageError, match="cannot read"):
        read_target(path)
    for text in ("{", "[]", "{}", '{"format": 1}'):
        path.write_text(text)
        with pytest.raises(UsageError, match="not a target profile"):
            read_target(path)


def test_known_costs_stay() -> None:
    grown = PROFILE.with_kernels({"relu": StepCost(9.0, 0), "exp": StepCost(1.0, 0)})
    assert grown.kernels == {**PROFILE.kernels, "exp": StepCost(1.0, 0)}
    target.keep_kernels(PROFILE, {"relu": StepCost(1.0, 0)})
    target.keep_kernels(PROFILE, {"relu": StepCost(2.0, 0), "exp": StepCost(3.0, 1)})
    assert target.cached_kernels(PROFILE) == {"relu": StepCost(1.0, 0), "exp": StepCost(3.0, 1)}


def test_rounding_is_to_significant_digits() -> None:
    assert [rounded(x, 2) for x in (1.7649e9, 0.0000553, 0.0, 999.0)] == [1.8e9, 5.5e-5, 0.0, 1000.0]


def test_openmp_settings() -> None:
    assert openmp_settings(4, "passive") == {
        "OMP_NUM_THREADS": "4",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": None,
    }
    assert openmp_settings(1, "1000")["GOMP_SPINCOUNT"] == "1000"
    assert openmp_settings(1, "default")["OMP_WAIT_POLICY"] is None


def test_this_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SAMPLE_NBYTES", 16 << 20)
    first = local_target(tmp_path, threads=1)
    assert first.threads == 1
    assert first.spin == "default"
    assert first.bandwidth > 1e6
    assert 0 <= first.overhead < 1
    assert first.slowdown >= 1
    assert 0 <= first.interruption < 1
    assert 0 <= first.response < 1
    assert not list(tmp_path.glob(".occ-profile*"))

    def fail(*args: object) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(target, "Child", fail)
    assert local_target(tmp_path, threads=1) == first
    with monkeypatch.context() as patch:
        # As where an artifact says what torch would.
        patch.setattr("occ.runtime_stub.packed.probe", fail)
        assert local_target(tmp_path, threads=1, packing=first.packing) == first
    assert local_target(tmp_path, threads=1, packing="of another machine") == first
    target.keep_kernels(first, {"relu": StepCost(1.0, 0)})
    assert local_target(tmp_path, threads=1).kernels == {"relu": StepCost(1.0, 0)}


SIZES = (256 << 10, 1 << 20, 4 << 20)
RATES = {
    "product_rate": 1.234e11,
    "memory_rate": 5.678e9,
    "load_nbytes": 1 << 18,
    "load_seconds": 1e-4,
    "lone_seconds": 4e-4,
}
LATE = (2.0, 2.5, 9.0)
REQUESTS = [(nbytes, 5.55e-5 + nbytes / 1.234e9) for nbytes in SIZES]


def test_bandwidth_and_overhead_are_a_line_through_the_requests() -> None:
    assert fitted(REQUESTS) == pytest.approx((1.234e9, 5.55e-5))
    noisy = [
        (nbytes, seconds * factor)
        for (nbytes, seconds), factor in zip(REQUESTS, (1.1, 0.9, 1.05), strict=True)
    ]
    bandwidth, overhead = fitted(noisy)
    assert all(0.85 < (overhead + nbytes / bandwidth) / seconds < 1.15 for nbytes, seconds in noisy)
    # Large requests that are slower for their size than small ones: no overhead is negative.
    bandwidth, overhead = fitted([(nbytes, (nbytes / 1e9) * (1 + nbytes / 1e7)) for nbytes in SIZES])
    assert overhead == 0.0
    assert 6e8 < bandwidth < 1e9


def test_a_damaged_cache_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "start": {},
        "rates": {
            "requests": [
                [n, seconds, late * seconds] for (n, seconds), late in zip(REQUESTS, LATE, strict=True)
            ],
            **RATES,
        },
    }
    streaming = {"passive": 0.00128, "1000": 0.00127, "10000": 0.00126, "100000": 0.01, "default": 0.1}
    times = {
        policy: {"alone": 0.001, "beside": 0.0012, "streaming": seconds, "contended": 0.05}
        for policy, seconds in streaming.items()
    }
    times["passive"]["beside"] = 0.00128

    class FakeChild:
        def __init__(self, module: str, settings: dict[str, str | None]) -> None:
            self.policy = (
                "passive" if settings["OMP_WAIT_POLICY"] else settings["GOMP_SPINCOUNT"] or "default"
            )

        def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
            return times[self.policy] if request["do"] == "compute" else answers[request["do"]]

        def __enter__(self) -> FakeChild:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(reading, "SAMPLE_NBYTES", 8 << 20)
    monkeypatch.setattr(target, "Child", FakeChild)
    monkeypatch.setattr(target, "cpus", lambda: 2)
    monkeypatch.setattr(target, "measured_footprint", lambda settings: Footprint(1 << 28, 4096, 1 << 17))
    lines: list[str] = []
    first = local_target(tmp_path, threads=2, progress=as_progress(lines.append))
    assert lines == []
    # Spinning a little is not worth 1 %, and spinning without end costs a hundred times more.
    assert (first.spin, first.slowdown) == ("passive", 1.28)
    assert (first.bandwidth, first.overhead) == (1.2e9, 5.6e-5)
    assert (first.product_rate, first.memory_rate) == (1.2e11, 5.7e9)
    # 0.1 ms less what reading 256 KiB at 1.2 GB/s slows computing: 0.22 ms, of which 0.28 / 1.28 are lost.
    assert first.interruption == 5.4e-5
    assert first.lag == 1.5
    # 0.4 ms less 0.056 ms for the request and 0.22 ms for 256 KiB.
    assert first.response == pytest.approx(1.3e-4, rel=0.1)
    # What counts is a program that streams.
    times["1000"] = {"alone": 0.001, "beside": 0.001, "streaming": 0.0012, "contended": 1.0}
    [entry] = (tmp_path / "cache").glob("target-*.json")
    entry.write_text(entry.read_text()[:-10])
    second = local_target(tmp_path, threads=2, progress=as_progress(lines.append))
    assert (second.spin, second.slowdown) == ("1000", 1.0)
    # Four processes of five at 0.05 and one at 1: 0.24.
    assert lines == [target.BUSY]


def test_it_is_said_where_other_processes_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not PRESSURE.exists():
        pytest.skip("NOT TESTED: this system does not count how long threads wait for a processor")
    monkeypatch.setattr(reading, "SAMPLE_NBYTES", 16 << 20)
    lines: list[str] = []
    with computing(2 * cpus()):
        local_target(tmp_path, threads=1, progress=as_progress(lines.append))
    assert lines == [target.BUSY]
    local_target(tmp_path, threads=1, progress=as_progress(lines.append))
    assert lines == [target.BUSY]


def test_a_helper_that_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SAMPLE_NBYTES", 8 << 20)
    monkeypatch.setattr(target, "Child", lambda module, settings: _Child("no_such_module", settings))
    with pytest.raises(InternalError, match=r"measures this machine ended with code 1.*no_such_module"):
        local_target(tmp_path, threads=1)


def test_impossible_targets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threads cannot be used"):
        local_target(tmp_path, threads=cpus() + 1)
    with pytest.raises(UsageError, match="threads cannot be used"):
        local_target(tmp_path, threads=0)
    with pytest.raises(UsageError, match="not a directory"):
        local_target(tmp_path / "nowhere")


_Child = target.Child

# The cache directory


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("OCC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "occ"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_dir() == tmp_path / "home" / ".cache" / "occ"


def test_what_is_written_is_read_and_cleared() -> None:
    assert cache.read_json("x.json") is None
    assert cache.cache_nbytes() == 0
    path = cache.write_json("x.json", {"a": [1, 2.5]})
    assert cache.read_json("x.json") == {"a": [1, 2.5]}
    assert cache.cache_nbytes() == path.stat().st_size
    path.write_text("{")
    assert cache.read_json("x.json") is None
    assert cache.clear() == 1
    assert not cache.cache_dir().exists()
    assert cache.clear() == 0


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCC_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.raises(UsageError, match="set OCC_CACHE_DIR"):
        cache.write_json("x.json", 1)
