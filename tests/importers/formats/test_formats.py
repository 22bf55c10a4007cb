"""Every format: recognised, counted as its JSON says, importable again, growing, and reported where it is broken."""

from __future__ import annotations

import codecs
import gzip
import io
import json
from collections import Counter

import pytest

import memory_storage as ms
from memory_storage.importers import FORMATS, ImportReport, import_stream

from ...backends import in_memory
from ...raising import raises
from ...schema.spy import spied
from .counting import Counts, counted
from .files import CLAUDE_CODE, CODEX, FILES, OPENHANDS_V1, claude, codex, lines, result, spoken, text, use

LINES = ["claude-code", "codex", "codex-legacy", "openhands-v1"]
"""Files that a program appends to while an agent works."""


def imported(storage: ms.MemoryStorage, data: bytes, **options: object) -> ImportReport:
    return import_stream(storage, io.BytesIO(data), **options)  # type: ignore[arg-type] # checked by the importer


def episodes_in(storage: ms.MemoryStorage) -> list[ms.Episode]:
    return sorted(storage.episodes.iterate(), key=lambda one: (one.started_at, str(one.id)))


def contents(episode: ms.Episode) -> dict[str, object]:
    """The episode without what differs from one import to another."""
    undated = {"started_at", "completed_at", "created_at", "updated_at", "version", "steps"}
    steps = [step.model_dump(exclude={"started_at"}) for step in episode.steps]
    return {**episode.model_dump(exclude=undated), "steps": steps}


@pytest.mark.parametrize("name", FILES)
@in_memory
def test_what_is_stored_is_what_its_json_has(storage, name):
    format_, data = FILES[name]
    report = imported(storage, data)
    assert (report.format, report.failed) == (format_, [])
    steps = [step for episode in storage.episodes.iterate() for step in episode.steps]
    stored = Counts(
        storage.episodes.count(),
        dict(Counter(step.tool for step in steps)),
        sum(isinstance(step.result, ms.StepError) for step in steps),
        sum(step.tokens_used or 0 for step in steps),
    )
    assert stored == counted(name, data)
    assert (report.imported, report.steps) == (stored.episodes, len(steps))
    assert (report.errors, report.tokens) == (stored.errors, stored.tokens)


@pytest.mark.parametrize("name", FILES)
@in_memory
def test_a_file_is_read_the_same_however_it_is_written(storage, name):
    format_, data = FILES[name]
    imported(storage, data)
    before = episodes_in(storage)
    for again in (data, gzip.compress(data), codecs.BOM_UTF8 + data, data.replace(b"\n", b"\r\n")):
        report = imported(storage, again)
        assert report.format == format_
        assert (report.imported, report.updated, report.unchanged) == (0, 0, len(before))
    assert episodes_in(storage) == before
    assert imported(storage, data, format=format_).unchanged == len(before)


@pytest.mark.parametrize("name", FILES)
@in_memory
def test_no_other_format_reads_the_file(storage, name):
    format_, data = FILES[name]
    chats = {"openai-chat", "anthropic", "mini-swe-agent"}
    for other in set(FORMATS) - {format_} - (chats if format_ in chats else set()):
        with raises(ms.ValidationError, field="file"):
            imported(storage, data, format=other)
    assert storage.episodes.count() == 0


@pytest.mark.parametrize("name", LINES)
@in_memory
def test_a_file_that_grows_line_by_line_extends_its_episodes(storage, name):
    data = FILES[name][1]
    whole = data.splitlines(keepends=True)
    for count in range(1, len(whole) + 1):
        assert imported(storage, b"".join(whole[:count]), format=FILES[name][0]).failed == []
    with ms.MemoryStorage.open(":memory:") as at_once:
        imported(at_once, data)
        assert list(map(contents, episodes_in(storage))) == list(map(contents, episodes_in(at_once)))
    # An older copy of the file adds nothing.
    report = imported(storage, b"".join(whole[: len(whole) // 2]))
    assert (report.imported, report.updated) == (0, 0)


@pytest.mark.parametrize("name", LINES)
@in_memory
def test_a_line_that_cannot_be_read_is_reported_alone(storage, name):
    whole = FILES[name][1].splitlines(keepends=True)
    bad = [
        b'{"type": "user", "cut', b'"text"', b"[]", b'{"silly": "this"}', b'{"a": "\\u0000"}', b'{"a": "\\ud800"}',
        b'{"a": 1, "a": 2}', b'{"n": NaN}', b'\xff', b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ]  # fmt: skip
    mixed = [whole[0], *(line + b"\n" for line in bad), *whole[1:]]
    report = imported(storage, b"".join(mixed))
    reported = {problem.line for problem in report.failed}
    if name == "openhands-v1":  # an object that is not an event is a record of its own
        assert {2, 3, 6, 7, 8, 9, 10, 11} <= reported
    else:
        assert reported == set(range(2, 2 + len(bad)))
        assert (report.imported, report.steps) == counted_of(name)


def counted_of(name: str) -> tuple[int, int]:
    counts = counted(name, FILES[name][1])
    return counts.episodes, sum(counts.tools.values())


@in_memory
def test_an_unknown_file_is_refused_with_what_can_be_read(storage):
    with pytest.raises(ms.ValidationError) as caught:
        imported(storage, b'{"what": "is this"}')
    assert caught.value.field == "file"
    for title in ("Claude Code", "Codex", "ATIF", "SWE-agent", "OpenHands", "LangChain", "ShareGPT", "export"):
        assert title in caught.value.limit


@pytest.mark.parametrize("format_", [None, "auto"])
@in_memory
def test_auto_is_the_default(storage, format_):
    assert imported(storage, FILES["atif"][1], format=format_).format == "atif"


@in_memory
def test_strict_imports_nothing_of_a_session_with_a_broken_line(storage):
    report = imported(storage, FILES["claude-code"][1] + b'{"type": "user"}\n', strict=True)
    assert (report.imported, len(report.failed)) == (0, 1)
    assert storage.episodes.count() == 0


@in_memory
def test_an_id_field_is_refused_where_the_format_has_its_own_ids(storage):
    with raises(ms.ValidationError, field="id_field"):
        imported(storage, FILES["codex"][1], format="codex", id_field="payload.id")


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@in_memory
def test_values_of_other_types_are_problems_not_crashes(storage, name):
    """Each value of the file in turn is replaced by one of another type."""
    format_, data = FILES[name]
    documents = [json.loads(data)] if data[:2] in (b"[\n", b"{\n") else list(map(json.loads, data.splitlines()))
    for document in documents[:6]:
        for mutated in mutations(document):
            rest = [mutated if one is document else one for one in documents]
            body = lines(*rest)
            try:
                imported(storage, body, format=format_)
            except ms.ValidationError as error:
                assert error.field in ("file", "format")  # noqa: PT017 - it may be of no format, too


def mutations(value: object, depth: int = 0) -> list[object]:
    """Return copies of a document, each with one value replaced."""
    found: list[object] = []
    others: list[object] = [None, 7, "x", [], {}, [None], {"a": [1]}]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += [{**value, key: other} for other in others[depth % 3 :: 3]]
            found += [{**value, key: changed} for changed in mutations(inner, depth + 1)]
            found.append({name: one for name, one in value.items() if name != key})
    elif isinstance(value, list):
        for index, inner in enumerate(value[:3]):
            changed = [*mutations(inner, depth + 1), *others[depth % 3 :: 3]]
            found += [[*value[:index], one, *value[index + 1 :]] for one in changed]
    return found


def test_a_session_has_an_episode_for_each_prompt(storage):
    imported(storage, FILES["claude-code"][1])
    fix, survey, logout, review = episodes_in(storage)
    assert [one.task_description for one in (fix, survey, logout, review)] == [
        "Fix the login", "Survey src", "And the logout, please", "/review 12",
    ]  # fmt: skip
    assert [(step.tool, step.action, step.tokens_used, step.latency_ms) for step in fix.steps] == [
        ("Bash", "I look.", 28, 2000), ("Read", "", None, 2000), ("Task", "", 19, 5000),
    ]  # fmt: skip
    assert fix.steps[0].result == ms.StepError(message="Exit code 1\nfailed")
    assert fix.steps[1].result == ms.StepOk(output="Error: is only what the file says")
    assert fix.metadata["final_answer"] == "It is fixed."
    assert fix.metadata["usage"]["cache_read_input_tokens"] == 50
    assert fix.metadata["git_branch"] == "main"
    assert fix.outcome is None
    assert survey.metadata["agent_id"] == fix.steps[2].metadata["agent_id"] == "a1"
    assert logout.metadata["is_interrupted"] is True


@in_memory
def test_what_is_not_taken_is_counted_by_name(storage):
    report = imported(storage, FILES["claude-code"][1])
    assert report.not_taken == {
        "thinking blocks": 1, "details of results (toolUseResult)": 2, "file-history-snapshot lines": 1,
        "meta messages": 2, "local commands": 1, "outputs of local commands": 1, "system lines": 1, "summary lines": 1,
    }  # fmt: skip


@in_memory
def test_a_session_that_was_resumed_in_another_file_doubles_nothing(storage):
    imported(storage, lines(*CLAUDE_CODE))
    before = episodes_in(storage)
    copied = [{**line, "sessionId": "another"} for line in CLAUDE_CODE]
    report = imported(storage, lines(*copied, claude(30, "user", "More", sessionId="another")))
    assert (report.imported, report.updated, report.failed) == (1, 0, [])
    assert [one for one in episodes_in(storage) if one.task_description != "More"] == before


@in_memory
def test_what_precedes_the_first_prompt_is_a_task_of_its_own(storage):
    records = [claude(1, "assistant", [text("I continue."), use("Bash", "t1")]), claude(2, "user", [result("t1", "x")])]
    assert imported(storage, lines(*records)).imported == 1
    (episode,) = storage.episodes.query()
    assert episode.task_description == "I continue."
    only_results = imported(storage, lines(claude(5, "user", [result("t9", "x")], sessionId="other")))
    assert (only_results.imported, only_results.not_taken) == (0, {"results without a call": 1})


@in_memory
def test_subagents_without_an_id_are_separated_by_parent(storage):
    side = {"isSidechain": True}
    first, second = claude(1, "user", "Survey web", **side), claude(2, "user", "Survey jobs", **side)
    third = claude(3, "assistant", [use("Grep", "t1")], **side) | {"parentUuid": second["uuid"]}
    fourth = claude(4, "assistant", [use("Read", "t2")], **side) | {"parentUuid": first["uuid"]}
    imported(storage, lines(first, second, third, fourth))
    found = {one.task_description: [step.tool for step in one.steps] for one in storage.episodes.iterate()}
    assert found == {"Survey web": ["Read"], "Survey jobs": ["Grep"]}


@in_memory
def test_several_rewards_without_a_total_are_no_reward(storage):
    atif = json.loads(FILES["atif"][1])
    atif["extra"] = {"verifier_result": {"rewards": {"speed": 0.5, "style": 1.0}}}
    imported(storage, lines(atif))
    assert {one.outcome for one in storage.episodes.iterate()} == {None}
    imported(storage, lines({**atif, "trajectory_id": "t-3", "extra": {"verifier_result": {"rewards": {"tests": 0}}}}))
    assert storage.episodes.count(outcome="failure") == 1


def test_a_session_that_is_read_again_costs_no_round_trip_for_each_episode(storage):
    records = [claude(number, "user", f"Task {number}") for number in range(1, 51)]
    imported(storage, lines(*records))
    with spied(storage.engine) as batches:
        assert imported(storage, lines(*records)).unchanged == 50
    assert len(batches) <= 6


@in_memory
def test_another_branch_of_a_task_is_reported(storage):
    imported(storage, lines(*CLAUDE_CODE[:8]))
    report = imported(storage, lines(CLAUDE_CODE[1], claude(40, "assistant", [use("Other", "t40")])))
    assert (report.imported, report.updated) == (0, 0)
    assert "another run is stored as this session" in report.failed[0].message


@in_memory
def test_a_codex_message_given_twice_is_one_turn(storage):
    imported(storage, lines(*CODEX))
    first, second = episodes_in(storage)
    assert [first.task_description, second.task_description] == ["List the files.", "Run the tests."]
    assert first.steps[0].result == ms.StepError(message="no such file")
    assert first.steps[1].parameters == {"arguments": "*** Begin Patch"}
    assert (first.metadata["turn"], second.metadata["turn"]) == (1, 2)
    assert second.steps[1].parameters == {"type": "exec", "command": ["ls"]}


@in_memory
def test_a_codex_message_that_is_sent_again_is_another_turn(storage):
    prompt = codex(30, "response_item", **spoken("user", "Continue"))
    done = codex(31, "response_item", **spoken("assistant", "Done"))
    assert imported(storage, lines(CODEX[0], prompt, done, prompt, done)).imported == 2


@in_memory
def test_a_reward_of_a_verifier_is_the_outcome(storage):
    imported(storage, FILES["atif"][1])
    (episode,) = storage.episodes.query(outcome="success")
    assert episode.reward == ms.RewardScore(total=1.0)
    assert storage.episodes.count() == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("submitted", None), ("submitted (exit_cost)", None), ("Submitted", None), ("exit_cost", "failure"),
        ("exit_forfeit", "abstained"), ("LimitsExceeded", "failure"), ("RuntimeError", "failure"), ("", None),
        (None, None), ("skipped", None), (7, None),
    ],
)  # fmt: skip
@in_memory
def test_an_exit_status_is_an_outcome_only_if_nothing_was_submitted(storage, status, kind):
    record = {**json.loads(FILES["swe-agent"][1]), "info": {"exit_status": status}}
    imported(storage, lines(record))
    (episode,) = storage.episodes.query()
    assert (episode.outcome and episode.outcome.kind) == kind


@in_memory
def test_an_evaluation_is_an_outcome_and_an_agents_claim_is_not(storage):
    imported(storage, FILES["openhands"][1])
    assert storage.episodes.query().items[0].outcome is None
    imported(storage, FILES["openhands-output"][1])
    assert storage.episodes.count(outcome="success") == storage.episodes.count(outcome="failure") == 1


@in_memory
def test_a_span_of_a_tool_has_its_error_and_duration(storage):
    imported(storage, FILES["otel"][1])
    (episode,) = storage.episodes.query()
    (step,) = episode.steps
    assert (step.result, step.latency_ms) == (ms.StepError(message="no connection"), 1000)
    assert (episode.metadata["session_id"], episode.metadata["service"]) == ("conv-1", "agent")


@in_memory
def test_events_of_a_conversation_have_its_first_id(storage):
    imported(storage, lines(*OPENHANDS_V1))
    (before,) = storage.episodes.query()
    more = {**OPENHANDS_V1[1], "id": "later", "llm_message": {"role": "user", "content": [text("Thanks")]}}
    assert imported(storage, lines(*OPENHANDS_V1, more)).updated == 1
    assert storage.episodes.get(before.id).metadata["conversation"][-1]["content"] == "Thanks"
