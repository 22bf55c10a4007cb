"""Old names that still work: of modules, arguments and attributes. Each use is a DeprecationWarning with the new name.

Old names are in no `__all__`, and `dir` does not list them, so that no completion offers them.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from types import FrameType
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=type[Any])

# Their frames stand between a caller and a warning: calls go through decorators, validators and the import system.
_BETWEEN = {"memory_storage", "contextlib", "functools", "importlib", "lazy_loader", "pydantic", "pydantic_settings"}


def warn_renamed(old: str, new: str, *, since: str = "0.1") -> None:
    """Warn that a name is an old one. The warning points at the line of the caller of this package.

    Args:
        old: the name in the caller's code, like "learn(most=...)".
        new: its replacement.
        since: the version that has the new name.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    caller = frame or sys._getframe(1)
    warnings.warn_explicit(
        f"{old} is deprecated since {since}: use {new}",
        DeprecationWarning,
        filename=caller.f_code.co_filename,
        lineno=caller.f_lineno,
        module=caller.f_globals.get("__name__", "<unknown>"),
        registry=caller.f_globals.setdefault("__warningregistry__", {}),
    )


def renamed_names(module: str, new_names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that has old names.

    Args:
        module: the module's `__name__`.
        new_names: for each old name the new one, or its full path ("memory_storage.models.Rate") in another module.
    """

    def get(name: str) -> Any:
        new = new_names.get(name)
        if new is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name, obj=sys.modules[module])
        path, _, attribute = (new if "." in new else f"{module}.{new}").rpartition(".")
        warn_renamed(f"{module}.{name}", f"{path}.{attribute}")
        return getattr(import_module(path), attribute)

    get.new_names = dict(new_names)  # type: ignore[attr-defined]  # the snapshot of the public API lists them
    return get


def renamed_arguments(**new_names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function whose keyword arguments were renamed.

    Args:
        new_names: for each old name the new one.

    Raises:
        TypeError: from the function, if the caller gives an argument by both names.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> T:
            for old in new_names.keys() & kwargs.keys():
                new = new_names[old]
                if new in kwargs:
                    raise TypeError(f"{function.__name__}() got both {new!r} and its old name {old!r}")
                warn_renamed(f"{function.__name__}({old}=...)", f"{new}=...")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return cast("Callable[P, T]", call)

    return decorate


class RenamedAttribute:
    """The old name of an attribute, a property or a method. Made by `renamed_attributes`."""

    def __init__(self, owner: str, old: str, new: str) -> None:
        self.new = new
        self._old, self._advice = f"{owner}.{old}", f"{owner}.{new}"

    def __get__(self, instance: object, owner: type) -> Any:
        warn_renamed(self._old, self._advice)
        return getattr(owner if instance is None else instance, self.new)


def renamed_attributes(**new_names: str) -> Callable[[C], C]:
    """Decorate a class whose attributes or methods were renamed; stands above `@dataclass`.

    Args:
        new_names: for each old name the new one.
    """

    def decorate(owner: C) -> C:
        kind: Any = owner
        listed = kind.__dir__

        def names_of(self: object) -> list[str]:
            return [name for name in listed(self) if name not in new_names]

        for old, new in new_names.items():
            setattr(kind, old, RenamedAttribute(owner.__name__, old, new))
        kind.__dir__ = names_of
        return owner

    return decorate
