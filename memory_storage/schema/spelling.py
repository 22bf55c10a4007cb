"""How text is spelled in the full-text indexes, and in queries.

FTS5's tokenizer (unicode61) ends a word at each character that is no letter, digit or mark. It folds case and drops the
accents of Latin letters, but it takes a sentence without spaces for one word, and composed and decomposed letters for
different ones. Neither a local file nor a server accepts a custom tokenizer, so text is changed before it is indexed,
and queries in the same way:

- letters are composed (NFC), and full-width, half-width, ligature and mathematical forms are the plain ones;
- marks that many writers leave out (Arabic and Hebrew vowels, marks around a letter) are dropped;
- in scripts that set no space between words each character, with its marks, is a word: `SEPARATOR` stands around it.
  A query in such a script is a phrase of its characters, so it is found wherever it is in a sentence.

Text in ASCII is spelled as it is, and so is most other text.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

SEPARATOR = "\x7f"
"""Stands between characters in the index: one byte that needs no escape in JSON, ends a word, and is unused in text."""

FIELD_END = "\U0010fffd"
"""A word of its own in the index, after each field of a step: no phrase crosses the end of a field."""

_VARIANTS = "".join(map(chr, range(0xFE00, 0xFE10)))  # how a sign before it looks: as an emoji, mostly

TOKENIZER = f"porter unicode61 remove_diacritics 2 categories ''L* N* Co Mn Mc'' separators ''{_VARIANTS}''"
"""FTS5's tokenizer, as it stands in DDL between single quotes. Marks are part of a word, as they are for `words_in`."""

# Full and half width, Latin ligatures, Hebrew and Arabic presentation forms, mathematical letters. Not all that NFKC
# changes: it makes letters of signs, as of the trade mark, that have to stay apart from the word before them.
_FORMS = re.compile("[\uff10-\uffdc\ufb00-\ufb06\ufb1d-\ufdff\ufe70-\ufefc\U0001d400-\U0001d7ff]+")

# Marks that compose with no letter, and are often left out. The accents U+0300 to U+0331 are dropped by FTS5 itself.
_DROPPED = re.compile(
    "[\u0332-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u08d3-\u08e1\u08e3-\u08ff\u1ab0-\u1aff\u1dc0-\u1dff"
    "\u20d0-\u20dc\u20e1\u20e5-\u20f0\ufe20-\ufe2f\U000e0100-\U000e01ef]+"
)

# Letters and marks, but not digits and punctuation, of scripts without spaces: first those with marks of their own.
_SOUTH_EAST = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ece\u0edc-\u0edf"  # Lao
    "\u1000-\u103f\u1050-\u108f\u109a-\u109d\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "\u1950-\u1974\u1980-\u19c9\u1a20-\u1a7f\uaa80-\uaadf"  # Tai
    "\u1b00-\u1b4c\ua980-\ua9c0"  # Balinese, Javanese
)
_EAST = (
    "\u2e80-\u2fd5\u3005-\u3007\u3021-\u302f\u3031-\u3035\u3038-\u303c\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa"
    "\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua48c\uf900-\ufaff"
    "\U0001aff0-\U0001b16f\U00020000-\U000323af"
)


# Those of them that are marks.
_MARKS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    "\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\u17b4-\u17d3\u17dd\u1a55-\u1a5e"
    "\u1a60-\u1a7c\u1a7f\u1b00-\u1b04\u1b34-\u1b44\u302a-\u302f\u3099-\u309a\ua980-\ua983\ua9b3-\ua9c0\ua9e5"
    "\uaa7b-\uaa7d\uaab0\uaab2-\uaab4\uaab7-\uaab8\uaabe-\uaabf\uaac1"
)
_UNSPACED = re.compile(f"[{_SOUTH_EAST}{_EAST}]+")
# A letter and its marks; what is stacked under it (Khmer, Burmese, Tai) belongs to it.
_CHARACTER = re.compile(f"(?:[^{_MARKS}][{_MARKS}]*|[{_MARKS}]+)(?:(?<=[\u1039\u17d2\u1a60])[^{_MARKS}][{_MARKS}]*)*")
# Characters that may need another spelling; most text outside of ASCII has none. Hangul may be decomposed.
_REMARKABLE = re.compile(
    f"{_FORMS.pattern[:-2]}{_DROPPED.pattern[1:-2]}{_SOUTH_EAST}{_EAST}\u0300-\u0331\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7fb]"
)


def is_spelled_otherwise(text: str) -> bool:
    """Return whether the index may spell the text in another way than it is written. Cheap."""
    if text.isascii():
        return False
    return _REMARKABLE.search(text) is not None or not unicodedata.is_normalized("NFC", text)


def spelled(text: str) -> str:
    """Return the text as it is indexed."""
    if not is_spelled_otherwise(text):
        return text
    return _UNSPACED.sub(lambda run: SEPARATOR.join(["", *_CHARACTER.findall(run[0]), ""]), _folded(text))


def readable(text: str) -> str:
    """Return text of the index without separators, for snippets."""
    return text.replace(f" {FIELD_END} ", " ").replace(SEPARATOR, "")


def words_in(text: str) -> list[str]:
    """Return the distinct words of a query, as they are spelled in the index.

    Of a script without spaces the words are each pair of neighboring characters, and each run of them.
    """
    words: list[str] = []
    folded, end = _folded(text), 0
    for run in _UNSPACED.finditer(folded):
        words += [*_spaced_words(folded[end : run.start()]), *_pairs(_CHARACTER.findall(run[0]))]
        end = run.end()
    words += _spaced_words(folded[end:])
    return list({word.lower(): word for word in words}.values())


def _folded(text: str) -> str:
    text = _FORMS.sub(lambda form: unicodedata.normalize("NFKC", form[0]), text)
    return _DROPPED.sub("", unicodedata.normalize("NFC", text))


def _pairs(characters: list[str]) -> list[str]:
    if len(characters) < 3:
        return [SEPARATOR.join(characters)]
    pairs = [SEPARATOR.join(pair) for pair in pairwise(characters)]
    return [SEPARATOR.join(characters), *pairs]


def _spaced_words(text: str) -> list[str]:
    return "".join(letter if _is_in_word(letter) else " " for letter in text).split()


def _is_in_word(letter: str) -> bool:
    category = unicodedata.category(letter)
    return (category[0] in "LN" or category in {"Mn", "Mc", "Co"}) and letter not in _VARIANTS
