"""Stored playbooks: versions, use, search, merging, copies, erasure, and what other programs do to their rows."""

from __future__ import annotations

import io
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.importers import export_lines, import_stream
from memory_storage.models import new_id
from tests.checks import assert_consistent
from tests.raising import raises

STEPS = [
    ms.PlaybookStep(
        tool="kubectl",
        action="drain the node",
        condition="pods are pending",
        parameters={"grace": {"seconds": 0.1 + 0.2}},
        expected_result="evicted",
        on_error="uncordon it",
    ),
    ms.PlaybookStep(action="reboot"),
]


def playbook(**fields: Any) -> ms.Playbook:
    return ms.Playbook(**{"name": "Replace a machine", "description": "without downtime", "steps": STEPS, **fields})


def test_a_playbook_is_read_back_equal(storage):
    saved = storage.patterns.save(playbook(sources=[new_id()], tags=["ops"], metadata={"by": "hand"}))
    assert (saved.version, saved.steps) == (1, STEPS)
    assert storage.patterns.get(saved.id) == saved
    assert storage.patterns.query(kind="playbook", tags_any=["ops"]).items == [saved]
    assert list(storage.patterns.iterate(kind="playbook")) == [saved]
    assert storage.patterns.count(kind="heuristic") == 0


def test_each_change_is_a_version_and_a_stale_one_conflicts(storage):
    first = storage.patterns.save(playbook())
    second = storage.patterns.save(first.model_copy(update={"steps": STEPS[:1]}))
    assert (second.version, second.created_at) == (2, first.created_at)
    with raises(ms.ConflictError, kind="pattern", expected=1, actual=2):
        storage.patterns.save(first.model_copy(update={"name": "Another"}))
    assert storage.patterns.get(first.id) == second


def test_its_use_is_counted_by_the_store(storage):
    saved = storage.patterns.save(playbook())
    storage.patterns.record_application(saved.id, success=True)
    changed = storage.patterns.save(saved.model_copy(update={"steps": STEPS[1:]}))
    assert (changed.effectiveness.times_applied, changed.effectiveness.success_when_applied) == (1, 1)
    assert "success rate 100% of 1" in changed.to_markdown()
    (figures,) = storage.analytics.effectiveness(kind="playbook")
    assert (figures.description, figures.times_applied) == ("Replace a machine: without downtime", 1)


def test_completing_a_recalled_task_counts_its_application(storage):
    saved = storage.patterns.save(playbook())
    episode = storage.episodes.save(ms.Episode(task_description="replace the machine"))
    recall = storage.recall("replace a machine")
    assert [item.item for item in recall] == [saved]
    assert "  1. If pods are pending, use `kubectl`: drain the node" in str(recall)
    storage.episodes.complete(episode.id, ms.Success(verdict="v"), recalled=recall)
    used = storage.patterns.get(saved.id).effectiveness
    assert (used.times_retrieved, used.times_applied, used.success_when_applied) == (1, 1, 1)


@pytest.mark.parametrize(
    "word", ["machine", "downtime", "kubectl", "drain", "pending", "grace", "evicted", "uncordon", "reboot", "ops"]
)
def test_a_word_of_any_of_its_texts_finds_it(storage, word):
    saved = storage.patterns.save(playbook(tags=["ops"]))
    storage.patterns.save(playbook(name="Other", description="", steps=[ms.PlaybookStep(action="wait")]))
    assert [hit.item.id for hit in storage.patterns.search(word)] == [saved.id]


def test_words_of_every_script_find_it(storage):
    step = ms.PlaybookStep(action="日本語を読む", expected_result="Größe naïve")
    saved = storage.patterns.save(playbook(name="Überprüfen", steps=[step], tags=["größe"]))
    storage.patterns.save(playbook())
    for text in ("日本語", "naive", "überprüfen", "größe"):
        assert [hit.item.id for hit in storage.patterns.search(text)] == [saved.id]


def test_the_words_follow_its_changes(storage):
    saved = storage.patterns.save(playbook())
    changed = storage.patterns.save(saved.model_copy(update={"steps": [ms.PlaybookStep(action="recycle")]}))
    assert storage.patterns.search("kubectl") == []
    assert [hit.item for hit in storage.patterns.search("recycle")] == [changed]
    storage.patterns.delete(saved.id)
    assert storage.patterns.search("recycle") == []
    assert_consistent(storage.engine)


def test_its_text_is_embedded_with_its_steps(storage):
    seen = []

    def embed(texts):
        seen.extend(texts)
        return [[float("drain" in text), 1.0] for text in texts]

    saved = storage.patterns.save(playbook(tags=["ops"]))
    other = storage.patterns.save(ms.Heuristic(condition="c", action="a"))
    embedder = ms.FunctionEmbedder(embed, model="drains")
    storage.embeddings.embed(embedder, owner_type="pattern")
    expected = "Replace a machine\nwithout downtime\nops\n"
    expected += "pods are pending kubectl drain the node evicted uncordon it\nreboot"
    assert expected in seen
    hits = storage.patterns.similar_to([1.0, 1.0], model="drains", kind="playbook")
    assert [hit.item for hit in hits] == [saved]
    assert [hit.item.id for hit in storage.patterns.similar_to([1.0, 1.0], model="drains")] == [saved.id, other.id]


def test_merging_unites_the_sources_and_keeps_the_steps(storage):
    sources = [new_id() for _ in range(3)]
    one = storage.patterns.save(playbook(sources=sources[:2], success_rate=1.0, occurrence_count=3))
    other = playbook(name="Other", steps=[ms.PlaybookStep(action="other")], sources=sources[1:])
    merged = storage.patterns.merge(one.id, storage.patterns.save(other).id)
    assert (merged.name, merged.steps, sorted(merged.sources)) == (one.name, STEPS, sorted(sources))
    assert (merged.success_rate, merged.occurrence_count) == (0.75, 4)
    assert storage.patterns.search("other") == []
    assert_consistent(storage.engine)


def test_the_sources_of_a_playbook_are_read_at_once(storage):
    parts = storage.patterns.save_many([ms.ToolSequence(tools=["a", "b"]), ms.ToolSequence(tools=["b", "c"])])
    saved = storage.patterns.save(ms.Playbook.from_patterns("p", parts))
    storage.patterns.delete(parts[0].id)
    assert storage.patterns.get_many(saved.sources) == {parts[1].id: parts[1]}
    assert storage.patterns.get_many([str(parts[1].id).upper(), new_id()]) == {parts[1].id: parts[1]}
    assert storage.patterns.get_many([]) == {}


def test_an_export_has_it_and_another_namespace_reads_it(storage):
    empty_storage = storage.in_namespace("copy")
    saved = storage.patterns.save(playbook(evidence=[new_id()], sources=[new_id()]))
    storage.patterns.record_retrieval(saved.id)
    stored = storage.patterns.get(saved.id)
    import_stream(empty_storage, io.BytesIO("\n".join(export_lines(storage)).encode()))
    assert empty_storage.patterns.get(saved.id) == stored
    assert [hit.item.id for hit in empty_storage.patterns.search("kubectl")] == [saved.id]


def test_erasing_a_source_erases_what_was_composed_from_it(storage):
    one, other = storage.episodes.save_many([ms.Episode(task_description=f"task {number}") for number in range(2)])
    alone = storage.patterns.save(ms.Heuristic(condition="zqcanary", action="a", evidence=[one.id]))
    shared = storage.patterns.save(ms.ToolSequence(tools=["a", "b"], evidence=[one.id, other.id]))
    composed = storage.patterns.save(ms.Playbook.from_patterns("composed", [alone, shared]))
    again = storage.patterns.save(ms.Playbook.from_patterns("again", [composed]).model_copy(update={"evidence": []}))
    kept = storage.patterns.save(ms.Playbook.from_patterns("kept", [shared]))
    written = storage.patterns.save(playbook())

    erased = storage.forget(episode=one.id, scrub=False)

    assert (erased.patterns, erased.patterns_changed) == (3, 2)
    assert storage.patterns.get_many([alone.id, composed.id, again.id]) == {}
    assert storage.patterns.get(kept.id).evidence == [other.id]
    assert storage.patterns.get(written.id) == written
    assert storage.patterns.search("zqcanary") == []
    with raises(ms.ValidationError, match="erased"):
        storage.patterns.save(again.model_copy(update={"version": 0, "created_at": None}))
    assert storage.forget(episode=one.id, scrub=False).patterns == 0


def test_the_quoted_words_of_tasks_are_erased_with_an_episode(storage):
    one, other = storage.episodes.save_many([ms.Episode(task_description=f"task {number}") for number in range(2)])
    mined = ms.ToolSequence(
        tools=["a", "b"], description="a → b (tasks: größe)", tags=["learned"], evidence=[one.id, other.id]
    )
    saved = storage.patterns.save(ms.Playbook.from_patterns("Both", [storage.patterns.save(mined)]))
    assert [hit.item.id for hit in storage.patterns.search("größe", kind="playbook")] == [saved.id]
    storage.forget(episode=one.id, scrub=False)
    changed = storage.patterns.get(saved.id)
    assert (changed.description, changed.evidence, changed.steps) == ("Both", [other.id], saved.steps)
    assert storage.patterns.search("größe") == []
    assert_consistent(storage.engine)
