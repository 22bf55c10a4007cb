"""User text as an FTS5 query. Whatever is typed is data: no character of it is an operator of FTS5."""

from __future__ import annotations

import re

from memory_storage.errors import ValidationError
from memory_storage.schema.spelling import spelled, words_in

from .limits import refuse_unstorable

MAX_WORDS = 64
MAX_CHARACTERS = 2_000  # FTS5 takes seconds to read a phrase of 50,000 words

_PART = re.compile(r'"([^"]*)"|(\S+)')
_WORD = re.compile(r"[^\W_]")


def match_expression(text: str) -> str | None:
    """Rows must have every word; "two words" is a phrase, and word* a prefix. None if there is nothing to look for."""
    refuse_unstorable("text", text)
    if len(text) > MAX_CHARACTERS:
        raise ValidationError("text", f"at most {MAX_CHARACTERS:,} characters", text)
    parts = [
        _quoted(phrase or word, word.endswith("*"))
        for phrase, word in _PART.findall(spelled(text))
        if _WORD.search(phrase + word)
    ]
    if len(parts) > MAX_WORDS:
        raise ValidationError("text", f"at most {MAX_WORDS} words or phrases", len(parts))
    return " AND ".join(parts) or None


def _quoted(part: str, is_prefix: bool) -> str:
    escaped = part.rstrip("*").replace('"', '""')
    return f'"{escaped}"*' if is_prefix else f'"{escaped}"'


def any_word(text: str) -> str | None:
    """Rows with any of the words, for ranking: the more of them, and the rarer, the better. None if there is no word.

    Nothing in it is an operator. ValidationError if it is too long.
    """
    refuse_unstorable("text", text)
    if len(text) > MAX_CHARACTERS:
        raise ValidationError("text", f"at most {MAX_CHARACTERS:,} characters", text)
    return " OR ".join(f'"{word}"' for word in words_in(text)) or None
