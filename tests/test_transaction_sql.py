"""Custom SQL within a transaction: several statements as one atomic batch."""

from __future__ import annotations

import pytest

import memory_storage as ms
from tests.encrypted import encrypted_template, target  # noqa: F401 - fixtures
from tests.raising import raises


def test_custom_statements_run_as_one_batch_with_their_rows(storage, make_episode):
    with storage.transaction() as tx:
        episode = tx.episodes.save(make_episode())
        key = (str(episode.id),)
        count, change, after = tx.execute(
            [
                ("SELECT count(*) FROM episodes WHERE id = ?", key),
                ("UPDATE episodes SET reward = ? WHERE id = ?", (0.5, *key)),
                ("SELECT reward FROM episodes WHERE id = ?", key),
            ]
        )
    assert (count, change, after) == ([(1,)], [], [(0.5,)])
    assert storage.episodes.count(min_reward=0.5) == 1


@pytest.mark.whole_database
def test_a_failed_statement_undoes_the_batch_only(storage, make_episode):
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
        with pytest.raises(ms.SchemaError):
            tx.execute([("UPDATE episodes SET reward = 0.5", ()), ("SELECT * FROM no_such_table", ())])
        assert tx.execute([("SELECT reward FROM episodes", ())]) == [[(None,)]]
    assert storage.episodes.count() == 1


def test_a_snapshot_runs_statements_that_read_and_refuses_others(storage, make_episode):
    storage.episodes.save(make_episode())
    with storage.snapshot() as view:
        assert view.execute([("SELECT 1", ()), ("SELECT ?", ("a",))]) == [[(1,)], [("a",)]]
        with raises(ms.MemoryStorageError, match="read-only"):
            view.execute([("DELETE FROM episodes", ())])
    assert storage.episodes.count() == 1


def test_no_statements_give_no_rows(storage):
    with storage.transaction() as tx:
        assert tx.execute([]) == []
