"""Public methods describe their arguments, what they return, and what they raise."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import griffe
import pytest

from .reference import public_names


def _methods() -> Iterator[tuple[str, Callable[..., Any]]]:
    for identifier in public_names():
        module, _, name = identifier.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        if inspect.isfunction(value):
            yield name, value
        elif isinstance(value, type):
            yield from ((f"{name}.{member}", inspect.unwrap(method)) for member, method in _own_methods(value))


def _own_methods(value: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, member in [(name, inspect.getattr_static(value, name)) for name in dir(value)]:
        function = inspect.unwrap(getattr(member, "__func__", member))
        is_ours = (getattr(function, "__module__", None) or "").startswith("memory_storage.")
        if is_ours and inspect.isfunction(function) and not name.startswith("_"):
            yield name, function


def _parameters(method: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(method).parameters if name not in ("self", "cls")]


METHODS = {name: method for name, method in _methods() if len(_parameters(method)) > 1}


@pytest.mark.parametrize("name", METHODS)
def test_a_public_method_has_the_sections(name: str) -> None:
    method = METHODS[name]
    sections = griffe.Docstring(inspect.getdoc(method) or "").parse("google", warnings=False)
    kinds = {section.kind.value for section in sections}
    returns = inspect.signature(method).return_annotation not in (None, "None")
    assert {"parameters", "raises", *(["returns"] if returns else [])} <= kinds
