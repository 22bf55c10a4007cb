"""The default counter of tokens: an estimate that needs no tokenizer."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[A-Za-z]{1,5}|[0-9]{1,3}|[^\sA-Za-z0-9]|\s{2,}|[^\S ]")


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has, rather too many than too few.

    A token is up to 5 letters of a word, up to 3 digits, a sign, a run of white space that is no single space, or a
    character beyond ASCII. Tokenizers of language models make fewer tokens of nearly all texts, as they have long
    words, and runs of signs, as one.
    """
    return len(_TOKEN.findall(text))
