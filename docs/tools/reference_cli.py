"""docs/reference-cli.md: every command and option, from the argument parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from docs.tools.markdown import code, table
from occ import cli
from occ.runtime_stub import entry


def cli_page(made: str) -> str:
    """The page, `made` below its title."""
    parser = cli._parser()
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    shared = _shared(commands)
    listed = (
        (f"[`occ {name}`](#occ-{name})", _text(command.description))
        for name, command in commands.choices.items()
    )
    parts = [
        f"# Command line reference\n\n{made}\n\n"
        "What the options mean for a plan, sizes, MODEL.py, exit codes and environment variables:"
        " [commands.md](commands.md).\n",
        table(
            ("command", "what it does"),
            [*listed, ("[`python MODEL.occ`](#python-modelocc)", "run it where there is no occ")],
        ),
        "Every command also takes\n\n" + table(("option", ""), _rows(shared)),
    ]
    for name, command in commands.choices.items():
        actions = [action for action in command._actions if action.dest not in _names(shared)]
        parts.append(f"## occ {name}\n\n{_section(f'occ {name}', command, actions)}")
    manifest = {"model": "the model", "occ": "", "inputs": [], "outputs": []}
    runtime = entry._parser("MODEL.occ", manifest)
    actions = [action for action in runtime._actions if action.dest != "help"]
    parts.append(
        "## python MODEL.occ\n\nThe artifact by itself, without occ; `--help` names its inputs and outputs."
        "\n\n" + _section("python MODEL.occ", runtime, actions)
    )
    return "\n".join(parts)


def _section(usage: str, parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    positional = " ".join(_name(action) for action in actions if not action.option_strings)
    required = " ".join(
        f"{action.option_strings[0]} {_name(action)}"
        for action in actions
        if action.option_strings and action.required
    )
    optional = any(action.option_strings and not action.required for action in actions)
    line = " ".join(filter(None, (usage, positional, required, "[options]" if optional else "")))
    text = "" if usage.startswith("python") else f"{_text(parser.description)}\n\n"
    return f"{code(line)}\n\n{text}{table(('argument', ''), _rows(actions))}"


def _rows(actions: list[argparse.Action]) -> Iterator[tuple[str, str]]:
    for action in actions:
        shown = ", ".join(action.option_strings)
        value = _name(action) if action.nargs != 0 else ""
        notes = [_text(action.help)]
        if isinstance(action, argparse._AppendAction):
            notes.append("May be given more than once.")
        if action.required and action.option_strings:
            notes.append("Required.")
        yield code(" ".join(filter(None, (shown, value)))), " ".join(filter(None, notes))


def _name(action: argparse.Action) -> str:
    """What stands for an argument's value."""
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper()


def _text(text: str | None) -> str:
    """A help text as sentences: begun by a capital letter, ended by a full stop."""
    text = (text or "").replace("%%", "%").strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def _shared(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> list[argparse.Action]:
    """Options that every command has."""
    first, *others = commands.choices.values()
    return [
        action
        for action in first._actions
        if all(action.dest in {other.dest for other in parser._actions} for parser in others)
        and action.option_strings
    ]


def _names(actions: list[argparse.Action]) -> set[str]:
    return {action.dest for action in actions}
