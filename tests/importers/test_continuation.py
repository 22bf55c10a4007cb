"""Runs that are stored already: longer sessions, erased ones, and files that are not transcripts."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from uuid import uuid4

import pytest

import memory_storage as ms
from memory_storage.importers import import_stream
from tests.backends import in_memory
from tests.importers.test_importer import import_records
from tests.importers.transcripts import answer, call, run

SESSION = {"session_id": "s-1"}


def test_a_session_that_has_grown_is_one_episode(storage):
    start, more = [call("a"), answer("one")], [call("b", call_id="call_2"), answer("two", call_id="call_2", name="b")]
    import_records(storage, [run(*start, **SESSION)], id_field="session_id")
    (episode,) = storage.episodes.query()
    storage.episodes.save(episode.model_copy(update={"tags": ["looked-at"]}))
    report = import_records(storage, [run(*start, *more, **SESSION, reward=1)], id_field="session_id")
    assert (report.imported, report.updated, report.unchanged) == (0, 1, 0)
    (grown,) = storage.episodes.query()
    assert (grown.id, grown.tags, grown.outcome) == (episode.id, ["looked-at"], ms.Success(verdict="reward 1.0"))
    assert [step.result.output for step in grown.steps] == ["one", "two"]
    assert grown.steps[0] == episode.steps[0]
    assert [step.started_at for step in grown.steps] == sorted(step.started_at for step in grown.steps)


def test_an_older_copy_of_a_session_changes_nothing(storage):
    records = [run(**SESSION), run({"role": "assistant", "content": "more"}, **SESSION)]
    assert import_records(storage, records, id_field="session_id").updated == 1
    before = storage.episodes.query().items
    again = import_records(storage, records, id_field="session_id")
    assert (again.imported, again.updated, again.unchanged) == (0, 0, 2)
    assert storage.episodes.query().items == before


ANOTHER = {
    "another task": {"messages": [{"role": "user", "content": "Something else"}]},
    "another reply": run({"role": "assistant", "content": "No"}),
    "another reply, longer": run({"role": "assistant", "content": "No"}, *[{"role": "user", "content": "y"}] * 9),
    "another call": run({"role": "assistant", "content": "Yes"}, call("b"), answer("one")),
    "other arguments": run({"role": "assistant", "content": "Yes"}, call("a", '{"x": 1}'), answer("one")),
    "another result": run({"role": "assistant", "content": "Yes"}, call("a"), answer("two")),
}


@pytest.mark.parametrize("name", ANOTHER)
def test_another_run_of_the_same_session_is_broken(storage, name):
    known = run({"role": "assistant", "content": "Yes"}, call("a"), answer("one"), **SESSION)
    import_records(storage, [known], id_field="session_id")
    (before,) = storage.episodes.query()
    records = [run(session_id="s-2"), {**ANOTHER[name], **SESSION}, run(session_id="s-3")]
    report = import_records(storage, records, id_field="session_id")
    assert (report.imported, report.updated, report.unchanged) == (2, 0, 0)
    ((line, message),) = report.failed
    assert line == 2
    assert message.startswith(f"session_id: another run is stored as this session (episode {before.id})")
    assert "nothing was overwritten" in message
    assert storage.episodes.get(before.id) == before


def test_strict_stores_nothing_if_a_session_conflicts(storage):
    import_records(storage, [run(**SESSION)], id_field="session_id")
    records = [run(session_id="s-2"), {**ANOTHER["another task"], **SESSION}]
    report = import_records(storage, records, id_field="session_id", strict=True)
    assert (report.imported, [problem.line for problem in report.failed]) == (0, [2])
    assert storage.episodes.count() == 1


def test_a_session_grows_by_the_result_that_it_waited_for(storage):
    import_records(storage, [run(call("a"), **SESSION)], id_field="session_id")
    report = import_records(storage, [run(call("a"), answer("one"), **SESSION)], id_field="session_id")
    assert (report.updated, report.failed) == (1, [])
    assert storage.episodes.query().items[0].steps[0].result == ms.StepOk(output="one")


@pytest.mark.slow
def test_a_session_grows_beyond_the_room_for_its_images(storage):
    image = "data:image/png;base64," + "iVBORw0KGgo" * 100_000
    first = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}
    texts = 5 if storage.settings.server else 10  # a server takes no value of 5 MB
    long = [{"role": "assistant", "content": "x" * 900_000}] * texts
    for messages in ([first, first], [first, first, *long]):
        report = import_records(storage, [run(*messages, **SESSION)], id_field="session_id")
        assert report.failed == []
    assert report.updated == 1
    assert any("the data of an image" in note.message for note in report.notes)


def test_the_field_of_an_id_may_be_inside_of_another(storage):
    records = [run(info={"run": number}) for number in (1, 2, 1)]
    report = import_records(storage, records, id_field="info.run")
    assert (report.imported, report.unchanged) == (2, 1)


@pytest.mark.parametrize("value", [None, "", 1.5, True, ["x"]])
def test_a_run_without_its_id_is_a_problem_that_names_the_field(storage, value):
    report = import_records(storage, [run(session_id=value), run(session_id="x")], id_field="session_id")
    assert report.imported == 1
    assert "session_id: the field that --id-field names" in report.failed[0].message


@pytest.mark.parametrize("way", ["forget", "retention", "evict"])
def test_erased_runs_are_counted_and_can_be_brought_back(target, way):
    limits = ms.Limits(max_episodes=1, when_full="evict") if way == "evict" else ms.Limits()
    storage = ms.MemoryStorage.open(ms.Settings(database=target, namespace=uuid4().hex, limits=limits))
    import_records(storage, [run(trial=1, created=1700000000)])
    (episode,) = storage.episodes.query()
    if way == "forget":
        storage.forget(episode=episode.id, scrub=False)
    elif way == "retention":
        storage.retention.apply(ms.RetentionPolicy(max_age=timedelta(days=90)))
    else:
        storage.episodes.save(ms.Episode(task_description="newer"))
    assert storage.episodes.erased_among([episode.id]) == {episode.id}
    report = import_records(storage, [run(trial=1, created=1700000000)])
    assert (report.imported, report.unchanged, report.erased) == (0, 0, 1)
    if way == "evict":
        storage.episodes.delete(storage.episodes.query().items[0].id)  # so that there is room
    report = import_records(storage, [run(trial=1, created=1700000000)], restore_forgotten=True)
    assert (report.imported, report.erased) == (1, 0)
    assert storage.episodes.get(episode.id).task_description == episode.task_description
    assert storage.episodes.erased_among([episode.id]) == set()
    storage.close()


@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize("is_forgotten", [False, True])
def test_an_evicted_run_is_brought_back_by_either_tombstone(database, is_forgotten, has_room):
    small = ms.Settings(database=str(database), limits=ms.Limits(max_episodes=1, when_full="evict"))
    records = [run(trial=1, created=1700000000)]
    with ms.MemoryStorage.open(small) as storage:
        import_records(storage, records)
        (episode,) = storage.episodes.query()
        storage.episodes.save(ms.Episode(task_description="newer"))
        if is_forgotten:  # its tombstone, which has the id in it, is replaced by a digest
            storage.forget(episode=episode.id)
        sizes = _sizes_of_tombstones(storage)
        assert (min(sizes), max(sizes)) == ((16, 16) if is_forgotten else (44, 44))
    with ms.MemoryStorage.open(ms.Settings(database=str(database)) if has_room else small) as storage:
        assert import_records(storage, records).erased == 1
        assert import_records(storage, records, restore_forgotten=True).imported == 1
        assert storage.episodes.get(episode.id).metadata["trial"] == 1
        assert storage.episodes.count() == (2 if has_room else 1)
        assert import_records(storage, records, restore_forgotten=True).unchanged == 1
        assert storage.episodes.erased_among([episode.id]) == set()


def _sizes_of_tombstones(storage: ms.MemoryStorage) -> list[int]:
    with storage.engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT length(digest) FROM forgotten").scalars())


def test_erased_patterns_can_be_brought_back(storage):
    pattern = storage.patterns.save(ms.Heuristic(condition="a", action="b", confidence=0.5))
    storage.forget(namespace=storage.namespace, scrub=False)
    assert storage.patterns.import_many([pattern]) == 0
    assert storage.patterns.erased_among([pattern.id]) == {pattern.id}
    assert storage.patterns.import_many([pattern], restore_forgotten=True) == 1
    assert storage.patterns.get(pattern.id).condition == "a"


UNKNOWN = {
    "a Gemini conversation": {"role": "user", "parts": [{"text": "x"}]},
    "tau2 simulations": {"simulations": []},
    "prompts with completions": {"prompt": "x", "completion": "y"},
}


@pytest.mark.parametrize("name", UNKNOWN)
@in_memory
def test_a_file_of_another_format_is_refused_by_its_name(storage, name):
    with pytest.raises(ms.ValidationError) as caught:
        import_records(storage, [UNKNOWN[name]] * 3)
    assert caught.value.field == "file"
    assert f"this looks like {name}" in caught.value.limit


@pytest.mark.parametrize("is_array", [True, False])
def test_a_list_of_messages_is_one_run(storage, is_array):
    messages = run(call("look"), answer("A chair."))["messages"]
    text = json.dumps(messages) if is_array else "\n".join(map(json.dumps, messages))
    report = import_stream(storage, io.BytesIO(text.encode()))
    assert (report.imported, report.failed) == (1, [])
    (episode,) = storage.episodes.query()
    assert [step.tool for step in episode.steps] == ["look"]


def test_two_lists_of_messages_are_two_runs(storage):
    messages = [run()["messages"], run({"role": "assistant", "content": "Done"})["messages"]]
    report = import_stream(storage, io.BytesIO("\n".join(map(json.dumps, messages)).encode()))
    assert report.imported == 2


def test_a_report_totals_what_was_left_out(storage):
    part = {"role": "assistant", "content": [{"type": "hologram"}, {"type": "hologram"}]}
    report = import_records(storage, [run(part), run(part, trial=1), run()])
    assert report.imported == 3
    assert report.totals() == {"content of type 'hologram' is kept in the conversation alone (2 times)": 2}
    assert [note.line for note in report.notes] == [1, 2]
