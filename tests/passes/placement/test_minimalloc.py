"""The command on MiniMalloc's CSV files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from occ.errors import UsageError
from occ.passes.placement.__main__ import main
from occ.passes.placement.minimalloc import read_items

EXAMPLE = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\nb4,9,21,4\nb5,0,21,4\n"
INSTANCES = Path(__file__).parents[3] / ".." / "shared" / "data" / "minimalloc"


def write(folder: Path, text: str) -> Path:
    path = folder / "buffers.csv"
    path.write_text(text)
    return path


def overlaps(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for i, one in enumerate(rows):
        for other in rows[:i]:
            in_time = int(one["lower"]) < int(other["upper"]) and int(other["lower"]) < int(one["upper"])
            a, b = int(one["offset"]), int(other["offset"])
            if in_time and a < b + int(other["size"]) and b < a + int(one["size"]):
                found.append((one["id"], other["id"]))
    return found


def test_offsets_are_written_beside_what_was_read(tmp_path: Path) -> None:
    source, target = write(tmp_path, EXAMPLE), tmp_path / "placed.csv"
    assert main([str(source), "--capacity", "12", "--output", str(target)]) == 0
    lines = target.read_text().splitlines()
    assert lines[0] == "id,lower,upper,size,offset"
    assert [line.rpartition(",")[0] for line in lines[1:]] == EXAMPLE.splitlines()[1:]
    assert overlaps(target) == []
    assert read_items(target) == read_items(source)


def test_alignment_is_read_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path, "id,lower,upper,size,alignment\na,0,2,10,1\nb,0,2,10,8\n")
    assert main([str(source), "--capacity", "20"]) == 0
    out, err = capsys.readouterr()
    assert out == "id,lower,upper,size,alignment,offset\na,0,2,10,1,10\nb,0,2,10,8,0\n"
    assert err == "placed 2 buffers in 20 bytes (the least possible; bound 20, method dive)\n"


def test_too_small_a_capacity_names_bound_and_best_height(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(write(tmp_path, EXAMPLE)), "--capacity", "11"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not fit in 11 bytes: the bound is 12, the best height found 12" in line


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("id,lower,upper\na,0,1\n", "lacks the column 'size'"),
        ("id,lower,upper,size,gaps\na,0,1,1,\n", "unknown column 'gaps'"),
        ("id,lower,upper,size\na,0,x,1\n", "line 2: lower, upper, size and alignment must be whole numbers"),
        ("id,lower,upper,size\na,0,1\n", "line 2: lower, upper, size and alignment must be whole numbers"),
        ("id,lower,upper,size\na,0,1,4\nb,3,3,4\n", r"line 3: buffer 'b' has lifetime \[3, 3\)"),
        ("id,lower,upper,size\na,0,1,-4\n", "line 2: buffer 'a'.*size -4"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, text: str, fault: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=fault):
        read_items(path)
    assert main([str(path), "--capacity", "10"]) == 2


def test_a_missing_file_and_a_bad_option_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.csv"), "--capacity", "10"]) == 2
    path = str(write(tmp_path, EXAMPLE))
    assert main([path, "--capacity", "lots"]) == 2
    assert main([path, "--capacity", "12", "--effort", "-1"]) == 2
    assert main([path, "--capacity", "12", "--output", str(tmp_path / "no" / "folder.csv")]) == 2
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())


@pytest.mark.skipif(not INSTANCES.is_dir(), reason=f"MiniMalloc's benchmark instances are not in {INSTANCES}")
@pytest.mark.parametrize("name", ["B.1048576.csv", "K.1048576.csv"])
def test_a_challenging_instance_fits_and_is_proven(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / name
    assert main([str(INSTANCES / name), "--capacity", "1048576", "--output", str(target)]) == 0
    assert overlaps(target) == []
    assert "in 1048576 bytes (the least possible; bound 1048576" in capsys.readouterr().err
