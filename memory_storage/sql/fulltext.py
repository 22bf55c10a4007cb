"""User text as an FTS5 query: all of it is quoted, so no character acts as an FTS5 operator."""

from __future__ import annotations

import re

from memory_storage.errors import ValidationError
from memory_storage.schema.spelling import spelled, words_in

from .validation import refuse_unstorable

MAX_WORDS = 64
MAX_CHARACTERS = 2_000  # FTS5 takes seconds to read a phrase of 50,000 words

_PART = re.compile(r'"([^"]*)"|(\S+)')
_WORD = re.compile(r"[^\W_]")


def match_expression(text: str) -> str | None:
    """Return an FTS5 expression for rows that contain every word; None if the text has no word.

    Args:
        text: Words; "two words" is a phrase, and word* a prefix.

    Raises:
        ValidationError: more than 2,000 characters or 64 words.
    """
    refuse_unstorable("text", text)
    if len(text) > MAX_CHARACTERS:
        raise ValidationError("text", f"at most {MAX_CHARACTERS:,} characters", text)
    # Quoted, every character is data for FTS5: operators such as NEAR, OR, ^ and : lose their meaning.
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
    """Return an FTS5 expression for rows with any of the words, to be ranked by BM25; None if the text has no word.

    Raises:
        ValidationError: more than 2,000 characters.
    """
    refuse_unstorable("text", text)
    if len(text) > MAX_CHARACTERS:
        raise ValidationError("text", f"at most {MAX_CHARACTERS:,} characters", text)
    return " OR ".join(f'"{word}"' for word in words_in(text)) or None
