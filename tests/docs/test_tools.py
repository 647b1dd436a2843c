"""How pages are read, and output is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.tools.matching import matched, updated, words
from docs.tools.named import missing_in_block, missing_in_prose, missing_links
from docs.tools.pages import Inline, Kind, PageError, blocks, inline
from docs.tools.running import run_page


def fenced(language: str, text: str, above: str = "") -> str:
    return f"{above}\n```{language}\n{text}\n```\n"


def kinds(text: str) -> list[Kind]:
    return [block.kind for block in blocks("page", text)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (fenced("sh", "ls"), Kind.SHELL),
        (fenced("python", "x = 1"), Kind.PYTHON),
        (fenced("python", "x = 1", "Write this to `model.py`:\n"), Kind.FILE),
        (fenced("dockerfile", "FROM x", "`Dockerfile`:\n"), Kind.FILE),
        (fenced("text", "a -> b"), Kind.FIGURE),
        (fenced("sh", "ls", "<!-- on the device -->"), Kind.DEVICE),
        (fenced("sh", "make demo", "<!-- not run: takes minutes -->"), Kind.NAMED),
        (fenced("python", "x = 1", "<!-- quoted from: compiler/ir.py -->"), Kind.QUOTED),
    ],
)
def test_what_a_block_is_for(text: str, kind: Kind) -> None:
    assert kinds(text) == [kind]


def test_output_stands_directly_below_a_command() -> None:
    command, output = fenced("sh", "ls"), fenced("text", "file")
    assert kinds(command + output) == [Kind.SHELL, Kind.OUTPUT]
    assert kinds(f"{command}\nIt prints:\n{output}") == [Kind.SHELL, Kind.FIGURE]
    varies = blocks("page", f"{command}\n<!-- output varies: speeds -->{output}")[1]
    assert (varies.kind, varies.varies, varies.subject) == (Kind.OUTPUT, True, "speeds")


@pytest.mark.parametrize(
    "text",
    [
        fenced("", "x"),
        fenced("rust", "x"),
        fenced("text", "$ occ compile model.py"),
        fenced("text", "make demo"),
        fenced("sh", "ls", "<!-- skip -->"),
        fenced("sh", "ls", "<!-- not run -->"),
        fenced("sh", "ls", "<!-- on the device: why -->"),
        "text\n\n    occ compile model.py\n",
        "- item\n  ```sh\n  ls\n  ```\n",
        "```sh\nls\n",
    ],
)
def test_what_says_nothing_of_itself_is_refused(text: str) -> None:
    with pytest.raises(PageError, match=r"page:\d+: "):
        blocks("page", text)


def test_lines_are_compared_by_their_first_words() -> None:
    assert words("[   1.4 s] captured 42 operators") == ("captured", "operators")
    assert words("budget 8 MB: 7.66 MB in all, arena 7.52 MB") == ("budget", "in", "all", "arena")
    assert words("  12  ooo###---...  7.2 MB  blocks.0") == ("blocks",)
    assert matched("a 1 MB\nb 2", "first\na 3.5 kB\nmore\nb 7\n") == ([1, 3], "")
    assert matched("a\n...\nc", "a\nb\nc")[1] == ""
    assert "'c 3', is not printed after 'b'" in matched("b\nc 3", "c 1\nb\n")[1]


def test_output_is_brought_up_to_date() -> None:
    assert updated("a 1\nb 2\n", "a 5\nnew\nb 6\n") == "a 5\nnew\nb 6\n"
    assert updated("...\nb 2\n...\n", "a 5\nb 6\nc 7\n") == "...\nb 6\n...\n"
    assert updated("...\nb 2\nold 3\n", "a 5\nb 6\nnew 7\n", varies=True) == "...\nb 6\nnew 7\n"
    assert updated("...\ngone\n", "a\n") == "...\ngone\n"


def test_a_page_is_run_in_order(tmp_path: Path) -> None:
    text = "".join(
        [
            fenced("python", "number = 1", "`one.py`:\n"),
            fenced("sh", "ls; cp one.py two.py; scp one.py device:"),
            fenced("text", "examples\none.py"),
            fenced("python", "import two\ntotal = two.number + 1"),
            fenced("python", "print('the total is', total)"),
            fenced("text", "the total is 2"),
            fenced("sh", "cat one.py; ! python -c 'import occ' 2> trouble", "<!-- on the device -->"),
            fenced("text", "number = 1"),
        ]
    )
    assert [outcome.failure for outcome in run_page("page", text, tmp_path / "run")] == [""] * 8


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (fenced("sh", "echo a\nfalse\necho b"), "exit code 1"),
        (fenced("sh", "false | cat"), "exit code 1"),
        (fenced("python", "1 / 0"), "raised an exception"),
        (fenced("sh", "echo one") + fenced("text", "two"), "'two', is not printed"),
    ],
)
def test_what_fails_is_told(text: str, failure: str, tmp_path: Path) -> None:
    assert failure in run_page("page", text, tmp_path / "run")[-1].failure


@pytest.mark.parametrize(
    "command",
    [
        "make demo",
        "occ compile model.py --budget 8MB -o model.occ && occ run model.occ --input x=x.npy > out",
        "python model.occ --input x=x.npy --stats",
        "OMP_NUM_THREADS=1 python -m pytest tests/docs",
        "pip install -r examples/requirements.txt",
        "pip install 'occ-compiler[plot]'",
        "python -m occ.passes.placement FILE.csv --capacity 1MiB",
    ],
)
def test_commands_that_exist(command: str) -> None:
    [block] = blocks("page", fenced("sh", command, "<!-- not run: a test -->"))
    assert list(missing_in_block(block)) == []


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        ("make tea", "no target tea"),
        ("occ brew model.py", "brew"),
        ("occ compile model.py --sugar", "--sugar"),
        ("python model.occ --sugar", "--sugar"),
        ("python -m pytest tests/tea", "tests/tea"),
        ("python benchmarks/tea.py", "benchmarks/tea.py"),
        ("python -m occ.passes.placement --sugar", "--sugar"),
        ("pip install -r examples/tea.txt", "examples/tea.txt"),
        ("pip install 'occ-compiler[tea]'", "tea"),
        ("brew tea", "brew"),
    ],
)
def test_commands_that_do_not_exist(command: str, trouble: str) -> None:
    [block] = blocks("page", fenced("sh", command, "<!-- not run: a test -->"))
    [found] = missing_in_block(block)
    assert trouble in found


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("occ sweep --measure", True),
        ("occ sweep --sugar", False),
        ("occ brew", False),
        ("make test", True),
        ("make tea", False),
        ("compiler/ir.py", True),
        ("compiler/tea.py", False),
        ("a/path/of/somebody", True),
        ("occ.verify.verify(plan)", True),
        ("occ.verify.tea", False),
        ("two words", True),
    ],
)
def test_names_in_prose(text: str, there: bool) -> None:
    [span] = inline("page", f"See `{text}`.")
    assert span == Inline("page", 1, text)
    assert bool(list(missing_in_prose(span))) != there


def test_links() -> None:
    text = "[a](docs/tutorial.md#install) [b](https://example.org) [c](docs/tea.md) [d](docs/tutorial.md#tea)"
    assert [trouble.split(" leads")[0] for trouble in missing_links("README.md", text)] == [
        "README.md: the link docs/tea.md",
        "README.md: the link docs/tutorial.md#tea",
    ]
