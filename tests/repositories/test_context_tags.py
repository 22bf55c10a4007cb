"""A tag of the context is a tag: filters, tables and policies find it, and count it once."""

from __future__ import annotations

from datetime import timedelta

import pytest

import memory_storage as ms
from tests.checks import assert_consistent

pytestmark = pytest.mark.whole_database  # all rows are compared

HEURISTIC = {"condition": "c", "action": "a"}


def tagged(tags: list[str], of_context: list[str], **fields: object) -> ms.Episode:
    context = ms.TaskContext(tags=of_context)
    return ms.Episode(**{"task_description": "words", "tags": tags, "context": context, **fields})


def test_an_episode_is_found_by_a_tag_of_its_context(storage):
    own, of_context, both, _ = storage.episodes.save_many(
        [tagged(["auth"], []), tagged([], ["auth"]), tagged(["auth", "db"], ["auth", "io"]), tagged(["other"], [])]
    )
    named = {own.id, of_context.id, both.id}
    for filters in ({"tags_any": ["auth"]}, {"tags_all": ["auth"]}):
        assert {one.id for one in storage.episodes.query(**filters)} == named
        assert {one.id for one in storage.episodes.iterate(**filters)} == named
        assert storage.episodes.count(**filters) == 3
        assert {hit.item.id for hit in storage.episodes.search("words", **filters)} == named
    for number, episode in enumerate((own, of_context, both)):
        storage.embeddings.put("episode", episode.id, [1.0, float(number)], model="m")
    assert {hit.item.id for hit in storage.episodes.similar_to([1.0, 0.0], tags_all=["auth", "io"])} == {both.id}
    assert storage.episodes.count(tags_all=["db", "io", "auth"]) == 1
    assert storage.in_namespace("other").episodes.count(tags_any=["auth"]) == 0
    assert_consistent(storage.engine)


def test_a_pattern_is_found_by_a_tag_of_its_context(storage):
    saved = storage.patterns.save(ms.Heuristic(context=ms.TaskContext(tags=["auth"]), tags=["auth"], **HEURISTIC))
    storage.patterns.save(ms.Heuristic(**HEURISTIC))
    assert [one.id for one in storage.patterns.query(tags_all=["auth"])] == [saved.id]
    assert_consistent(storage.engine)


def test_tags_of_a_context_follow_each_change(storage):
    saved = storage.episodes.save(tagged(["aa"], ["aa", "bb"]))
    for tags, of_context in ((["bb"], ["aa"]), ([], ["aa"]), (["cc"], []), (["cc"], ["cc"]), ([], [])):
        context = ms.TaskContext(tags=of_context)
        saved = storage.episodes.save(saved.model_copy(update={"tags": tags, "context": context}))
        found = {tag for tag in ("aa", "bb", "cc") if storage.episodes.count(tags_any=[tag])}
        assert found == {*tags, *of_context}
    assert_consistent(storage.engine)


def test_each_list_of_tags_has_the_limit_of_its_own(storage):
    names = [f"tag-{number}" for number in range(200)]
    saved = storage.episodes.save(tagged(names[:100], names[100:]))
    assert storage.episodes.get(saved.id) == saved
    assert storage.episodes.count(tags_all=names) == 1


def test_a_table_by_tag_counts_an_episode_once(storage):
    storage.episodes.save_many([tagged(["aa"], ["aa"], outcome=ms.Success(verdict="v")), tagged([], ["aa"])])
    (row,) = storage.analytics.by("tag")
    assert (row.group, row.episodes) == ("aa", 2)


def test_retention_keeps_what_its_context_tags(storage):
    old = ms.Episode(task_description="").started_at - timedelta(days=9)
    kept, _ = storage.episodes.save_many([tagged([], ["keep"], started_at=old), tagged([], [], started_at=old)])
    storage.retention.apply(ms.RetentionPolicy(max_age=timedelta(days=1), keep_tagged=["keep"]))
    assert [one.id for one in storage.episodes.query()] == [kept.id]


@pytest.mark.parametrize("field", ["tags", "context"])
def test_evidence_named_twice_does_not_stop_a_change_of_tags(storage, field):
    source = storage.episodes.save(ms.Episode(task_description="source"))
    saved = storage.patterns.save(ms.Heuristic(evidence=[source.id], **HEURISTIC))
    with storage.engine.begin() as connection:  # as an older version stored it
        connection.exec_driver_sql(
            "UPDATE patterns SET document = json_set(document, '$.evidence', json_array(?, ?))", (str(source.id),) * 2
        )
    change = {"tags": ["aa"], "context": ms.TaskContext(tags=["aa"])}[field]
    storage.patterns.save(storage.patterns.get(saved.id).model_copy(update={field: change}))
    assert storage.patterns.count(tags_any=["aa"]) == 1
    assert_consistent(storage.engine)
