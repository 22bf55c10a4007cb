"""The words that several tasks share, so that a search for such a task finds the pattern that was mined from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from memory_storage.schema.spelling import readable, words_in

_MAX_WORDS = 10
_MIN_LENGTH, _MAX_LENGTH = 3, 30
_MIN_SHARE_DIVISOR = 4
_STOP_WORDS = frozenset(
    """
    all and any are but can for from has have her his how into its must not our please should than that the their then
    there these this those use using was were what when where which who why will with would you your
    """.split()  # noqa: SIM905 - words in lines are read at a glance
)


def shared_words(tasks: Sequence[str]) -> list[str]:
    """Return the words that occur in at least two and a quarter of the tasks, the most frequent first, at most 10.

    A word of a single task does not describe the others, and must not be copied out of an episode that may be erased.
    """
    counts: Counter[str] = Counter()
    for task in tasks:
        counts.update(word for one in words_in(task) if _is_significant(word := readable(one).lower()))
    least = max(2, len(tasks) / _MIN_SHARE_DIVISOR)
    shared: list[str] = []
    for word, count in counts.most_common():
        if count < least or len(shared) == _MAX_WORDS:
            break
        if not any(word in longer for longer in shared if not longer.isascii()):  # a pair of characters of a run
            shared.append(word)
    return shared


def _is_significant(word: str) -> bool:
    if word.isascii():
        return _MIN_LENGTH <= len(word) <= _MAX_LENGTH and not word.isdigit() and word not in _STOP_WORDS
    return 1 < len(word) <= _MAX_LENGTH
