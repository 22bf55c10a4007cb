"""User text as FTS5 queries: all of it is quoted, so no character acts as an FTS5 operator."""

from __future__ import annotations

import json
import re

from memory_storage.errors import ValidationError
from memory_storage.schema.spelling import spelled, words_in

from .validation import refuse_unstorable

MAX_WORDS = 64
MAX_CHARACTERS = 2_000  # FTS5 takes seconds to read a phrase of 50,000 words

_PART = re.compile(r'"([^"]*)"|(\S+)')
_WORD = re.compile(r"[^\W_]")


NOTHING = '""'
"""An empty phrase matches no row."""


def each_word(text: str) -> str:
    """Return the words of a text filter, all of which a row must have, as a JSON array of FTS5 expressions.

    Args:
        text: Words; "two words" is a phrase, and word* a prefix.

    Returns:
        The array; of `NOTHING`, if the text has no word: it finds nothing instead of everything.

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
    return json.dumps(parts or [NOTHING], ensure_ascii=False)


def _quoted(part: str, is_prefix: bool) -> str:
    escaped = part.rstrip("*").replace('"', '""')
    return f'"{escaped}"*' if is_prefix else f'"{escaped}"'


def any_word(text: str) -> str:
    """Return the words of a search, of which a row may have any, as a JSON array of FTS5 expressions.

    Raises:
        ValidationError: more than 2,000 characters.
    """
    refuse_unstorable("text", text)
    if len(text) > MAX_CHARACTERS:
        raise ValidationError("text", f"at most {MAX_CHARACTERS:,} characters", text)
    return json.dumps([f'"{word}"' for word in words_in(text)] or [NOTHING], ensure_ascii=False)
