"""Numbers of tokens, from the usage that a model's API reports in one of several spellings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 2**53  # a larger number is not a count of tokens, and not every reader of JSON can follow it
_INPUT = ("input_tokens", "prompt_tokens", "promptTokenCount")
_OUTPUT = ("output_tokens", "completion_tokens", "candidatesTokenCount")
_TOTAL = ("total_tokens", "totalTokenCount")


def tokens_of(usage: object) -> int | None:
    """Return the input and output tokens of one response; None if the usage has neither.

    What a provider counts in addition to its input tokens (Anthropic's `cache_read_input_tokens` and
    `cache_creation_input_tokens`) is not included; `counts_in` has it.
    """
    counts = counts_in(usage)
    given = [counts[name] for names in (_INPUT, _OUTPUT) if (name := _first(counts, names))]
    total = _first(counts, _TOTAL)
    if given:
        return sum(given)
    return counts[total] if total else None


def counts_in(usage: object, prefix: str = "") -> dict[str, int]:
    """Return the counts of a usage by name, `a.b` for a nested one."""
    counts: dict[str, int] = {}
    for name, value in usage.items() if isinstance(usage, Mapping) else ():
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST:
            counts[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping) and not prefix:
            counts |= counts_in(value, f"{name}.")
    return counts


def _first(counts: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in counts), "")
