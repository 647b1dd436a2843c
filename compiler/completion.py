"""Completion scripts for shells, made from the argument parser, so that they know what it knows."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

WORDS: Mapping[str, tuple[str, ...]] = {"budget": ("min", "auto", "unlimited")}
"""What may stand for an argument that takes other texts too, by its name."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An option (`flags`) or a positional argument (none). `takes` says whether a value follows: one of
    `words`, a file where `is_file` (of `suffixes`, or any), or something else."""

    flags: tuple[str, ...]
    name: str
    text: str
    takes: bool
    words: tuple[str, ...]
    is_file: bool
    suffixes: tuple[str, ...]
    repeats: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A command, with its options and positional arguments."""

    name: str
    text: str
    options: tuple[Argument, ...]
    positionals: tuple[Argument, ...]


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for `shell`, one of SHELLS, that completes commands of `parser`: one with subcommands."""
    return SHELLS[shell](parser.prog, _commands(parser), _arguments(parser))


def _commands(parser: argparse.ArgumentParser) -> tuple[Command, ...]:
    [subparsers] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    texts = {choice.dest: choice.help or "" for choice in subparsers._choices_actions}
    return tuple(
        Command(
            name,
            texts[name],
            tuple(argument for argument in _arguments(command) if argument.flags),
            tuple(argument for argument in _arguments(command) if not argument.flags),
        )
        for name, command in subparsers.choices.items()
    )


def _arguments(parser: argparse.ArgumentParser) -> tuple[Argument, ...]:
    return tuple(
        _argument(action) for action in parser._actions if not isinstance(action, argparse._SubParsersAction)
    )


def _argument(action: argparse.Action) -> Argument:
    words = tuple(map(str, action.choices or WORDS.get(action.dest, ())))
    takes = action.nargs != 0
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest
    suffixes = tuple(dict.fromkeys(re.findall(r"\.(\w+)", metavar)))
    is_file = takes and not words and bool(suffixes or metavar == "DIR" or not action.option_strings)
    text = (action.help or "").replace("%%", "%")
    repeats = isinstance(action, argparse._AppendAction)
    flags = tuple(action.option_strings)
    return Argument(flags, action.dest, text, takes, words, is_file, suffixes, repeats)


def _bash(program: str, commands: Sequence[Command], options: Sequence[Argument]) -> str:
    function = f"_{program}"
    names = " ".join(command.name for command in commands)
    flags = " ".join(flag for option in options for flag in option.flags)
    return "\n".join(
        [
            f"# bash completion for {program}: source it, or put it into bash-completion's directory.",
            f"{function}() {{",
            '    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command="" i',
            "    COMPREPLY=()",
            "    for ((i = 1; i < COMP_CWORD; i++)); do",
            "        [[ ${COMP_WORDS[i]} != -* ]] && command=${COMP_WORDS[i]} && break",
            "    done",
            "    if [[ -z $command ]]; then",
            f'        COMPREPLY=($(compgen -W "{names} {flags}" -- "$cur"))',
            "        return",
            "    fi",
            '    case "$command $prev" in',
            *_bash_values(commands),
            "    esac",
            '    case "$command" in',
            *_bash_flags(commands),
            "    esac",
            "}",
            f"complete -o bashdefault -o default -F {function} {program}",
            "",
        ]
    )


def _bash_values(commands: Sequence[Command]) -> Iterator[str]:
    """What follows an option. Where nothing is said, the shell offers files."""
    for command in commands:
        for option in command.options:
            pattern = "|".join(f'"{command.name} {flag}"' for flag in option.flags)
            if option.takes and option.is_file:
                yield f"        {pattern}) return ;;"
            elif option.takes:
                words = (
                    f'COMPREPLY=($(compgen -W "{" ".join(option.words)}" -- "$cur")); '
                    if option.words
                    else ""
                )
                yield f"        {pattern}) {words}compopt +o default +o bashdefault; return ;;"


def _bash_flags(commands: Sequence[Command]) -> Iterator[str]:
    for command in commands:
        flags = " ".join(flag for option in command.options for flag in option.flags)
        words = " ".join(word for positional in command.positionals for word in positional.words)
        yield f"        {command.name})"
        yield f'            if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "{flags}" -- "$cur"))'
        if words:
            yield f'            else COMPREPLY=($(compgen -W "{words}" -- "$cur"))'
        yield "            fi ;;"


def _zsh(program: str, commands: Sequence[Command], options: Sequence[Argument]) -> str:
    lines = [
        f"#compdef {program}",
        f"# zsh completion for {program}: put it into a directory of $fpath as _{program}.",
        f"_{program}() {{",
        "    local curcontext=$curcontext state line",
        "    _arguments -C \\",
        *(f"        {spec} \\" for option in options for spec in _zsh_option(option)),
        "        '1:command:->command' '*::argument:->argument'",
        "    case $state in",
        "        command)",
        "            local -a commands=(",
        *(f"                {_quoted(f'{c.name}:{_escaped(c.text)}')}" for c in commands),
        "            )",
        "            _describe command commands ;;",
        "        argument)",
        "            case $words[1] in",
    ]
    for command in commands:
        specs = [spec for option in command.options for spec in _zsh_option(option)]
        specs += [
            _quoted(f"{number}:{positional.name}:{_zsh_value(positional)}")
            for number, positional in enumerate(command.positionals, 1)
        ]
        lines.append(f"                {command.name})")
        lines.append("                    _arguments \\")
        lines += [f"                        {spec} \\" for spec in specs[:-1]]
        lines.append(f"                        {specs[-1]} ;;")
    return "\n".join([*lines, "            esac ;;", "    esac", "}", f'_{program} "$@"', ""])


def _zsh_option(option: Argument) -> Iterator[str]:
    """One entry for each way to write the option, which exclude each other unless it repeats."""
    others = "*" if option.repeats else f"({' '.join(option.flags)})"
    value = f":{option.name}:{_zsh_value(option)}" if option.takes else ""
    for flag in option.flags:
        yield _quoted(f"{others}{flag}[{_escaped(option.text)}]{value}")


def _zsh_value(argument: Argument) -> str:
    if argument.words:
        return f"({' '.join(argument.words)})"
    if not argument.is_file:
        return " "
    return f'_files -g "*.({"|".join(argument.suffixes)})"' if argument.suffixes else "_files"


def _escaped(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _quoted(text: str) -> str:
    """For zsh and bash."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(program: str, commands: Sequence[Command], options: Sequence[Argument]) -> str:
    lines = [
        f"# fish completion for {program}: put it into ~/.config/fish/completions/{program}.fish.",
        f"complete -c {program} -f",
    ]
    lines += [_fish_line(program, "__fish_use_subcommand", option) for option in options]
    for command in commands:
        text = _fish_quoted(command.text)
        lines.append(f"complete -c {program} -n __fish_use_subcommand -a {command.name} -d {text}")
    for command in commands:
        seen = f"'__fish_seen_subcommand_from {command.name}'"
        for argument in (*command.options, *command.positionals):
            lines.append(_fish_line(program, seen, argument))
    return "\n".join([*lines, ""])


def _fish_line(program: str, condition: str, argument: Argument) -> str:
    parts = [f"complete -c {program} -n {condition}"]
    for flag in argument.flags:
        parts.append(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}")
    if argument.takes and argument.flags:
        parts.append("-r")
    if argument.words:
        parts.append(f"-a {_fish_quoted(' '.join(argument.words))}")
    if argument.is_file:
        parts.append("-F")
    if argument.text:
        parts.append(f"-d {_fish_quoted(argument.text)}")
    return " ".join(parts)


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Mapping[str, Callable[[str, Sequence[Command], Sequence[Argument]], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
