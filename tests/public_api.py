"""The public API as text: every public name with its signature. `api_snapshot.txt` has the text that was agreed on.

    python -m tests.public_api           print it
    python -m tests.public_api --write   rewrite the snapshot, for a change that is on purpose and in the changelog

The text is the same on each supported Python: annotations are the source's, module paths are left out (a class that
moves within the package is the same class), and reprs that differ between versions are not used.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import enum
import functools
import importlib
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import pydantic
import typing_extensions
from pydantic_core import PydanticUndefined

from memory_storage._deprecation import RenamedAttribute
from memory_storage._former_names import FORMER_NAMES

SNAPSHOT = Path(__file__).with_name("api_snapshot.txt")
_REPORT = Path(__file__).parents[1] / "packages" / "memory-storage-report"

# A name is described where it is met first: the package itself, whose names come from the modules, is the last.
MODULES = (
    "memory_storage.errors",
    "memory_storage.models",
    "memory_storage.embedders",
    "memory_storage.summarizers",
    "memory_storage.repositories",
    "memory_storage.resilience",
    "memory_storage.engine",
    "memory_storage.migrate",
    "memory_storage.integrations.mcp",
    "memory_storage.monitoring",
    "memory_storage.monitoring.opentelemetry",
    "memory_storage.monitoring.prometheus",
    "memory_storage.exporters",
    "memory_storage.importers",
    "memory_storage.recording",
    "memory_storage.integrations.langgraph",
    "memory_storage.integrations.openai_agents",
    "memory_storage.integrations.google_adk",
    "memory_storage.integrations.pydantic_ai",
    "memory_storage.integrations.llama_index",
    "memory_storage.integrations.crewai",
    "memory_storage.integrations.anthropic",
    "memory_storage.integrations.otel",
    "memory_storage.backup",
    "memory_storage.doctor",
    "memory_storage_report",
    "memory_storage.testing",
    "memory_storage.testing.fixtures",
    "memory_storage.testing.conformance",
    "memory_storage.dbapi",
    "memory_storage.aio",
    "memory_storage",
)
_PARTS = {"memory_storage.resilience": ["CircuitBreaker"]}  # of modules that also have what is not public
_PACKAGE = "memory_storage"
_NOT_SHOWN = ("_", "test_", "model_")  # private; a suite's tests; pydantic's


def describe() -> str:
    """Return the description of all public modules."""
    seen: dict[int, str] = {}
    return "\n\n".join(_module(name, seen) for name in MODULES) + "\n"


def public_names(module: types.ModuleType) -> list[str]:
    """Return what `__all__` lists; without one, what the module defines itself."""
    listed = _PARTS.get(module.__name__) or getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and _is_described(value) and value.__module__ == module.__name__
    )


def _module(name: str, seen: dict[int, str]) -> str:
    module = importlib.import_module(name)
    lines = [f"[{name}]"]
    for public in public_names(module):
        value = getattr(module, public)
        path = f"{name}.{public}"
        if seen.setdefault(id(value), path) != path and _is_described(value):
            lines.append(f"{public} = {seen[id(value)]}")
        else:
            lines += _described(public, value)
    return "\n".join([*lines, *(f"{old}: deprecated, see {new}" for old, new in _old_names(module).items())])


def _old_names(module: types.ModuleType) -> dict[str, str]:
    if module.__name__ == _PACKAGE:
        return dict(sorted(FORMER_NAMES.items()))
    return dict(sorted(getattr(vars(module).get("__getattr__"), "new_names", {}).items()))


def _is_described(value: object) -> TypeGuard[Any]:
    return inspect.isclass(value) or inspect.isroutine(value)


def _described(name: str, value: Any) -> list[str]:
    if inspect.isclass(value) and typing.get_origin(value) is None:
        return [f"class {name}{_bases(value)}", *(f"    {line}" for line in _members(value))]
    if inspect.isroutine(value):
        return [f"def {name}{_signature(value)}"]
    if isinstance(value, types.ModuleType):
        return [f"module {name}"]
    if isinstance(value, type(typing.Any) | types.UnionType) or typing.get_origin(value) is not None:
        return [f"{name} = {_type(value)}"]
    if isinstance(value, str | int | float | bool | tuple | frozenset | set):
        return [f"{name}: {type(value).__name__} = {_value(value)}"]
    return [f"{name}: {type(value).__name__}"]


def _bases(kind: type) -> str:
    names = [_type(base) for base in _public_bases(kind) if base is not object]
    return f"({', '.join(names)})" if names else ""


def _public_bases(kind: type) -> Iterator[type]:
    """Yield the base classes; a private one is replaced by its own bases."""
    for base in kind.__bases__:
        if base.__name__.startswith("_"):
            yield from _public_bases(base)
        else:
            yield base


def _members(kind: type) -> list[str]:
    if typing_extensions.is_typeddict(kind):
        return [f"{name}: {_type(annotation)}" for name, annotation in _annotations(kind).items()]
    if issubclass(kind, enum.Enum):
        return [f"{member.name} = {_value(member.value)}" for member in kind]
    fields = [line for line in _fields(kind) if not line.startswith("_")]
    names = {line.split(":")[0] for line in fields}
    made = [] if fields or not _has_own_init(kind) else [f"__init__{_signature(kind.__init__)}"]
    return [*made, *fields, *sorted(line for name, line in _attributes(kind).items() if name not in names)]


def _has_own_init(kind: type) -> bool:
    owner = next(base for base in kind.__mro__ if "__init__" in vars(base))
    return owner.__module__.startswith(_PACKAGE) and not getattr(owner, "_is_protocol", False)


def _fields(kind: type) -> Iterator[str]:
    """Yield the fields of a model or dataclass, in their order: it is that of positional arguments."""
    if issubclass(kind, pydantic.BaseModel):
        for name, info in kind.model_fields.items():
            annotation = next(vars(base)["__annotations__"][name] for base in kind.__mro__ if name in _own(base))
            default = info.default_factory if info.default is PydanticUndefined else info.default
            yield f"{name}: {_type(annotation)}" + ("" if info.is_required() else f" = {_value(default)}")
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        for name in kind._fields:
            default = f" = {_value(kind._field_defaults[name])}" if name in kind._field_defaults else ""
            yield f"{name}: {_type(_own(kind)[name])}{default}"
    elif dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory
            yield f"{field.name}: {_type(field.type)}" + (
                "" if default is dataclasses.MISSING else f" = {_value(default)}"
            )


def _own(kind: type) -> dict[str, Any]:
    return vars(kind).get("__annotations__", {})


def _annotations(kind: type) -> dict[str, Any]:
    return {name: value for base in reversed(kind.__mro__) for name, value in _own(base).items()} or _own(kind)


def _attributes(kind: type) -> dict[str, str]:
    """Return the public methods, properties and attributes, the inherited ones of this package too."""
    found: dict[str, str] = {}
    for base in kind.__mro__:
        if not base.__module__.startswith(_PACKAGE):
            continue
        for name, value in vars(base).items():
            if not name.startswith(_NOT_SHOWN) and name not in found:
                found[name] = _attribute(name, value, _own(base).get(name))
        for name, annotation in _own(base).items():
            if not name.startswith(_NOT_SHOWN):
                found.setdefault(name, f"{name}: {_type(annotation)}")
        for name in _set_by_init(base):
            found.setdefault(name, f"{name}: attribute")
    return {name: line for name, line in found.items() if line}


def _attribute(name: str, value: Any, annotation: Any) -> str:
    if isinstance(value, RenamedAttribute):
        return f"{name}: deprecated, see {value.new}"
    if isinstance(value, property):
        return f"{name}: property{_result(value.fget)}"
    if isinstance(value, functools.cached_property):
        return f"{name}: property{_result(value.func)}"
    if isinstance(value, classmethod | staticmethod):
        return f"{type(value).__name__} {name}{_signature(value.__func__)}"
    if inspect.isfunction(value):
        return f"def {name}{_signature(value)}"
    if inspect.ismemberdescriptor(value):  # a slot: its annotation, or __init__, says what is in it
        return ""
    return f"{name}: {_type(annotation) if annotation is not None else _kind(value)}"


def _kind(value: object) -> str:
    name = type(value).__name__
    return "fixture" if "Fixture" in name else name  # pytest's classes have no public name


def _set_by_init(kind: type) -> set[str]:
    init = vars(kind).get("__init__")
    if not inspect.isfunction(init) or init.__code__.co_filename == "<string>":
        return set()
    return {
        node.attr
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init))))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and not node.attr.startswith("_")
    }


def _result(function: Callable[..., Any] | None) -> str:
    annotation = getattr(function, "__annotations__", {}).get("return")
    return f" -> {_type(annotation)}" if annotation is not None else ""


def _signature(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parts: list[str] = []
    previous: Any = None
    for parameter in signature.parameters.values():
        if previous is parameter.POSITIONAL_ONLY is not parameter.kind:
            parts.append("/")
        if parameter.kind is parameter.KEYWORD_ONLY is not previous and previous is not parameter.VAR_POSITIONAL:
            parts.append("*")
        parts.append(_parameter(parameter))
        previous = parameter.kind
    if previous is inspect.Parameter.POSITIONAL_ONLY:
        parts.append("/")
    result = signature.return_annotation
    return f"({', '.join(parts)})" + ("" if result is signature.empty else f" -> {_type(result)}")


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotation = "" if parameter.annotation is parameter.empty else f": {_type(parameter.annotation)}"
    default = "" if parameter.default is parameter.empty else f" = {_value(parameter.default)}"
    return f"{stars}{parameter.name}{annotation}{default}"


def _type(annotation: Any) -> str:
    """Return an annotation as a reader writes it, without the paths of modules."""
    if isinstance(annotation, str | typing.ForwardRef):
        return annotation if isinstance(annotation, str) else annotation.__forward_arg__
    if isinstance(annotation, list):  # the parameters of a Callable
        return f"[{', '.join(map(_type, annotation))}]"
    if annotation in (None, type(None), Ellipsis):
        return "..." if annotation is Ellipsis else "None"
    return _generic(annotation, typing.get_origin(annotation), typing.get_args(annotation))


def _generic(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> str:
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type, arguments))
    name = getattr(origin or annotation, "__name__", None) or getattr(annotation, "_name", None) or "?"
    return f"{name}[{', '.join(map(_type, arguments))}]" if arguments else name


def _value(value: Any) -> str:
    """Return a default as text: a constant by its repr, anything else by its name or its type."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, frozenset | set):
        return f"{{{', '.join(sorted(map(_value, value)))}}}"
    if value is None or isinstance(value, str | int | float | bool | bytes):
        return repr(value)
    if inspect.isclass(value) or inspect.isroutine(value):
        return "..." if value.__name__ == "<lambda>" else f"{value.__name__}()"
    return f"{type(value).__name__}(...)"


def main() -> None:
    """Print the description, or write the snapshot."""
    parser = argparse.ArgumentParser(description=describe.__doc__)
    sys.path.append(str(_REPORT))  # pytest adds it by itself
    parser.add_argument("--write", action="store_true", help=f"rewrite {SNAPSHOT.name}")
    if parser.parse_args().write:
        SNAPSHOT.write_text(describe(), encoding="utf-8")
    else:
        print(describe(), end="")


if __name__ == "__main__":
    main()
