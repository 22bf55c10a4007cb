"""Detection of formats that cannot be imported, so that the error can name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .formats import READERS, TITLES

Content = Mapping[str, Any]


def looks_like(content: Content) -> str:
    """Return the name of the likely format of a record; "" if it is unknown."""
    known = next((TITLES[name] for name, reader in READERS.items() if reader.matches(dict(content))), "")
    return known or next((name for name, matches in _FORMATS.items() if matches(content)), "")


def _has(*names: str) -> Callable[[Content], bool]:
    return lambda content: all(name in content for name in names)


def _is_gemini(content: Content) -> bool:
    is_request = isinstance(content.get("contents"), list)
    return is_request or (content.get("role") in {"user", "model"} and isinstance(content.get("parts"), list))


_FORMATS: dict[str, Callable[[Content], bool]] = {
    "a Gemini conversation": _is_gemini,
    "tau2 simulations": lambda content: isinstance(content.get("simulations"), list),
    "prompts with completions": (
        lambda content: _has("instruction", "output")(content) or _has("prompt", "completion")(content)
    ),
}
