"""Formatting of text for users: counted nouns, their articles, and strings without control characters of a terminal."""

from __future__ import annotations

import re
from unicodedata import combining, east_asian_width

# What moves the cursor, renames the window, or shows text in another order than it is stored.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 episode", "2,000 episodes".

    Args:
        number: how many.
        noun: the noun in the singular.
        plural: the noun in the plural; default: with an "s".
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def with_article(noun: str) -> str:
    """Return a noun with its indefinite article: "an Episode", "a Step"."""
    return f"{'an' if noun[0] in 'AEIOaeio' else 'a'} {noun}"


def printable(text: str) -> str:
    """Return the text with U+FFFD for the characters that a terminal obeys; tabs and line ends stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def in_one_line(text: str) -> str:
    """Return the printable text in one line, with single spaces."""
    return " ".join(printable(text).split())


def width_of(text: str) -> int:
    """Return the width of a string in terminal columns: two for each wide character, none for a combining mark."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)
