"""Full text: words, phrases and prefixes are found; any other input is data."""

from __future__ import annotations

import itertools
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from tests.backends import in_memory
from tests.checks import assert_consistent
from tests.repositories import oracle

_number = itertools.count()

HOSTILE = [
    '"',
    '""',
    '"""',
    "'",
    "*",
    "**",
    '"*',
    '"a"*',
    "a*b*",
    "^a",
    "a:b",
    "description:alpha",
    "{description outcome} : alpha",
    "-alpha",
    "alpha -bravo",
    "alpha AND",
    "AND",
    "OR OR",
    "NOT alpha",
    "NEAR(alpha bravo, 5)",
    "alpha NEAR/3 bravo",
    "(alpha",
    "alpha)",
    "((((",
    "alpha + bravo",
    "'; DROP TABLE episode_words; --",
    "SELECT * FROM episodes",
    "episode_words MATCH 'x'",
    "rank:1",
    "\\",
    "\U0001f469\u200d\U0001f680",
    "漢字",
    "한국어 ひらがな",
    "e\u0301",
    "\u202e",
    "\ufeff",
    "\x01",
    "",
    " ",
    "\t\n",
    "_",
    "-",
    "%",
    "a" * 100_000,
    '"' * 100_000,
    '"' * 100_001,
    "a " * 50_000,
    "* " * 50_000,
    "漢" * 33_000,
    '"' + "a " * 50_000 + '"',
]


def _asked(storage: ms.MemoryStorage, text: str) -> tuple[set[UUID], ms.ValidationError | None]:
    """The ids that are found, or why the text was refused."""
    try:
        return {episode.id for episode in storage.episodes.query(text=text)}, None
    except ms.ValidationError as error:
        return set(), error


@pytest.fixture
def remembered(storage: ms.MemoryStorage) -> dict[str, ms.Episode]:
    """Episodes by the one place in which each has the words "flaky refresh"."""
    words = "the flaky refresh of tokens"
    found = {
        "description": ms.Episode(task_description=words),
        "verdict": ms.Episode(task_description="", outcome=ms.Success(verdict=words)),
        "artifacts": ms.Episode(task_description="", outcome=ms.Success(verdict="", artifacts=["a", words])),
        "completed": ms.Episode(task_description="", outcome=ms.PartialSuccess(verdict="", completed=[words])),
        "failed": ms.Episode(task_description="", outcome=ms.PartialSuccess(verdict="", failed=[words])),
        "details": ms.Episode(task_description="", outcome=ms.Failure(reason="", error_details=words)),
        "reason": ms.Episode(task_description="", outcome=ms.Abstained(reason=words)),
        "signals": ms.Episode(task_description="", outcome=ms.Abstained(reason="", infeasibility_signals=[words])),
        "successes": ms.Episode(task_description="", reflection=ms.Reflection(successes=[words])),
        "improvements": ms.Episode(task_description="", reflection=ms.Reflection(improvements=[words])),
        "insights": ms.Episode(task_description="", reflection=ms.Reflection(insights=["x", words])),
        "tags": ms.Episode(task_description="", tags=["ab", words]),
        "tool": ms.Episode(task_description="", steps=[ms.Step(tool="t"), ms.Step(tool=words)]),
        "action": ms.Episode(task_description="", steps=[ms.Step(tool="t", action=words)]),
        "parameters": ms.Episode(task_description="", steps=[ms.Step(tool="t", parameters={"a": {"b": [words]}})]),
        "output": ms.Episode(task_description="", steps=[ms.Step(tool="t", result=ms.StepOk(output=words))]),
        "message": ms.Episode(task_description="", steps=[ms.Step(tool="t", result=ms.StepError(message=words))]),
    }
    others = [
        ms.Episode(task_description="nothing of that", metadata={"flaky": "flaky refresh"}),
        ms.Episode(task_description="refresh", artifacts=["flaky"], steps=[ms.Step(tool="t", metadata={"a": words})]),
    ]
    storage.episodes.save_many([*found.values(), *others])
    storage.in_namespace("another").episodes.save(ms.Episode(task_description=words))
    return found


@pytest.mark.parametrize(
    "text", ["flaky", "FLAKY refresh", "refresh flaky", '"flaky refresh"', "flak*", "flaky, token!"]
)
def test_words_are_found_wherever_they_stand(storage, remembered, text):
    assert {episode.id for episode in storage.episodes.query(text=text)} == {e.id for e in remembered.values()}
    assert storage.episodes.count(text=text) == len(remembered)


@pytest.mark.parametrize("text", ['"refresh flaky"', "flak", "flaky missing", "fl*aky", '"flaky tokens"'])
def test_what_does_not_stand_there_is_not_found(storage, remembered, text):
    assert storage.episodes.count(text=text) == 0


@pytest.mark.parametrize("text", ["", " ", "*", '"', "-- ()", "\u200b"])
def test_a_text_without_words_finds_nothing(storage, remembered, text):
    assert storage.episodes.count(text=text) == 0


@pytest.mark.whole_database
def test_replaced_and_deleted_text_is_not_found(storage, remembered):
    for place, episode in remembered.items():
        if episode.steps:
            storage.steps.delete(episode.steps[-1].id)
        elif place in {"description", "tags"}:
            kept = storage.episodes.get(episode.id)
            storage.episodes.save(kept.model_copy(update={"task_description": "", "tags": []}))
        else:
            storage.episodes.delete(episode.id)
    assert storage.episodes.count(text="flaky refresh") == 0
    assert_consistent(storage.engine)


@settings(max_examples=25)
@given(
    rows=st.lists(st.lists(st.sampled_from(oracle.WORDS), max_size=4), max_size=6),
    asked=st.lists(st.sampled_from(oracle.WORDS), min_size=1, max_size=3),
)
def test_complete_words_are_found_as_by_a_loop(storage, rows, asked):
    memory = storage.in_namespace(f"text {next(_number)}")
    saved = memory.episodes.save_many([ms.Episode(task_description=" ".join(words)) for words in rows])
    found = list(memory.episodes.query(text=" ".join(asked), direction="oldest_first"))
    assert found == [episode for episode, words in zip(saved, rows, strict=True) if set(asked) <= set(words)]


@pytest.mark.whole_database
def test_nothing_typed_is_an_operator_or_does_harm(storage):
    saved = storage.episodes.save(ms.Episode(task_description="alpha bravo"))
    others = [
        storage.episodes.save(ms.Episode(task_description=text[:10_000], steps=[ms.Step(tool="t", action=text)]))
        for text in HOSTILE
    ]
    for text in HOSTILE:
        found, refused = _asked(storage, text)
        assert refused is None or refused.field == "text", text[:50]
        assert saved.id not in found or oracle.words_of(text) <= {"alpha", "bravo"}, text
    assert [storage.episodes.get(other.id) for other in others] == others
    assert_consistent(storage.engine)


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.text("\"*^:-+(){}'\\ aANDORTE", max_size=20)
)
def test_no_text_raises_anything_but_a_validation_error(storage, text):
    _, refused = _asked(storage, text)
    assert refused is None or refused.field == "text"


@pytest.mark.parametrize(
    "text", ["a\0b", "\ud800", "a \udfff", "a" * 2001, 5, ["a"], {"a": 1}, True, "w " * 65, "漢 " * 65]
)
@in_memory
def test_what_cannot_be_looked_for_is_refused(storage, text):
    with pytest.raises(ms.ValidationError) as caught:
        storage.episodes.query(text=text)
    assert caught.value.field == "text"


def test_a_text_that_is_stored_is_found_by_all_of_its_words(storage):
    @settings(max_examples=40)
    @given(words=st.lists(st.text(st.characters(categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=8), max_size=5))
    def check(words):
        memory = storage.in_namespace(f"text {next(_number)}")
        episode = memory.episodes.save(ms.Episode(task_description=" ".join(words)))
        for text in [*words, " ".join(words), f'"{" ".join(words)}"']:
            if text.strip('"'):
                assert list(memory.episodes.query(text=text)) == [episode]

    check()
