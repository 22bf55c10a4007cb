"""The summarizer without a model: deterministic, within its limits, and made of the episode's own sentences."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.summarizers import extractive
from tests import strategies
from tests.raising import raises

TASK = "Fix the flaky login test. It fails at night."


def failed(message: str, tool: str = "pytest") -> ms.Step:
    return ms.Step(tool=tool, result=ms.StepError(message=message))


def succeeded(output: str, tool: str = "pytest", **fields) -> ms.Step:
    return ms.Step(tool=tool, result=ms.StepOk(output=output), **fields)


def episode_of(*steps: ms.Step, **fields) -> ms.Episode:
    return ms.Episode(**{"task_description": TASK, "steps": steps, **fields})


def sentences_of(episode: ms.Episode) -> set[str]:
    return {one.text for one in extractive._sentences(episode)}


@given(
    episode=strategies.episodes(),
    max_chars=st.integers(100, 300),
    most=st.integers(0, 4),
)
def test_any_episode_is_summarized_within_the_limits(episode, max_chars, most):
    summarizer = ms.ExtractiveSummarizer(max_chars=max_chars, max_key_steps=most, max_key_concepts=most)
    summary = summarizer.summarize(episode)
    assert isinstance(summarizer, ms.Summarizer)
    assert 0 < len(summary.text.strip()) <= len(summary.text) <= max_chars
    assert len(summary.key_steps) <= min(most, len(episode.steps))
    assert len(summary.key_concepts) <= most
    assert all(len(one) <= 200 for one in summary.key_steps)
    again = summarizer.summarize(episode).model_copy(update={"created_at": summary.created_at})
    assert again == summary


@given(
    texts=st.lists(
        st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta", "the", "12", "a"]), min_size=1), min_size=1
    ),
    insights=st.lists(st.sampled_from(["Frozen clocks help.", "alpha beta", "日本語。時計は止まった"]), max_size=3),
)
def test_the_text_consists_of_sentences_of_the_episode(texts, insights):
    steps = [succeeded(". ".join(" ".join(words).capitalize() for words in texts)), failed("alpha is broken")]
    episode = episode_of(*steps, reflection=ms.Reflection(insights=insights))
    lines = ms.ExtractiveSummarizer(max_chars=150).summarize(episode).text.split("\n")
    assert set(lines) <= sentences_of(episode)
    assert len(set(lines)) == len(lines)


def test_the_outcome_the_task_and_the_insights_come_first():
    episode = episode_of(
        *(succeeded(f"This is prose number {n} about nothing at all.") for n in range(50)),
        task_description="Fix the flaky login test.",
        outcome=ms.Failure(reason="The clock was real."),
        reflection=ms.Reflection(insights=["Freeze the clock in each test."]),
    )
    summary = ms.ExtractiveSummarizer(max_chars=100).summarize(episode)
    assert summary.text == "Fix the flaky login test.\nThe clock was real.\nFreeze the clock in each test."


def test_key_steps_are_failures_recoveries_and_the_last_one():
    steps = [
        succeeded("read", "read"),
        failed("1 of 20 failed"),
        failed("2 of 20 failed"),
        succeeded("ok", "edit", action="freeze the clock"),
        failed("1 of 20 failed"),
        succeeded("20 passed"),
        succeeded("21 passed"),
        ms.Step(tool="wait", result=ms.StepTimeout()),
        ms.Step(tool="push", parameters={"branch": "main", "force": False, "files": ["a"]}),
    ]
    lines = ms.ExtractiveSummarizer(max_key_steps=6).summarize(episode_of(*steps)).key_steps
    assert lines == [
        "1: read → read",
        "3: pytest → failed: 2 of 20 failed",
        "5: pytest → failed: 1 of 20 failed",
        "6: pytest → recovered: 20 passed",
        "8: wait → timed out",
        "9: push branch=main, force=False",
    ]
    three = ms.ExtractiveSummarizer(max_key_steps=3).summarize(episode_of(*steps)).key_steps
    assert [line[:2] for line in three] == ["3:", "6:", "9:"]


def test_key_concepts_are_words_that_several_sentences_have():
    episode = episode_of(
        failed("The login token expired"), succeeded("{'token': 12, 'login': true}"), outcome=ms.Success(verdict="Done")
    )
    concepts = ms.ExtractiveSummarizer(max_key_concepts=3).summarize(episode).key_concepts
    assert concepts[:2] == ["login", "token"]
    assert not {"the", "at"} & set(concepts)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("See e.g. the file a.py, version 1.2.  It helps.", ["See e.g. the file a.py, version 1.2.", "It helps."]),
        ("時計は止まった。直した。", ["時計は止まった。", "直した。"]),
        ("Erste Zeile\r\nÜber alles.\n\n", ["Erste Zeile", "Über alles."]),
        (" \n\t", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text, sentences):
    assert [one.text for one in extractive._of_text(text, 1.0)] == sentences


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"task_description": ""}, "not complete"),
        ({"task_description": " ", "outcome": ms.PartialSuccess(verdict="")}, "partial success"),
        ({"task_description": "x" * 500}, "x" * 99 + "…"),
        ({"task_description": "1. 2."}, "1.\n2."),
    ],
)
def test_an_episode_without_sentences_has_a_summary_too(fields, text):
    assert ms.ExtractiveSummarizer(max_chars=100).summarize(ms.Episode(**fields)).text == text


@pytest.mark.parametrize(
    "argument", [{"max_chars": 99}, {"max_chars": "600"}, {"max_key_steps": -1}, {"max_key_concepts": True}]
)
def test_a_limit_that_makes_no_sense_is_refused(argument):
    (name,) = argument
    with raises(ms.ValidationError, field=name):
        ms.ExtractiveSummarizer(**argument)


HOSTILE = {
    "no spaces": "a" * 10_000_000,
    "full stops": "." * 10_000_000,
    "one-letter sentences": "A. " * 3_000_000,
    "white space": "." + " " * 10_000_000 + "a",
    "lines": "x\n" * 5_000_000,
    "quotes": '."' * 5_000_000,
    "no spaces in the script": "時計は止まった" * 1_400_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
def test_ten_megabytes_of_hostile_text_take_seconds(text):
    episode = ms.Episode(
        task_description=HOSTILE[text],
        outcome=ms.Failure(reason=HOSTILE[text]),
        steps=[ms.Step(tool=HOSTILE[text], action=HOSTILE[text], result=ms.StepOk(output=HOSTILE[text]))],
    )
    start = time.process_time()
    summary = ms.ExtractiveSummarizer().summarize(episode)
    assert time.process_time() - start < 30
    assert len(summary.text) <= 600


@pytest.mark.slow
def test_the_time_grows_no_faster_than_the_steps():
    def seconds(count: int) -> float:
        steps = [succeeded(f"Output {n % 97} of the tool. It is prose, more or less.") for n in range(count)]
        start = time.process_time()
        ms.ExtractiveSummarizer().summarize(episode_of(*steps))
        return time.process_time() - start

    seconds(1_000)
    assert seconds(10_000) < 30 * seconds(1_000)  # ten, and the noise of a busy machine
