"""Imports go one way: ir, units and errors; then passes, lowering and codegen; then the pipeline; then the
command line. What travels with an artifact imports nothing of occ."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "compiler": "occ",
    "passes": "occ.passes",
    "codegen": "occ.codegen",
    "runtime_stub": "occ.runtime_stub",
}
FOUNDATION = {"occ.ir", "occ.units", "occ.errors", "occ.cache", "occ.clibrary"}
TOP = ("occ.pipeline", "occ.cli", "occ.__main__")
ON_A_DEVICE = {"torch", "numpy", "triton"}


def modules() -> dict[str, Path]:
    """Every module of occ, by its import name."""
    found = {}
    for folder, package in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            found[name] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The modules that a module names in import statements, wherever they stand; absolute names."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield submodule if submodule in MODULES else source


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def room(*packages: str) -> list[str]:
    return [name for name in MODULES if within(name, *packages)]


def test_the_rooms_are_found() -> None:
    for package in ("occ.ir", "occ.verify", "occ.passes.liveness"):
        assert package in MODULES


@pytest.mark.parametrize("name", sorted(FOUNDATION))
def test_the_foundation_imports_only_itself(name: str) -> None:
    for module in imports(name):
        assert module in FOUNDATION or module.partition(".")[0] in sys.stdlib_module_names


def test_the_verifier_knows_none_of_the_passes() -> None:
    for module in imports("occ.verify"):
        assert module in FOUNDATION or module.partition(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("name", room("occ.passes"))
def test_passes_import_neither_torch_nor_other_rooms(name: str) -> None:
    for module in imports(name):
        assert not within(module, "torch")
        if within(module, "occ"):
            assert module in FOUNDATION or within(module, "occ.passes")


@pytest.mark.parametrize("name", room("occ.runtime_stub"))
def test_the_runtime_needs_nothing_of_occ(name: str) -> None:
    source = ast.parse(MODULES[name].read_text())
    absolute = [
        module
        for node in ast.walk(source)
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    ]
    for module in absolute:
        top = module.partition(".")[0]
        assert top in ON_A_DEVICE or top in sys.stdlib_module_names
    for module in imports(name):
        assert not within(module, "occ") or within(module, "occ.runtime_stub")


@pytest.mark.parametrize("name", room("occ.lower", "occ.codegen", "occ.passes", "occ.rewrite", "occ.capture"))
def test_stages_do_not_know_who_calls_them(name: str) -> None:
    for module in imports(name):
        assert not within(module, *TOP)


@pytest.mark.parametrize("name", [name for name in MODULES if not within(name, *TOP)])
def test_only_the_command_line_imports_the_command_line(name: str) -> None:
    for module in imports(name):
        assert not within(module, "occ.cli", "occ.__main__")
