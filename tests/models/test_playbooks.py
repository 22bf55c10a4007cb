"""Playbooks: their limits, how they are composed from patterns, and their Markdown."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.models import AnyPattern, new_id
from memory_storage.models.markdown import DETAILS, pattern_markdown
from tests import strategies as made
from tests.raising import raises


def sequence(*tools: str, **fields: object) -> ms.ToolSequence:
    return ms.ToolSequence(tools=list(tools), **fields)


def tools_of(*patterns: AnyPattern) -> list[str | None]:
    return [step.tool for step in ms.Playbook.from_patterns("p", patterns).steps]


def playbook(count: int, **fields: object) -> ms.Playbook:
    steps = [ms.PlaybookStep(action=f"action {number}", tool=f"tool{number}") for number in range(1, count + 1)]
    return ms.Playbook(**{"name": "Deploy", "steps": steps, **fields})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"steps": []}, "steps"),
        ({"steps": [{"action": "a"}] * 101}, "steps"),
        ({"steps": [{"action": ""}]}, "steps.0.action"),
        ({"steps": [{"tool": ""}]}, "steps.0.action"),
        ({"steps": [{"action": "a", "tool": 5}]}, "steps.0.tool"),
        ({"steps": [{"action": "a", "parameters": {"a": {1}}}]}, "steps.0.parameters"),
        ({"sources": ["x"]}, "sources.0"),
    ],
)
def test_what_is_no_playbook_is_refused_by_its_field(fields, field):
    with pytest.raises(ms.ValidationError) as caught:
        ms.Playbook(**{"name": "n", "steps": [{"action": "a"}], **fields})
    assert caught.value.field.startswith(field)


def test_the_largest_playbook_is_accepted():
    largest = ms.Playbook(name="x" * 200, steps=[ms.PlaybookStep(tool="t")] * 100)
    assert (len(largest.name), len(largest.steps)) == (200, 100)


@pytest.mark.parametrize(
    ("patterns", "field"),
    [
        ([], "patterns"),
        ("abc", "patterns"),
        (5, "patterns"),
        (None, "patterns"),
        (ms.ToolSequence(tools=["t"]), "patterns"),
        ([ms.ToolSequence(tools=["t"]), "x"], "patterns.1"),
        ([ms.ToolSequence(tools=["t"]) for _ in range(101)], "patterns"),
        ([ms.ToolSequence(tools=["t"])] * 2, "patterns"),
        ([ms.ToolSequence(tools=[])], "patterns"),
        ([ms.ToolSequence(tools=[str(number) for number in range(101)])], "patterns"),
        ([playbook(100) for _ in range(11)], "patterns"),
    ],
    ids=[
        "none",
        "a text",
        "a number",
        "None",
        "a pattern",
        "no pattern",
        "too many",
        "one twice",
        "empty",
        "too long",
        "too much",
    ],
)
def test_patterns_that_make_no_playbook_are_refused(patterns, field):
    with raises(ms.ValidationError, field=field):
        ms.Playbook.from_patterns("p", patterns)


def test_sequences_that_overlap_are_joined_in_their_order():
    grep, edit, test = sequence("grep", "read"), sequence("read", "edit", "save"), sequence("edit", "save", "pytest")
    expected = ["grep", "read", "edit", "save", "pytest"]
    assert tools_of(grep, edit, test) == tools_of(test, grep, edit) == tools_of(edit, test, grep) == expected


def test_a_sequence_within_another_adds_nothing():
    assert tools_of(sequence("b", "c"), sequence("a", "b", "c", "d"), sequence("a", "b", "c", "d")) == list("abcd")


def test_the_longest_overlap_is_joined_first():
    assert tools_of(sequence("x", "a"), sequence("a", "b", "c"), sequence("y", "a", "b")) == [
        "x",
        "a",
        "y",
        "a",
        "b",
        "c",
    ]


def test_evidence_in_common_decides_between_equal_overlaps():
    shared = new_id()
    one, other = sequence("x", "a", evidence=[new_id()]), sequence("y", "a", evidence=[shared])
    assert tools_of(one, other, sequence("a", "b", evidence=[shared])) == ["x", "a", "y", "a", "b"]


def test_sequences_in_a_circle_are_joined_once():
    assert tools_of(sequence("a", "b"), sequence("b", "c"), sequence("c", "a")) == ["a", "b", "c", "a"]


def test_what_does_not_overlap_keeps_the_given_order():
    rule = ms.Heuristic(condition="it is late", action="stop")
    assert tools_of(sequence("c"), rule, sequence("a", "b")) == ["c", None, "a", "b"]


def test_rules_become_steps_with_a_condition():
    steps = ms.Playbook.from_patterns(
        "p",
        [
            ms.Heuristic(condition="it is late", action="stop"),
            ms.DecisionPoint(condition="", action="ask"),
            ms.ContextPattern(context_features=["python", "web"], recommended_approach="use async"),
        ],
    ).steps
    assert [(step.condition, step.action, step.tool) for step in steps] == [
        ("it is late", "stop", None),
        (None, "ask", None),
        ("python, web", "use async", None),
    ]


def test_a_recovery_is_what_to_do_on_an_error_of_its_tool():
    learned = ms.ErrorRecovery(error_type="Timeout", recovery_steps=["wait", "pytest"], metadata={"tool": "pytest"})
    written = ms.ErrorRecovery(error_type="Locked", recovery_steps=["kill", "pytest"])
    steps = ms.Playbook.from_patterns("p", [learned, sequence("pytest", "edit", "pytest"), written]).steps
    assert [step.on_error for step in steps] == [
        "Timeout: wait → pytest; Locked: kill → pytest",
        None,
        "Timeout: wait → pytest; Locked: kill → pytest",
    ]


def test_a_recovery_without_its_tool_is_a_step_of_its_own():
    recovery = ms.ErrorRecovery(error_type="Disk full", recovery_steps=["df", "rm"])
    rule = ms.Heuristic(condition="c", action="a")
    last = ms.Playbook.from_patterns("p", [rule, recovery]).steps[-1]
    assert (last.condition, last.action, last.tool) == ("Disk full", "df → rm", None)


def test_a_playbook_is_a_part_like_a_sequence():
    step = ms.PlaybookStep(tool="pytest", action="run all", on_error="read the log")
    part = ms.Playbook(name="part", steps=[ms.PlaybookStep(tool="edit"), step])
    recovery = ms.ErrorRecovery(error_type="Timeout", recovery_steps=["pytest"])
    whole = ms.Playbook.from_patterns("whole", [part, sequence("grep", "edit"), recovery])
    assert [one.tool for one in whole.steps] == ["grep", "edit", "pytest"]
    assert (whole.steps[2].action, whole.steps[2].on_error) == ("run all", "read the log; Timeout: pytest")


def test_statistics_are_pooled_and_the_context_is_what_all_share():
    episodes = [new_id() for _ in range(4)]
    web = {"language": "python", "domain": "web", "tags": ["ci", "unit"]}
    one = sequence(
        "a", success_rate=1.0, occurrence_count=3, evidence=episodes[:3], tags=["x1"], context=ms.TaskContext(**web)
    )
    other = sequence(
        "b",
        success_rate=0.5,
        occurrence_count=1,
        evidence=episodes[1:],
        tags=["x2", "x1"],
        context=ms.TaskContext(**{**web, "domain": "cli", "tags": ["unit"]}),
    )
    whole = ms.Playbook.from_patterns("p", [one, other])
    assert (whole.success_rate, whole.occurrence_count) == (0.875, 4)
    assert (whole.evidence, whole.tags, whole.sources) == (episodes, ["x1", "x2"], [one.id, other.id])
    assert whole.context == ms.TaskContext(language="python", tags=["unit"])
    assert (whole.version, whole.effectiveness) == (0, ms.models.Effectiveness())


def test_evidence_is_united_up_to_a_thousand_episodes():
    parts = [sequence(str(n), evidence=[UUID(int=600 * n + i) for i in range(600)]) for n in range(2)]
    assert ms.Playbook.from_patterns("p", parts).evidence == [UUID(int=number) for number in range(1_000)]


def test_the_words_of_tasks_are_quoted_as_learned_patterns_do():
    one = sequence("a", description="a (tasks: login, test)", tags=["learned"])
    other = sequence("b", description="b (tasks: test, token)", tags=["learned"])
    written = sequence("c", description="see (tasks: x) there")
    assert ms.Playbook.from_patterns("P", [one, other, written]).description == "P (tasks: login, test, token)"
    assert ms.Playbook.from_patterns("P", [one], description="mine").description == "mine"
    assert ms.Playbook.from_patterns("P", [written]).description == ""


@given(patterns=st.lists(made.patterns, min_size=1, max_size=6, unique_by=lambda one: one.id))
def test_any_patterns_make_the_same_playbook_each_time(patterns):
    patterns.append(sequence("a tool"))  # the others may be empty
    one = ms.Playbook.from_patterns("p", patterns)
    assert ms.Playbook.from_patterns("p", iter(patterns)).model_copy(update={"id": one.id}) == one
    assert ms.Playbook.model_validate_json(one.model_dump_json()) == one
    rates = [pattern.success_rate for pattern in patterns]
    assert min(rates) - 1e-9 <= one.success_rate <= max(rates) + 1e-9
    assert one.occurrence_count == min(2**63 - 1, sum(pattern.occurrence_count for pattern in patterns))


@given(tools=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=6))
def test_each_sequence_is_in_the_composed_one(tools):
    whole = "".join(map(str, tools_of(*(sequence(*one) for one in tools))))
    assert all("".join(one) in whole for one in tools)
    assert len(whole) <= sum(map(len, tools))


def test_the_markdown_numbers_the_steps():
    steps = [
        ms.PlaybookStep(tool="pytest", action="run it", parameters={"n": 20}, expected_result="it fails"),
        ms.PlaybookStep(action="freeze the clock", condition="it reads the time", on_error="pass now="),
        ms.PlaybookStep(tool="git push"),
    ]
    text = ms.Playbook(name="Fix", description="why", steps=steps, success_rate=0.9, occurrence_count=20).to_markdown()
    assert text.splitlines() == [
        "- Playbook: Fix: why (success rate 90% of 20, 95% interval 70% to 97%)",
        "  1. Use `pytest`: run it with `n=20`. Expect: it fails",
        "  2. If it reads the time, do: freeze the clock. On error: pass now=",
        "  3. Use `git push`",
    ]


def test_a_playbook_that_was_written_has_the_rate_of_its_uses():
    assert "(not applied yet)" in playbook(1).to_markdown()
    used = ms.models.Effectiveness(times_applied=4, success_when_applied=3, failure_when_applied=1)
    said = "success rate 75% of 4, 95% interval 30% to 95%, applied 4 times, 3 with success"
    assert said in playbook(1, effectiveness=used).to_markdown()
    assert "success rate 0% of 2" in playbook(1, occurrence_count=2).to_markdown()


@pytest.mark.parametrize("max_chars", [*range(60, 1_500, 60)])
def test_a_limit_leaves_whole_steps(max_chars):
    whole = playbook(50).to_markdown().splitlines()
    text = playbook(50).to_markdown(max_chars=max_chars)
    assert len(text) <= max_chars
    head, *steps = text.splitlines()
    if steps and steps[-1] not in whole:
        assert steps.pop() == f"  - and {50 - len(steps)} steps that are not shown"
    assert steps == whole[1 : len(steps) + 1]
    assert head == whole[0] or not steps


@given(one=made.PATTERNS_BY_KIND["playbook"], detail=st.sampled_from(DETAILS))
def test_no_text_adds_a_line_or_a_block(one, detail):
    head, *steps = pattern_markdown(one, detail).split("\n")
    assert head.startswith("- Playbook: ")
    shown = min(len(one.steps), detail.steps)
    assert len(steps) == shown + (detail.steps > 0 and len(one.steps) > shown)
    assert all(re.match(rf"  {number}\. (Use `|Do: |If )", line) for number, line in enumerate(steps[:shown], 1))


def test_a_repr_and_a_table_have_the_name():
    one = playbook(2, description="to production")
    assert repr(one).startswith(f"Playbook({str(one.id)[:13]}…, 'Deploy")
    assert "steps=2" in repr(one)
    assert "Deploy: to production" in str(ms.Page([one]))
    assert one.title == "Deploy: to production"
    assert playbook(1, description="Deploy it").title == "Deploy it"
