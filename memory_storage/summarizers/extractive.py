"""A summarizer without a model: it chooses sentences, steps and words of the episode.

Sentences are chosen as by SumBasic (Nenkova and Vanderwende, "The Impact of Frequency on Summarization", 2005): the one
whose words are the most probable comes next, and each word of a chosen sentence then counts less, so that the next one
says something else. The probabilities are weighted by the part of the episode that a sentence is in, and the first
sentence of the task and of the outcome come first, since what is written first or last says the most (Edmundson, "New
Methods in Automatic Extracting", 1969).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from math import log1p
from typing import NamedTuple

from memory_storage.errors import ValidationError
from memory_storage.models import Episode, EpisodeSummary, Step
from memory_storage.models.display import shortened

from .stop_words import STOP_WORDS

_LEAST_CHARS = 100
_STEP_CHARS = 200  # of a key step, and of the message or the output in it
_MESSAGE_CHARS, _OUTPUT_CHARS = 120, 60
_READ_CHARS = 500_000  # of a text, and of all steps, each of which has an equal share
_LEAST_SHARE = 100
_READ_TEXTS = 1_000  # insights and the like
_CANDIDATES = 300  # the sentences of the highest scores, from which the summary is chosen
_WORD_LENGTHS = range(3, 31)  # shorter ones say little; longer ones are identifiers, or a script without spaces

# A sentence ends at a full stop, a question mark or an exclamation mark before white space and no small letter, at the
# end of a line, and after the full stop of a script without spaces. A dot within a name or an abbreviation ends none.
_END = re.compile("(?<=[.!?…])\\s+(?![a-z\\s])|(?<=[\u3002\uff01\uff1f\uff61])|[\r\n]+")
_WORD = re.compile("[^\\W\\d_]+(?:['\u2019][^\\W\\d_]+)*")
_SENTENCE_WORDS = 4  # of an output: less is a value, not a sentence
_LETTERS = 0.75  # the least share of letters and spaces of a sentence in an output: less is code or data

# How much the parts of an episode count. A reader of a summary sees the task as well: it counts no more than a step.
_OUTCOME, _INSIGHT, _NOTE, _ERROR, _TASK, _ACTION, _OUTPUT = 3.0, 3.0, 1.5, 1.5, 1.0, 1.0, 0.5


class ExtractiveSummarizer:
    """Summarizes an episode by its own sentences, steps and words: deterministic, without a model or a download.

    The key steps are the last one, those that failed, those that recovered from a failure, and the first use of each
    tool, as many as there is room for. The key concepts are the most probable words. Words are runs of letters, in any
    script; stop words are known of English, German, French and Spanish.

    Of an episode with much output, the beginning of each output is read: 500,000 characters of all steps together, or
    100 of each.

    Args:
        max_chars: The most characters of the text, from 100.
        max_key_steps: The most key steps, from 0.
        max_key_concepts: The most key concepts, from 0.
    """

    name = "ExtractiveSummarizer"
    """What `created_by` says."""

    def __init__(self, *, max_chars: int = 600, max_key_steps: int = 6, max_key_concepts: int = 8) -> None:
        for argument, value, least in (
            ("max_chars", max_chars, _LEAST_CHARS),
            ("max_key_steps", max_key_steps, 0),
            ("max_key_concepts", max_key_concepts, 0),
        ):
            if type(value) is not int or value < least:
                raise ValidationError(argument, f"a whole number from {least}", value)
        self.max_chars, self.max_key_steps, self.max_key_concepts = max_chars, max_key_steps, max_key_concepts

    def __repr__(self) -> str:
        return f"ExtractiveSummarizer(max_chars={self.max_chars}, max_key_steps={self.max_key_steps})"

    def summarize(self, episode: Episode) -> EpisodeSummary:
        """See `Summarizer`."""
        sentences = list(_sentences(episode))
        probabilities = _probabilities(sentences)
        return EpisodeSummary(
            text=_text(episode, sentences, probabilities, self.max_chars),
            key_steps=_key_steps(episode.steps, self.max_key_steps),
            key_concepts=_concepts(sentences, probabilities, self.max_key_concepts),
            created_by=self.name,
        )


class _Sentence(NamedTuple):
    """A sentence of an episode.

    Attributes:
        text: As it is written, without the white space around it.
        words: Its words, in lower case, each once: what is repeated does not count more.
        weight: How much its part of the episode counts.
        leads: Whether it is the first of the task or of the outcome.
        is_prose: Whether it may be in the summary; else its words count, and no more.
    """

    text: str
    words: tuple[str, ...]
    weight: float
    leads: bool
    is_prose: bool


def _sentences(episode: Episode) -> Iterator[_Sentence]:
    """Yield the sentences of an episode: task, steps, outcome, reflection."""
    yield from _of_text(episode.task_description, _TASK, leads=True)
    share = max(_LEAST_SHARE, _READ_CHARS // max(1, len(episode.steps)))
    for step in episode.steps:
        yield from _of_step(step, share)
    outcome, notes = episode.outcome, episode.reflection
    for name in ("verdict", "reason"):
        yield from _of_text(getattr(outcome, name, ""), _OUTCOME, leads=True)
    parts = [
        (_OUTCOME, [getattr(outcome, "error_details", None) or ""]),
        *((_OUTCOME, getattr(outcome, name, ())) for name in ("completed", "failed")),
        *([(_INSIGHT, notes.insights), (_NOTE, notes.improvements), (_NOTE, notes.successes)] if notes else ()),
    ]
    for weight, texts in parts:
        for text in texts[:_READ_TEXTS]:
            yield from _of_text(text, weight)


def _of_step(step: Step, most: int) -> Iterator[_Sentence]:
    """Yield the sentences of a step; of each text at most `most` characters are read."""
    yield from _of_text(step.action[:most], _ACTION)
    for value in step.parameters.values():  # like the thought of a tool that has one
        if isinstance(value, str):
            yield from _of_text(value[:most], _ACTION, is_data=True)
    if step.result is not None and step.result.status == "error":
        yield from _of_text(step.result.message[:most], _ERROR)
    elif step.result is not None and step.result.status == "ok":
        yield from _of_text(step.result.output[:most], _OUTPUT, is_data=True)


def _of_text(text: str, weight: float, *, leads: bool = False, is_data: bool = False) -> Iterator[_Sentence]:
    """Yield the sentences of a text; of data, the words of what is no prose count, and no more."""
    for part in _END.split(text[:_READ_CHARS]):
        if sentence := part.strip():
            found = _WORD.findall(sentence.lower())
            words = tuple(dict.fromkeys(one for one in found if len(one) in _WORD_LENGTHS and one not in STOP_WORDS))
            is_prose = not is_data or _is_prose(sentence)
            if is_prose or words:
                yield _Sentence(sentence, words, weight, leads, is_prose)
            leads = False


def _is_prose(sentence: str) -> bool:
    letters = sum(map(str.isalpha, sentence)) + sentence.count(" ")
    return letters >= _LETTERS * len(sentence) and len(sentence.split(maxsplit=_SENTENCE_WORDS)) >= _SENTENCE_WORDS


def _text(episode: Episode, sentences: Sequence[_Sentence], probabilities: Mapping[str, float], most: int) -> str:
    """Return the chosen sentences in their order, one a line."""
    if chosen := _choose(sentences, dict(probabilities), most):
        return "\n".join(sentences[at].text for at in sorted(chosen))
    # No sentence fits, or there is no text at all.
    ending = episode.outcome.kind.replace("_", " ") if episode.outcome else "not complete"
    return shortened(next((one.text for one in sentences if one.is_prose), ending), most)


def _choose(sentences: Sequence[_Sentence], probabilities: dict[str, float], most: int) -> list[int]:
    """Return the places of the sentences of a summary; changes the probabilities."""

    def score(at: int) -> tuple[float, int]:
        one = sentences[at]
        # The mean prefers short sentences: one of few words is not better for that. Of equal ones the first is.
        mean = sum(map(probabilities.__getitem__, one.words)) / max(len(one.words), 2 * _SENTENCE_WORDS)
        return one.weight * mean, -at

    fitting: list[int] = []
    seen: set[str] = set()
    for at, one in enumerate(sentences):
        if one.is_prose and len(one.text) <= most and one.text not in seen:
            fitting.append(at)
            seen.add(one.text)
    leading = [at for at in fitting if sentences[at].leads]
    pool = list(dict.fromkeys([*leading, *nlargest(_CANDIDATES, fitting, key=score)]))
    chosen: list[int] = []
    room = most + 1  # each sentence is counted with the end of the line before it
    while pool := [at for at in pool if len(sentences[at].text) < room and at not in chosen]:
        # The outcome first, then the task, then what is the most probable.
        leading = [at for at in pool if sentences[at].leads]
        at = leading[-1] if leading else max(pool, key=score)
        chosen.append(at)
        room -= len(sentences[at].text) + 1
        probabilities.update({word: probabilities[word] ** 2 for word in sentences[at].words})
    return chosen


def _probabilities(sentences: Iterable[_Sentence]) -> dict[str, float]:
    """Return the probability of each word: its share of the weights of the sentences that have it.

    The logarithm keeps what fifty outputs repeat from outweighing what an insight says once.
    """
    weights: dict[str, float] = {}
    for one in sentences:
        for word in one.words:
            weights[word] = weights.get(word, 0.0) + one.weight
    total = sum(map(log1p, weights.values()))
    return {word: log1p(weight) / total for word, weight in weights.items()}


def _concepts(sentences: Iterable[_Sentence], probabilities: Mapping[str, float], most: int) -> list[str]:
    """Return the most probable words: first those that several sentences have."""
    counts = Counter(word for one in sentences for word in one.words)
    # The sort is stable: of equal ones the first comes first.
    return sorted(probabilities, key=lambda word: (counts[word] == 1, -probabilities[word]))[:most]


def _key_steps(steps: Sequence[Step], most: int) -> list[str]:
    """Return the steps that decided the outcome, each in one line, in their order."""
    failures = _distinct_failures(steps)
    recoveries = _recoveries(steps)
    first_uses = {step.tool: at for at, step in reversed(list(enumerate(steps)))}
    ranked = [
        *([len(steps) - 1] if steps else []),
        *(place for at in failures for place in (at, recoveries.get(at)) if place is not None),
        *sorted(first_uses.values()),
    ]
    chosen = sorted(list(dict.fromkeys(ranked))[:most])
    recovered = {recoveries[at] for at in failures if at in recoveries}
    return [_line(steps[at], recovered=at in recovered) for at in chosen]


def _distinct_failures(steps: Sequence[Step]) -> list[int]:
    """Return the places of the failed steps, the last of those with the same tool and message."""
    last: dict[tuple[str, str], int] = {}
    for at, step in enumerate(steps):
        if _has_failed(step):
            last[step.tool, _result_of(step)] = at
    return sorted(last.values())


def _recoveries(steps: Sequence[Step]) -> dict[int, int]:
    """Return for each failed step the next one of the same tool that succeeded."""
    recoveries: dict[int, int] = {}
    next_success: dict[str, int] = {}
    for at in range(len(steps) - 1, -1, -1):
        step = steps[at]
        if _has_failed(step) and step.tool in next_success:
            recoveries[at] = next_success[step.tool]
        elif step.result is not None and step.result.status == "ok":
            next_success[step.tool] = at
    return recoveries


def _has_failed(step: Step) -> bool:
    return step.result is not None and step.result.status != "ok"


def _line(step: Step, *, recovered: bool) -> str:
    """Return a step in one line: its number, its tool, its action or else its parameters, and its result."""
    values = (f"{name}={value}" for name, value in step.parameters.items() if isinstance(value, str | int | float))
    said = f"{step.step_number}: {step.tool} {(step.action or ', '.join(values))[: 2 * _STEP_CHARS]}".rstrip()
    result = _result_of(step)
    if _has_failed(step):
        result = f"failed: {result}" if result else "timed out"
    elif recovered:
        result = f"recovered: {result}" if result else "recovered"
    ending = f" → {result}" if result else ""
    return shortened(said, _STEP_CHARS - len(ending)) + ending


def _result_of(step: Step) -> str:
    """Return the beginning of a step's output or message."""
    text = getattr(step.result, "output", getattr(step.result, "message", ""))
    most = _MESSAGE_CHARS if _has_failed(step) else _OUTPUT_CHARS
    return shortened(text[: 4 * most], most)
