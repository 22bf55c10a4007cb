"""The default counter of tokens: an estimate that needs no tokenizer."""

from __future__ import annotations

import re

_PART = re.compile(r"[A-Za-z]+|[0-9]+|\s+|[^\x00-\x7f]|.", re.DOTALL)
_WORD, _DIGITS = 5, 3  # characters of a token


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has, rather too many than too few.

    A token is up to 5 letters of a word, up to 3 digits, a sign, a run of white space that is no single space, or a
    character beyond ASCII. Tokenizers of language models make fewer tokens of nearly all texts, as they have long
    words, and runs of signs, as one.
    """
    return sum(_tokens(part[0]) for part in _PART.finditer(text))


def _tokens(part: str) -> int:
    first = part[0]
    if first.isascii() and first.isalpha():
        return -(-len(part) // _WORD)
    if first.isascii() and first.isdigit():
        return -(-len(part) // _DIGITS)
    return 0 if part == " " else 1
