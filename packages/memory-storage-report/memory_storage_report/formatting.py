"""Numbers as text: counted nouns, shares, intervals, means, durations."""

from __future__ import annotations

from memory_storage.models import Rate

MISSING = "-"
"""The text of a missing number."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 episode", "2,000 episodes"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def percent(value: float | None) -> str:
    """Return a ratio as a percentage."""
    return MISSING if value is None else f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def between(rate: Rate) -> str:
    """Return the confidence interval of a rate."""
    return MISSING if rate.low is None or rate.high is None else f"{rate.low:.0%} to {rate.high:.0%}"


def number(value: float | None) -> str:
    """Return a mean with three significant digits, or as a whole number from 1,000 on."""
    return MISSING if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """Return a duration in its largest unit: "90 s" is "1.5 min"."""
    if value is None:
        return MISSING
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (0.001, "ms")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return "0 s" if value == 0 else "under 1 ms"


def milliseconds(value: int | None) -> str:
    """Return a latency in milliseconds, or in seconds from 10 s on."""
    return MISSING if value is None else f"{value:,} ms" if value < 10_000 else f"{value / 1000:,.1f} s"
