"""The mapping of a run in the OpenAI chat format to an episode."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

import memory_storage as ms
from memory_storage.importers import episode_from

from .transcripts import airline_run, answer, call, run

IMPORTED_AT = datetime(2026, 3, 1, tzinfo=timezone.utc)


def only_step(*messages, **fields) -> ms.Step:
    (step,) = episode_from(run(*messages, **fields)).steps
    return step


def test_a_tool_call_with_its_result_is_a_step():
    step = only_step(call("look", '{"where": ["here", 1]}', content="Let me look."), answer("A chair."))
    assert (step.step_number, step.tool, step.action) == (1, "look", "Let me look.")
    assert step.parameters == {"where": ["here", 1]}
    assert step.result == ms.StepOk(output="A chair.")
    assert step.metadata == {"tool_call_id": "call_1", "type": "function"}


@pytest.mark.parametrize("arguments", ["not json", '{"cut": ', "[1, 2]", "null", '{"a": NaN}', '{"a": 1, "a": 2}', [1]])
def test_arguments_that_are_no_object_are_stored_as_one_value(arguments):
    assert only_step(call("look", arguments)).parameters == {"arguments": arguments}


@pytest.mark.parametrize("arguments", ["", None, "{}"])
def test_no_arguments_are_no_parameters(arguments):
    assert only_step(call("look", arguments)).parameters == {}


def test_arguments_may_be_an_object_already():
    assert only_step(call("look", {"a": 1})).parameters == {"a": 1}


@pytest.mark.parametrize("text", ["Error: no such flight", "Error", "Error 404"])
def test_a_result_with_an_error_sign_is_an_error(text):
    assert only_step(call("look"), answer(text)).result == ms.StepError(message=text)


def test_a_result_that_is_marked_as_an_error_is_one():
    assert only_step(call("look"), {**answer("No."), "is_error": True}).result == ms.StepError(message="No.")


@pytest.mark.parametrize("text", ["", "Errors found: 0", "No Error: all is well"])
def test_any_other_result_is_ok(text):
    assert only_step(call("look"), answer(text)).result == ms.StepOk(output=text)


def test_a_call_without_a_response_has_no_result():
    assert only_step(call("look")).result is None


def test_results_find_their_calls_by_id_in_any_order():
    calls = {
        "role": "assistant",
        "tool_calls": [*call("a", call_id="1")["tool_calls"], *call("b", call_id="2")["tool_calls"]],
    }
    episode = episode_from(run(calls, answer("second", call_id="2"), answer("first", call_id="1")))
    assert [(step.tool, step.result.output) for step in episode.steps] == [("a", "first"), ("b", "second")]


def test_a_reused_call_id_belongs_to_the_latest_call():
    episode = episode_from(run(call("a"), answer("one"), call("a"), answer("two"), call("a")))
    assert [step.result and step.result.output for step in episode.steps] == ["one", "two", None]


def test_the_old_function_calls_are_steps_too():
    asked = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"a": 1}'}}
    step = only_step(asked, {"role": "function", "name": "look", "content": "A chair."})
    assert (step.tool, step.parameters, step.result) == ("look", {"a": 1}, ms.StepOk(output="A chair."))


def test_a_result_without_an_id_belongs_to_the_pending_call():
    assert only_step(call("look"), {"role": "tool", "content": "A chair."}).result == ms.StepOk(output="A chair.")


def test_the_texts_of_a_content_in_parts_are_joined():
    parts = [{"type": "text", "text": "A"}, {"type": "text", "text": "chair."}]
    step = only_step(call("look"), answer(parts))
    assert step.result == ms.StepOk(output="A\nchair.")


def test_parts_without_text_stay_in_the_conversation():
    parts = [{"type": "image_url", "image_url": {"url": "https://example.org/chair.png"}}]
    episode = episode_from(run(call("look"), answer(parts)))
    assert episode.steps[0].result.output == "[image_url]"
    assert episode.metadata["conversation"][-1]["content"] == parts


def test_nothing_of_a_run_is_lost():
    record = airline_run(3, 1, calls=5, reward=1.0)
    episode = episode_from(record)
    assert rebuilt(episode) == record


ADDED = {"source", "conversation", "import_notes"}


def rebuilt(episode: ms.Episode) -> dict:
    """The record that an episode came from, from the episode alone."""
    steps = {step.step_number: step for step in episode.steps}
    traj = []
    for message in episode.metadata["conversation"]:
        message = dict(message)
        of = [steps[number] for number in message.pop("step_numbers", [])]
        if message["role"] == "assistant" and of:
            message["tool_calls"] = [
                {
                    "id": step.metadata["tool_call_id"],
                    "type": step.metadata["type"],
                    "function": {"name": step.tool, "arguments": json.dumps(step.parameters)},
                }
                for step in of
            ]
        elif of:
            message["content"] = getattr(of[0].result, "output", None) or of[0].result.message
        traj.append(message)
    others = {name: value for name, value in episode.metadata.items() if name not in ADDED}
    return {**others, "reward": episode.reward.total, "traj": traj}


def test_a_result_without_a_call_stays_in_the_conversation():
    stray = answer("A chair.", call_id="unknown")
    episode = episode_from(run(call("look"), stray))
    assert episode.metadata["conversation"][-1] == stray


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"reward": 1.0}, ms.Success(verdict="reward 1.0")),
        ({"reward": 2}, ms.Success(verdict="reward 2.0")),
        ({"reward": 0.5}, ms.PartialSuccess(verdict="reward 0.5")),
        ({"reward": 0}, ms.Failure(reason="reward 0.0")),
        ({"reward": -1.5}, ms.Failure(reason="reward -1.5")),
        ({"success": True}, ms.Success(verdict="success: true")),
        ({"success": False}, ms.Failure(reason="success: false")),
        ({"success": True, "reward": 0.2}, ms.Success(verdict="success: true")),
        ({"success": False, "reward": 0.9}, ms.Failure(reason="success: false")),
        ({"reward": None, "success": None}, None),
        ({}, None),
    ],
)
def test_the_outcome_comes_from_success_or_else_from_the_reward(fields, outcome):
    episode = episode_from(run(**fields))
    assert episode.outcome == outcome
    assert episode.completed_at is None  # nothing says when
    given = fields.get("reward")
    assert episode.reward == (None if given is None else ms.RewardScore(total=given))


def test_the_task_is_the_instruction():
    assert episode_from(run(info={"task": {"instruction": "Go"}})).task_description == "Go"


@pytest.mark.parametrize("info", [None, {}, {"task": None}, {"task": {"instruction": " "}}, "text"])
def test_without_an_instruction_the_first_message_is_the_task(info):
    assert episode_from(run(info=info)).task_description == "Please book a flight"


def test_the_metadata_of_a_record_can_be_filtered_by():
    metadata = episode_from(run(trial=2, metadata={"model": "small", "seed": 7})).metadata
    assert (metadata["source"], metadata["trial"], metadata["model"], metadata["seed"]) == (
        "openai-chat",
        2,
        "small",
        7,
    )


def test_metadata_that_would_hide_a_field_stays_in_its_place():
    metadata = episode_from(run(trial=2, metadata={"trial": 3})).metadata
    assert (metadata["trial"], metadata["metadata"]) == (2, {"trial": 3})


def test_tags_are_tags():
    assert episode_from(run(tags=["airline", "trial"])).tags == ["airline", "trial"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("created", 1_716_000_000),
        ("timestamp", 1_716_000_000_000),
        ("created_at", "2024-05-18T02:40:00Z"),
        ("started_at", "2024-05-18T04:40:00+02:00"),
        ("timestamp", "2024-05-18T02:40:00"),
    ],
)
def test_a_record_has_its_own_start_time(name, value):
    moment = datetime(2024, 5, 18, 2, 40, tzinfo=timezone.utc)
    episode = episode_from(run(call("a"), call("b"), reward=1, **{name: value}))
    assert episode.started_at == moment
    assert [step.started_at - moment for step in episode.steps] == [timedelta(0), timedelta(microseconds=1)]
    assert episode.completed_at is None
    assert episode.metadata[name] == value


def test_a_record_without_times_starts_when_it_is_imported():
    episode = episode_from(run(call("a"), call("b"), reward=1), started_at=IMPORTED_AT)
    assert (episode.started_at, episode.completed_at) == (IMPORTED_AT, None)
    assert [step.started_at - IMPORTED_AT for step in episode.steps] == [timedelta(0), timedelta(microseconds=1)]
    assert episode.metadata["import_notes"] == ["it has no times: it starts at the time of the import"]


def test_a_message_may_say_when():
    step = only_step({**call("look"), "timestamp": 1_716_000_005}, created=1_716_000_000)
    assert step.started_at == datetime(2024, 5, 18, 2, 40, 5, tzinfo=timezone.utc)


def test_the_same_record_is_the_same_episode():
    record = airline_run(1, 0, calls=2, reward=0.0)
    again = json.loads(json.dumps(dict(reversed(record.items()))))
    assert episode_from(record, started_at=IMPORTED_AT) == episode_from(again, started_at=IMPORTED_AT)
    assert episode_from(record).id.version == 8


def test_another_trial_is_another_episode_with_other_steps():
    one, other = (episode_from(airline_run(1, trial, calls=2, reward=0.0)) for trial in (0, 1))
    assert len({one.id, other.id, *(step.id for episode in (one, other) for step in episode.steps)}) == 6


USER = {"role": "user", "content": "Go"}


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({}, ""),
        ({"messages": [USER], "traj": [USER]}, ""),
        ({"messages": []}, "messages"),
        ({"messages": "text"}, "messages"),
        ({"traj": ["text"]}, "traj.0"),
        ({"messages": [USER, {"content": "no role"}]}, "messages.1"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": {"a": 1}}]}, "messages.1.tool_calls"),
        ({"messages": [{"role": "assistant", "content": "Hello"}]}, "task_description"),
        ({"messages": [USER], "reward": "1.0"}, "reward"),
        ({"messages": [USER], "reward": True}, "reward"),
        ({"messages": [USER], "reward": 10**400}, "reward"),
        ({"messages": [USER], "success": "yes"}, "success"),
        ({"messages": [USER], "tags": "airline"}, "tags"),
        ({"messages": [USER], "conversation": "mine"}, "conversation"),
    ],
)
def test_a_record_that_is_not_a_run_is_refused_by_field(record, field):
    with pytest.raises(ms.ValidationError) as caught:
        episode_from(record)
    assert caught.value.field == field
