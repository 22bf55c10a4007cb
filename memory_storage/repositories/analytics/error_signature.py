"""The class of an error message: equal for the same fault, without its numbers and names."""

from __future__ import annotations

import re

MESSAGE_LENGTH = 300
"""The number of characters of a message that are read."""

_LENGTH = 80
_NAMED = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Warning|Timeout|Interrupt))\b")
_PLAIN = re.compile(r"^(?:Error|Exception)\b[:\s]*", re.IGNORECASE)
_SPECIFIC = re.compile(r"""'[^']*' | "[^"]*" | `[^`]*` | \b(?=\w*\d)[\w.:-]*\w | [\[({<].*""", re.VERBOSE)


def error_class(status: str, message: str) -> str:
    """Return the class: "timeout", the exception name that begins the message, or the first line without particulars.

    >>> error_class("error", "ValueError: 3 is too small"), error_class("error", "Error: user mia_42 not found")
    ('ValueError', 'user … not found')
    """
    if status == "timeout":
        return "timeout"
    line = next((line.strip() for line in message[:MESSAGE_LENGTH].splitlines() if line.strip()), "")
    named = _NAMED.match(line)
    if named and named[1] != "Error":
        return named[1]
    general = " ".join(_SPECIFIC.sub("…", _PLAIN.sub("", line)).split())
    return general[:_LENGTH].strip() or "error"
