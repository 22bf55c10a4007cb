"""CrewAI's Memory on the backend, with a scripted embedder and language model; and the example."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from crewai import Memory
from crewai.memory.storage.factory import set_memory_storage_factory

import memory_storage as ms
from memory_storage.integrations.crewai import MEMORY_PATH, MemoryStorageBackend, memory_storage_factory
from tests.example_process import EXAMPLES
from tests.raising import raises

from .scripts import ScriptedLLM, letters

FIXED = {"categories": ["c"], "importance": 0.5, "metadata": {}}


@pytest.fixture
def llm() -> ScriptedLLM:
    return ScriptedLLM(model="script")


@pytest.fixture
def memory(backend, llm) -> Memory:
    return Memory(storage=backend, llm=llm, embedder=letters)


def test_what_is_remembered_is_recalled(memory, storage):
    memory.remember("aaa", scope="/team/a", **FIXED)
    memory.remember("bbb", scope="/team/b", **FIXED)
    memory.remember("abc", scope="/other", **FIXED)
    assert [one.record.content for one in memory.recall("a", scope="/team", depth="shallow")] == ["aaa", "bbb"]
    assert [one.record.content for one in memory.recall("b", scope="/team", limit=1)] == ["bbb"]
    assert [item.value["content"] for item in storage.items.query(MEMORY_PATH, filter={"scope": "/other"})] == ["abc"]
    assert memory.info("/team").record_count == 2
    assert (
        memory.tree()
        == "/ (3 records)\n  /other (1 records)\n  /team (2 records)\n    /team/a (1 records)\n    /team/b (1 records)"
    )


def test_a_recall_sets_the_last_access(memory, backend):
    one = memory.remember("aaa", scope="/a", **FIXED)
    other = memory.remember("bbb", scope="/b", **FIXED)
    memory.recall("a", scope="/a")
    assert backend.get_record(one.id).last_accessed > one.last_accessed
    assert backend.get_record(other.id) == other.model_copy(
        update={"embedding": backend.get_record(other.id).embedding}
    )


def test_the_language_model_chooses_among_the_scopes(memory, llm):
    llm.scripts += [
        {"suggested_scope": "/team", "categories": ["lesson"], "importance": 0.9},
        {"suggested_scope": "/team/tests", "categories": ["lesson"], "importance": 0.1},
    ]
    memory.remember("aaaa")
    memory.remember("dddd")
    assert "/team" in llm.calls[1]
    assert "lesson" in llm.calls[1]
    assert memory.list_categories("/team") == {"lesson": 2}
    assert memory.list_scopes("/team") == ["/team/tests"]


def test_a_consolidation_updates_and_deletes(memory, llm):
    old = memory.remember("aaaa", scope="/a", **FIXED)
    doubled = memory.remember("dddd", scope="/a", **FIXED)
    actions = [
        {"action": "update", "record_id": old.id, "new_content": "aaab", "reason": "newer"},
        {"action": "delete", "record_id": doubled.id, "reason": "obsolete"},
    ]
    llm.scripts += [{"actions": actions, "insert_new": False}]
    memory.remember("aaaab", scope="/a", **FIXED)
    assert len(llm.calls) == 1
    assert [(one.id, one.content) for one in memory.list_records()] == [(old.id, "aaab")]
    assert memory._storage.get_record(old.id).embedding == pytest.approx(letters(["aaab"])[0])


def test_an_update_of_the_scope_keeps_the_embedding(memory):
    one = memory.remember("aaaa", scope="/a", **FIXED)
    memory.update(one.id, scope="/b", metadata={"k": 1})
    assert [found.record.scope for found in memory.recall("a", depth="shallow")] == ["/b"]
    assert memory.forget(metadata_filter={"k": 1}) == 1


def test_an_update_that_is_invalid_stores_nothing(memory):
    one = memory.remember("aaaa", scope="/a", **FIXED)
    with raises(ms.ValidationError, field="record.importance"):
        memory.update(one.id, importance=7.0)
    assert memory.list_records()[0].importance == 0.5


def test_scopes_and_slices_see_their_own_records(memory):
    crew = memory.scope("/crew/1")
    crew.remember("aaaa", scope="/notes", **FIXED)
    memory.remember("aaab", scope="/crew/10", **FIXED)
    assert [one.record.scope for one in crew.recall("a", depth="shallow")] == ["/crew/1/notes"]
    slice_ = memory.slice(["/crew/10", "/absent"])
    assert [one.record.content for one in slice_.recall("a", depth="shallow")] == ["aaab"]
    crew.forget()
    assert [one.content for one in memory.list_records()] == ["aaab"]


def test_many_memories_in_the_background_are_all_stored(memory):
    memory.remember_many([letter * 4 for letter in "abcd"], scope="/bulk", **FIXED)
    memory.remember_many(["aabb", "ccdd"], scope="/bulk", **FIXED)
    memory.drain_writes()
    assert memory.info("/bulk").record_count == 6


def test_a_memory_closes_no_storage_of_its_caller(memory, storage):
    memory.remember("aaaa", scope="/a", **FIXED)
    memory.close()
    assert storage.items.count(MEMORY_PATH) == 1


def test_a_memory_outlives_its_process(migrated_file, llm):
    first = Memory(storage=MemoryStorageBackend.open(migrated_file), llm=llm, embedder=letters)
    first.remember("aaaa", scope="/a", **FIXED)
    first.close()
    with raises(ms.UnavailableError):
        first.list_records()
    second = Memory(storage=MemoryStorageBackend.open(migrated_file, namespace="default"), llm=llm, embedder=letters)
    assert [one.record.content for one in second.recall("a")] == ["aaaa"]
    second.close()


@pytest.mark.slow
def test_the_factory_opens_what_is_named_and_leaves_the_rest(database, llm, tmp_path):
    set_memory_storage_factory(memory_storage_factory)
    memory = Memory(storage=f"memory-storage:{database}", llm=llm, embedder=letters)
    memory.remember("aaaa", scope="/a", **FIXED)
    memory.close()
    with ms.MemoryStorage.open(database) as storage:
        assert storage.items.count(MEMORY_PATH) == 1
    assert memory_storage_factory("lancedb") is memory_storage_factory("memory.db") is None
    lance = Memory(storage=str(tmp_path / "lance"), llm=llm, embedder=letters)
    assert type(lance._storage).__name__ == "LanceDBStorage"
    with raises(ms.ConfigurationError, match="names no database"):
        memory_storage_factory("memory-storage:")


@pytest.mark.slow
def test_the_second_run_of_the_example_remembers_the_first(database):
    def run() -> str:
        # Its imports warn, so warnings are no errors here.
        command = [sys.executable, EXAMPLES / "crewai_memory.py", "--database", database]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run().splitlines() == [
        "remembered in /team/tests: The flaky test of the login token is fixed by a frozen clock.",
        "remembered in /company/invoices: Customers pay invoices within 30 days.",
    ]
    assert run() == (
        "recalled from /team/tests ['lesson']: The flaky test of the login token is fixed by a frozen clock.\n"
    )
