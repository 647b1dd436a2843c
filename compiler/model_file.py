"""MODEL.py: ordinary Python that defines `model` and `example_inputs`; weights from a safetensors file."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from occ.errors import UsageError
from occ.quiet import quiet

EXAMPLES = (tuple, list, Mapping, Tensor)
SHOWN = 3
"""Names that an error lists before it only counts."""


@dataclass(frozen=True, eq=False)
class ModelFile:
    """What a MODEL.py defines. `example_inputs` is (positional arguments, keyword arguments)."""

    name: str
    module: nn.Module
    example_inputs: tuple[tuple[Any, ...], dict[str, Any]]


def load_model_file(spec: str, weights: str | Path | None = None) -> ModelFile:
    """Run `MODEL.py[:name]` and take `name` (or `model`) and `example_inputs` from it.

    Both may be functions without parameters, called once. Where `weights` names a safetensors file, its
    tensors replace the module's. Raises UsageError for a file that is missing, raises, or defines something
    else.
    """
    path, attribute = _split(spec)
    if not path.is_file():
        trouble = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {trouble}; pass a file that defines `model` and `example_inputs`")
    with quiet():
        namespace = _execute(path)
        module = _defined(path, namespace, attribute, nn.Module, "an nn.Module")
        examples = _defined(path, namespace, "example_inputs", EXAMPLES, "a tuple or dict of tensors")
    if weights is not None:
        load_weights(module, weights)
    if unset := [name for name, tensor in _tensors(module) if tensor.is_meta]:
        raise UsageError(
            f"{path}: {_listed(unset)} of `{attribute}` on the meta device, without values;"
            " pass --weights model.safetensors or construct the model on the CPU"
        )
    return ModelFile(path.stem, module, as_call(examples))


def as_call(examples: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as (positional arguments, keyword arguments).

    A mapping is keyword arguments; (tuple, dict with string keys) is the pair itself; any other tuple is
    positional arguments, and a lone tensor is one. Raises UsageError for anything else.
    """
    if isinstance(examples, Tensor):
        return (examples,), {}
    if isinstance(examples, Mapping):
        if not all(isinstance(key, str) for key in examples):
            raise UsageError("example_inputs is a dict, so its keys must be names of arguments")
        return (), dict(examples)
    if not isinstance(examples, (tuple, list)):
        raise UsageError(
            f"example_inputs must be a tuple or dict of tensors, not {_article(type(examples).__name__)}"
        )
    if len(examples) == 2 and isinstance(examples[0], tuple) and isinstance(examples[1], Mapping):
        args, kwargs = examples
        return tuple(args), dict(kwargs)
    return tuple(examples), {}


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Replace the module's parameters and buffers by those of a safetensors file, mapped, not copied.

    Tied tensors may be stored under any of their names and stay tied; another type than the module's is
    converted. Raises UsageError for missing, unexpected or misshapen tensors.
    """
    owned = module.state_dict(keep_vars=True)
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            names = set(file.keys())
            stored = {name: file.get_tensor(name) for name in names & owned.keys()}
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"cannot read the weights in {path}: {_one_line(error)}") from error
    for tied in _tied(owned):
        present = [name for name in tied if name in stored]
        stored.update(dict.fromkeys(tied, stored[present[-1]]) if present else {})
    if missing := [name for name in owned if name not in stored]:
        raise UsageError(f"{path} lacks {_listed(missing)} of the model; pass the model's own weights")
    if unexpected := sorted(names - owned.keys()):
        raise UsageError(f"{path} holds {_listed(unexpected)} that the model lacks; pass its own weights")
    for name, tensor in owned.items():
        if tensor.shape != stored[name].shape:
            raise UsageError(
                f"{path}: {name} has shape {tuple(stored[name].shape)} and the model needs"
                f" {tuple(tensor.shape)}"
            )
    converted: dict[tuple[int, torch.dtype], Tensor] = {}
    for name, tensor in owned.items():
        key = (id(stored[name]), tensor.dtype)
        if key not in converted:
            converted[key] = stored[name].to(tensor.dtype)
        stored[name] = converted[key]
    with torch.no_grad():
        module.load_state_dict(stored, strict=True, assign=True)


def _split(spec: str) -> tuple[Path, str]:
    match = re.fullmatch(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)", spec)
    return (Path(match["path"]), match["name"]) if match else (Path(spec), "model")


def _execute(path: Path) -> ModuleType:
    name = f"occ_model_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file; its name must end in .py")
    namespace = importlib.util.module_from_spec(spec)
    # Classes that it defines look themselves up by module name, and its neighbours are imported by name,
    # also later: when a function it defines is called.
    sys.modules[name] = namespace
    if str(path.absolute().parent) not in sys.path:
        sys.path.insert(0, str(path.absolute().parent))
    execute = spec.loader.exec_module
    _guarded(path, lambda: execute(namespace))
    return namespace


def _defined(
    path: Path, namespace: ModuleType, attribute: str, kinds: type | tuple[type, ...], wanted: str
) -> Any:
    """What the file defines as `attribute`: of one of `kinds`, or a function that returns it."""
    if not hasattr(namespace, attribute):
        raise UsageError(f"{path} does not define `{attribute}` ({wanted}, or a function that returns it)")
    found = getattr(namespace, attribute)
    if not isinstance(found, kinds) and callable(found):
        if isinstance(found, type) and issubclass(found, nn.Module):
            raise UsageError(f"{path}: `{attribute}` is the class {found.__name__}; define an instance of it")
        found = _guarded(path, found)
    if not isinstance(found, kinds):
        raise UsageError(f"{path}: `{attribute}` must be {wanted}, not {_article(type(found).__name__)}")
    return found


def _guarded(path: Path, action: Callable[[], Any]) -> Any:
    """`action()`, whatever it raises turned into one line with the place in the file."""
    try:
        return action()
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno is not None else ""
        where = f"{Path(error.filename or path).name}{line}"
        raise UsageError(f"{path} raised {type(error).__name__} at {where}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.absolute()]
        where = f" at {path.name}:{frames[-1].lineno}" if frames else ""
        raise UsageError(f"{path} raised {type(error).__name__}{where}: {_one_line(error)}") from error


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _tied(owned: Mapping[str, Any]) -> Iterable[list[str]]:
    """Names of the same tensor, in groups of two or more."""
    groups: dict[int, list[str]] = {}
    for name, tensor in owned.items():
        groups.setdefault(id(tensor), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    verb = "" if len(names) == 1 else f"{len(names)} tensors: "
    return f"{verb}{', '.join(names[:SHOWN])}{more}"


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "(no text)"


def _article(name: str) -> str:
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"
