"""Plans and programs as JSON (docs/plan-format.md), and back.

The encoding follows the dataclasses of `occ.ir`: an object per dataclass, with the fields that differ from
their defaults; arrays for tuples. In operands a value is {"value": 3} and a symbol {"symbol": "torch.int64"};
infinities and NaN are {"float": "inf"}. The same data gives the same text, one line per step.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Hashable
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from occ.errors import ArtifactError
from occ.ir import Arg, Plan, Program, Ref, Symbol
from occ.wellformed import plan_problem, program_problem

FORMAT = 3

_T = TypeVar("_T")
_EXPANDED = frozenset({"Plan", "Program", "Sizing"})
"""Classes whose fields, and whose tuples' items, get a line each."""


def plan_to_json(plan: Plan) -> str:
    """The plan's text: `plan.json` of an artifact."""
    return _document("plan", plan)


def program_to_json(program: Program) -> str:
    """The program's text: `source.json` of an artifact."""
    return _document("program", program)


def plan_from_json(text: str | bytes) -> Plan:
    """The plan that `text` describes. Raises ArtifactError where it describes none."""
    plan = _parse(text, "plan", Plan)
    _refuse(plan_problem(plan), "plan")
    return plan


def program_from_json(text: str | bytes) -> Program:
    """The program that `text` describes. Raises ArtifactError where it describes none."""
    program = _parse(text, "program", Program)
    _refuse(program_problem(program), "program")
    return program


def plain(value: Any) -> Any:
    """`value`, made of the dataclasses of `occ.ir` and JSON data, as JSON data alone."""
    if isinstance(value, Ref):
        return {"value": value.value}
    if isinstance(value, Symbol):
        return {"symbol": value.text}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return {name: plain(item) for name, item in _set_fields(value)}


def _set_fields(value: Any) -> list[tuple[str, Any]]:
    """Fields with what they hold, without those that hold their default."""
    return [
        (name, item)
        for name, default in _defaults(cast(Hashable, type(value)))
        if (item := getattr(value, name)) != default or default is dataclasses.MISSING
    ]


@cache
def _defaults(kind: Hashable) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.default) for field in dataclasses.fields(cast(Any, kind)))


def _document(key: str, value: Any) -> str:
    return f'{{\n"format": {FORMAT},\n"{key}": {_expanded(value, "")}\n}}\n'


def _expanded(value: Any, indent: str) -> str:
    inner = indent + " "
    if type(value).__name__ in _EXPANDED:
        lines = [f'{inner}"{name}": {_expanded(item, inner)}' for name, item in _set_fields(value)]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, tuple) and value and not isinstance(value[0], int):
        return "[\n" + ",\n".join(f"{inner}{_compact(item)}" for item in value) + f"\n{indent}]"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False)


def _parse(text: str | bytes, key: str, kind: type[_T]) -> _T:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{key}.json is not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or set(document) != {"format", key}:
        raise ArtifactError(f"the {key} must be an object with the keys format and {key}")
    if document["format"] != FORMAT:
        raise ArtifactError(
            f"the {key} has format {document['format']!r} and this occ reads {FORMAT}; compile it again"
        )
    try:
        result: _T = _reader(cast(Hashable, kind))(document[key], key)
    except RecursionError as error:
        raise ArtifactError(f"the {key} is nested too deeply") from error
    return result


def _refuse(problem: str | None, key: str) -> None:
    if problem is not None:
        raise ArtifactError(f"the {key} is malformed: {problem}")


_Reader = Callable[[Any, str], Any]
"""From JSON data and the place it stands at to what a field holds. Raises ArtifactError."""


@cache
def _reader(hint: Hashable) -> _Reader:
    if Ref in get_args(hint):  # the type of operands, which refers to itself
        return _read_arg
    if hint is object:
        return _read_json
    if hint is float:
        return _read_float
    if hint in (bool, int, str):
        return _scalar_reader(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_reader(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass_reader(hint)
    if get_origin(hint) is tuple:
        return _tuple_reader(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return _optional_reader(hint)
    raise TypeError(f"no JSON form for {hint!r}")


def _scalar_reader(kind: type) -> _Reader:
    def read(data: Any, place: str) -> Any:
        if type(data) is not kind:
            raise _wrong(data, place, kind.__name__)
        return data

    return read


def _enum_reader(kind: type[Enum]) -> _Reader:
    members = {member.value: member for member in kind}

    def read(data: Any, place: str) -> Enum:
        if not isinstance(data, str) or data not in members:
            raise _wrong(data, place, f"one of {', '.join(members)}")
        return members[data]

    return read


def _dataclass_reader(kind: type) -> _Reader:
    hints = get_type_hints(kind)
    fields = [(field.name, field.default, _reader(hints[field.name])) for field in dataclasses.fields(kind)]
    names = frozenset(hints)

    def read(data: Any, place: str) -> Any:
        if not isinstance(data, dict) or not names.issuperset(data):
            raise _wrong(data, place, f"an object with keys among {', '.join(sorted(names))}")
        found = {}
        for name, default, reader in fields:
            if name in data:
                found[name] = reader(data[name], f"{place}.{name}")
            elif default is dataclasses.MISSING:
                raise ArtifactError(f"{place} lacks {name!r}")
        return kind(**found)

    return read


def _tuple_reader(hints: tuple[Any, ...]) -> _Reader:
    if len(hints) == 2 and hints[1] is Ellipsis:
        item_reader = _reader(hints[0])

        def read_all(data: Any, place: str) -> Any:
            if not isinstance(data, list):
                raise _wrong(data, place, "an array")
            return tuple([item_reader(item, place) for item in data])

        return read_all

    readers = [_reader(hint) for hint in hints]

    def read_each(data: Any, place: str) -> Any:
        if not isinstance(data, list) or len(data) != len(readers):
            raise _wrong(data, place, f"an array of {len(readers)}")
        return tuple([reader(item, place) for reader, item in zip(readers, data, strict=True)])

    return read_each


def _optional_reader(hint: Any) -> _Reader:
    [inner] = [part for part in get_args(hint) if part is not type(None)]
    reader = _reader(inner)
    return lambda data, place: None if data is None else reader(data, place)


def _read_float(data: Any, place: str) -> float:
    if type(data) in (int, float):
        return float(data)
    if isinstance(data, dict) and set(data) == {"float"} and data["float"] in ("inf", "-inf", "nan"):
        return float(data["float"])
    raise _wrong(data, place, "a number")


def _read_arg(data: Any, place: str) -> Arg:
    if data is None or type(data) in (bool, int, float, str):
        return data  # type: ignore[no-any-return]
    if isinstance(data, list):
        return tuple([_read_arg(item, place) for item in data])
    if isinstance(data, dict) and len(data) == 1:
        [(key, content)] = data.items()
        if key == "value" and type(content) is int:
            return Ref(content)
        if key == "symbol" and type(content) is str:
            return Symbol(content)
        if key == "float":
            return _read_float(data, place)
    raise _wrong(data, place, "an operand")


def _read_json(data: Any, place: str) -> Any:
    return data


def _wrong(data: Any, place: str, wanted: str) -> ArtifactError:
    found = repr(data)
    return ArtifactError(f"{place} must be {wanted}, not {found[:60]}{'...' if len(found) > 60 else ''}")
