"""What a caller most likely meant by a name that does not exist: a field, a setting, a variable, a public name.

Only errors use it, so `difflib` is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is spelled most like `name`, whatever its case; None if none is like it."""
    import difflib

    by_spelling = {candidate.lower(): candidate for candidate in names}
    spelled = difflib.get_close_matches(name.lower(), by_spelling, n=1, cutoff=0.7)
    return by_spelling[spelled[0]] if spelled else _extended(name.lower(), by_spelling)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest of `names`, or nothing if none is near."""
    suggestion = nearest(name, names)
    return f"; did you mean {suggestion!r}?" if suggestion else ""


def _extended(name: str, by_spelling: dict[str, str]) -> str | None:
    """Return the longest name that `name` starts with or is the start of: `timeout_s` for `timeout`."""
    kin = [known for known in by_spelling if len(known) > 3 and (name.startswith(known) or known.startswith(name))]
    return by_spelling[max(kin, key=len)] if kin and len(name) > 3 else None
