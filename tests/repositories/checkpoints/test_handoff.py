"""A handoff has what is needed to continue an episode, in one round trip and within a budget."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import memory_storage as ms
from memory_storage.models import new_id
from tests.backends import in_memory
from tests.raising import raises
from tests.recall.test_layout import MARKUP, hostile_patterns

LINE = re.compile("(# Handoff: |## (Next|Failed|Worked|Done|Patterns)$|- )|$")
_TEXTS = st.lists(st.sampled_from(MARKUP) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=3)
_LISTS = st.lists(_TEXTS.map("".join), max_size=4)


def _step(tool: str, action: str = "", error: str | None = None) -> ms.Step:
    result = ms.StepOk(output="done") if error is None else ms.StepError(message=error)
    return ms.Step(tool=tool, action=action, result=result)


def test_a_handoff_of_open_work_says_what_was_done_and_what_failed(storage):
    key = storage.episodes.save(ms.Episode(task_description="Fix the login")).id
    steps = [_step("grep", "token"), _step("grep", "token"), _step("edit", "login.py")]
    storage.episodes.append_steps(key, [*steps, _step("pytest", "run", "1 failed"), ms.Step(tool="wait")])
    handoff = storage.episodes.handoff(key)
    assert (handoff.episode_id, handoff.goal, handoff.status, handoff.steps) == (key, "Fix the login", "open", 5)
    assert handoff.done == ["1 to 2: grep token (2 times)", "3: edit login.py", "5: wait"]
    assert handoff.worked == ["grep: 2 of 2 calls succeeded", "edit: 1 of 1 call succeeded"]
    assert handoff.failed == ["4: pytest run: 1 failed"]
    assert (handoff.next, handoff.patterns, handoff.checkpoint, handoff.state) == ([], [], None, {})
    storage.episodes.append_step(key, ms.Step(tool="slow", result=ms.StepTimeout()))
    handoff = storage.episodes.handoff(str(key))
    assert handoff.failed[-1] == "6: slow: timeout"
    assert handoff.next == ["resolve what failed in step 6: slow"]


def test_a_handoff_has_the_outcome_and_the_reflection(storage):
    key = storage.episodes.save(ms.Episode(task_description="t", steps=[_step("a")])).id
    reflection = ms.Reflection(successes=["good"], improvements=["better"], insights=["look first"])
    outcome = ms.PartialSuccess(verdict="half", completed=["one"], failed=["two"])
    storage.episodes.complete(key, outcome, reflection=reflection)
    handoff = storage.episodes.handoff(key)
    assert handoff.status == "partial_success"
    assert handoff.worked == ["half", "one", "good", "look first"]
    assert (handoff.failed, handoff.next) == (["two"], ["two", "better"])
    storage.episodes.complete(key, ms.Abstained(reason="no access", infeasibility_signals=["403"]))
    assert storage.episodes.handoff(key).failed == ["no access", "403"]
    storage.episodes.complete(key, ms.Failure(reason="broken"))
    assert storage.episodes.handoff(key).failed == ["broken"]


def test_a_handoff_is_of_the_latest_checkpoint_or_of_the_given_one(storage):
    key = storage.episodes.save(ms.Episode(task_description="t", steps=[_step("a")])).id
    first = storage.episodes.checkpoint(key, "first", state={"next": "do it", "at": 1})
    storage.episodes.append_steps(key, [_step("b"), _step("c", error="no")])
    second = storage.episodes.checkpoint(key, "second", state={"next": ["this", 5, "that"]})
    latest, earlier = storage.episodes.handoff(key), storage.episodes.handoff(first)
    assert (latest.checkpoint, latest.steps, latest.state) == (second, 3, second.state)
    assert latest.next == ["this", "that", "resolve what failed in step 3: c"]
    assert (earlier.checkpoint, earlier.steps, earlier.state) == (first, 1, {"next": "do it", "at": 1})
    assert (earlier.done, earlier.failed, earlier.next) == (["1: a"], [], ["do it"])
    assert storage.episodes.handoff(storage.episodes.checkpoint(key, "begin", step_number=0)).steps == 0


def test_related_patterns_come_by_how_they_are_related(storage):
    def save(name: str, **fields: object) -> ms.Heuristic:
        return storage.patterns.save(ms.Heuristic(condition=name, action="a", **fields))

    web = ms.TaskContext(domain="web")
    recalled = save("recalled", success_rate=0.1)
    key = storage.episodes.save(ms.Episode(task_description="t", context=web)).id
    save("other domain", success_rate=1.0)
    evident = save("evidence", evidence=[key], success_rate=0.2)
    domain = [save(f"{rate}", context=web, success_rate=rate) for rate in (0.5, 0.9, 0.8, 0.7)]
    items = (ms.RecalledItem("pattern", recalled, 0.5),)
    recall = ms.Recall(id=new_id(), task="t", items=items, namespace=storage.namespace)
    storage.episodes.complete(key, ms.Success(verdict="v"), recalled=recall)
    found = [one.id for one in storage.episodes.handoff(key).patterns]
    assert found == [recalled.id, evident.id, domain[1].id, domain[2].id, domain[3].id]


def test_a_long_episode_is_summed_up(storage):
    key = storage.episodes.save(ms.Episode(task_description="t")).id
    steps = [_step(f"tool {number % 7}", "x" * 1_000, "no" if number % 100 == 5 else None) for number in range(500)]
    storage.episodes.append_steps(key, steps)
    handoff = storage.episodes.handoff(key)
    assert handoff.steps == 500
    assert handoff.done[0].startswith("460 earlier steps; of all steps: tool 0 72, tool 1 72, tool 2 72")
    assert len(handoff.done) == 41
    assert [text.partition(":")[0] for text in handoff.failed] == ["6", "106", "206", "306", "406"]


@in_memory
def test_a_missing_episode_has_no_handoff(storage):
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.handoff(new_id())
    with raises(ms.NotFoundError, kind="episode"):
        storage.episodes.handoff(ms.models.Checkpoint(episode_id=new_id(), label="not stored"))
    with raises(ms.ValidationError, field="episode_id"):
        storage.episodes.handoff("no id")


@in_memory
def test_the_markdown_begins_with_what_is_next(storage):
    key = storage.episodes.save(ms.Episode(task_description="Fix the login", steps=[_step("grep", "token")])).id
    checkpoint = storage.episodes.checkpoint(key, "cause found", state={"next": ["patch it"]})
    handoff = storage.episodes.handoff(key)
    assert str(handoff) == handoff.to_markdown() == (
        "# Handoff: Fix the login\n\n"
        f"- Episode: {key}, open, 1 step\n"
        f"- Checkpoint: cause found, after step 1 ({checkpoint.id})\n"
        '- State: `{"next":["patch it"]}`\n\n'
        "## Next\n\n- To do: patch it\n\n"
        "## Worked\n\n- Worked: grep: 1 of 1 call succeeded\n\n"
        "## Done\n\n- Done: 1: grep token"
    )  # fmt: skip
    short = handoff.to_markdown(max_chars=270)
    assert short.endswith("- To do: patch it")
    assert handoff.to_markdown(max_chars=10) == "# Handoff…"
    assert repr(handoff).startswith("Handoff(")


@settings(max_examples=40)
@given(data=st.data(), max_chars=st.none() | st.integers(1, 2_000))
def test_no_text_changes_the_structure_or_exceeds_the_budget(data, max_chars):
    lists = {name: data.draw(_LISTS) for name in ("done", "worked", "failed", "next")}
    handoff = ms.models.Handoff(
        episode_id=new_id(),
        goal=data.draw(_TEXTS.map("".join)),
        status="open",
        checkpoint=ms.models.Checkpoint(episode_id=new_id(), label=data.draw(st.sampled_from(MARKUP))),
        state={"text": data.draw(_TEXTS.map("".join))},
        patterns=data.draw(st.lists(hostile_patterns, max_size=2)),
        **lists,
    )
    text = handoff.to_markdown(max_chars=max_chars)
    assert text
    assert max_chars is None or len(text) <= max_chars
    lines = text.split("\n")
    assert text.splitlines() == lines
    assert all(LINE.match(line) for line in lines) or (max_chars or 99) < 12
    assert not re.search(r"<[A-Za-z/!?]", text)
    tokens = MarkdownIt("commonmark").parse(text)
    kinds = Counter(token.type for token in tokens)
    assert kinds["heading_open"] == sum(line.startswith(("# ", "## ")) for line in lines)
    assert kinds["list_item_open"] == sum(line.startswith("- ") for line in lines)
    inner = {child.type for token in tokens for child in token.children or ()}
    assert not inner & {"link_open", "image", "html_inline", "hardbreak"}


@pytest.mark.parametrize("max_chars", [0, True, 1.5, "9"])
def test_an_invalid_length_is_refused(max_chars):
    handoff = ms.models.Handoff(episode_id=new_id(), goal="g", status="open")
    with raises(ms.ValidationError, field="max_chars"):
        handoff.to_markdown(max_chars=max_chars)
