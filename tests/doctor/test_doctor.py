"""The doctor reports damage, repairs it without losing a row, and shows no stored value."""

from __future__ import annotations

import json
import logging
import sqlite3
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import memory_storage as ms
from memory_storage import migrate
from memory_storage.cli import app
from memory_storage.doctor import Finding, Report, check, repair
from memory_storage.doctor.pages import pages
from memory_storage.engine import make_engine
from tests.backup.test_backup import save_in_0001
from tests.checks import assert_consistent, dump
from tests.raising import raises
from tests.schema.spy import spied
from tests.test_forget import insert_checkpoint

from .damages import DAMAGES, MODEL, SECRET, sql

NUMBER = 2_050  # more than so few that they need no vector index


def _fill(storage: ms.MemoryStorage, vectors: int = 40) -> None:
    episodes = [
        ms.Episode(
            task_description=f"task {n} {SECRET}",
            tags=["shared", f"t{n % 5}"],
            metadata={"n": n, SECRET: SECRET},
            reward=ms.RewardScore(total=0.1 * n),
            outcome=ms.Success(verdict="done"),
            steps=[ms.Step(tool="pytest", action="a", result=ms.StepOk(output=f"words {n}")) for _ in range(2)],
        )
        for n in range(30)
    ]
    storage.episodes.save_many(episodes)
    patterns = [
        ms.Heuristic(condition=SECRET, action="a", tags=["shared"], evidence=[episodes[n].id]) for n in range(3)
    ]
    storage.patterns.save_many(patterns)
    storage.patterns.save(ms.Playbook.from_patterns(SECRET, patterns))
    owners = [("episode", one.id) for one in episodes] + [("pattern", one.id) for one in patterns]
    owners += [("step", step.id) for one in episodes for step in one.steps]
    storage.embeddings.put_many([(*owner, [1.0, n, n * n]) for n, owner in enumerate(owners[:vectors])], model=MODEL)
    for n, episode in enumerate(episodes[:6]):
        storage.spatiotemporal.put(
            ms.SpatiotemporalEntry(
                owner_type="episode",
                owner_id=episode.id,
                latitude=n + 0.1,
                longitude=n - 0.1,
                place_name=SECRET,
                starts_at=episode.started_at,
                ends_at=episode.started_at + timedelta(hours=1),
            )
        )
    for one, other in pairwise(episodes[10:20]):
        storage.relationships.add(one.id, other.id, "follows", weight=0.1, metadata={SECRET: SECRET})
        insert_checkpoint(storage, one.id, SECRET)
    for key in ("one", "two"):
        storage.items.put((SECRET,), key, SECRET, vectors={"f": [1.0, 2.0], "g": [2.0, 1.0]}, model=MODEL)
    storage.logs.append("log", [SECRET, SECRET])
    storage.patterns.learn()
    storage.recall(SECRET, keep=True)
    if storage.vector_index == "diskann":  # an index with something in it, though they are few
        with storage.transaction() as tx:
            tx.execute([(f"UPDATE {_table()} SET indexed = 1", [])])


def _table() -> str:
    from .damages import TABLE

    return TABLE


@pytest.fixture
def settings(database: Path) -> ms.Settings:
    settings = ms.Settings(database=str(database), vector_index="diskann")
    with ms.MemoryStorage.open(settings) as storage:
        _fill(storage)
        assert_consistent(storage.engine)
    return settings


def _rows(settings: ms.Settings) -> dict[str, list[tuple[Any, ...]]]:
    with ms.MemoryStorage.open(settings) as storage:
        return dump(storage.engine)


def _ids(rows: dict[str, list[tuple[Any, ...]]], table: str) -> set[Any]:
    of_id = dict.fromkeys(("spatiotemporal_index", "episodes", "patterns", "relationships", "checkpoints"), 2)
    place = {"embeddings": 0, "steps": 4, **of_id}[table]
    return {row[place] for row in rows[table]}


def _kept(settings: ms.Settings, table: str) -> set[Any]:
    """What is in quarantine."""
    name, column = f"quarantined_{table}", "seq" if table == "embeddings" else "id"
    with ms.MemoryStorage.open(settings) as storage, storage.snapshot() as view:
        if not view.execute([("SELECT 1 FROM sqlite_master WHERE name = ?", [name])])[0]:
            return set()
        return {row[0] for row in view.execute([(f"SELECT {column} FROM {name}", [])])[0]}


def test_words_that_came_one_by_one_are_no_damage(database):
    with ms.MemoryStorage.open(str(database)) as storage:
        episode = storage.episodes.save(ms.Episode(task_description="日本語", tags=["日本"]))
        storage.summaries.put(episode.id, "時計は止まった")
        storage.episodes.complete(episode.id, ms.Success(verdict="漢字"))
    assert check(ms.Settings(database=str(database))).findings == []


def test_a_database_in_normal_use_is_healthy(storage):
    _fill(storage)
    if storage.settings.database != ":memory:":  # which is another one for each connection
        assert check(storage.settings) == repair(storage.settings) == Report([])


def test_large_rows_are_examined_a_few_at_a_time(settings):
    with ms.MemoryStorage.open(settings) as storage:
        for number in range(6):
            storage.episodes.save(ms.Episode(task_description=f"{number}", metadata={"x": "x" * 1_500_000}))
        with storage.engine.connect() as connection, spied(storage.engine) as batches:
            large = [seq for seq, (text,) in pages(connection, "episodes", ["document"]) if len(text) > 1_500_000]
        assert (len(large), large) == (6, sorted(set(large)))
        assert len(batches) == 4  # two, two and two, and the end
        with storage.engine.connect() as connection:
            odd = [seq for seq, _ in pages(connection, "episodes", ["document"], "seq % 2") if seq in large]
        assert odd == [seq for seq in large if seq % 2]


def test_examining_changes_nothing(settings):
    before = _rows(settings)
    for _, damage in list(DAMAGES.values())[:3]:
        damage(Path(settings.database))
    content = Path(settings.database).read_bytes()
    check(settings)
    assert Path(settings.database).read_bytes() == content
    assert _rows(settings) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_repaired_and_no_row_is_lost(settings, name):
    code, damage = DAMAGES[name]
    before = _rows(settings)
    damage(Path(settings.database))
    damaged = _rows_by_id(settings)
    found = check(settings)
    assert code in {finding.code for finding in found.findings}
    assert all(finding.can_repair for finding in found.findings if finding.code != "unchecked"), found
    report = repair(settings)
    assert report.is_healthy, report.findings
    assert code in {finding.code for finding in report.repaired}
    assert SECRET not in repr((found, report))
    with ms.MemoryStorage.open(settings) as storage:
        assert_consistent(storage.engine)
        list(storage.episodes.iterate(archived=None))
        list(storage.patterns.iterate())
    after = _rows(settings)
    for table in damaged:
        assert damaged[table] == _ids(after, table) | _kept(settings, table), table
    if not any(_kept(settings, table) for table in damaged) and "orphans" not in code:
        assert {table: _ids(after, table) for table in damaged} == {table: _ids(before, table) for table in damaged}
        assert after["episodes"] == before["episodes"]
        assert after["steps"] == before["steps"]
        assert after["patterns"] == before["patterns"]
        assert after["facets"] == before["facets"]
    assert check(settings) == Report([])


def _rows_by_id(settings: ms.Settings) -> dict[str, set[Any]]:
    """The ids that are still there after a damage, read without the documents."""
    engine = make_engine(settings)
    with engine.connect() as connection:
        found = {
            table: {row[0] for row in connection.exec_driver_sql(f"SELECT id FROM {table}")}
            for table in ("episodes", "steps", "patterns", "spatiotemporal_index", "relationships", "checkpoints")
        }
        found["embeddings"] = {row[0] for row in connection.exec_driver_sql("SELECT seq FROM embeddings")}
    engine.dispose()
    return found


@pytest.mark.slow
def test_all_damages_together_are_repaired(settings):
    for _, damage in DAMAGES.values():
        try:
            damage(Path(settings.database))
        except Exception as error:  # noqa: BLE001 - one damage may stand in the way of another
            print(error)
    damaged = _rows_by_id(settings)
    report = repair(settings)
    assert report.is_healthy, report.findings
    after = _rows(settings)
    for table in damaged:
        assert damaged[table] == _ids(after, table) | _kept(settings, table), table
    with ms.MemoryStorage.open(settings) as storage:
        assert_consistent(storage.engine)


def test_quarantined_rows_are_unchanged(settings):
    before = {row[2]: row for row in _rows(settings)["episodes"]}
    DAMAGES["documents are no JSON"][1](Path(settings.database))
    repair(settings)
    with ms.MemoryStorage.open(settings) as storage, storage.snapshot() as view:
        ((at, reason, *row),) = view.execute([("SELECT * FROM quarantined_episodes", [])])[0]
        steps = view.execute([("SELECT reason, hex(document) FROM quarantined_steps ORDER BY reason", [])])[0]
    assert at > 0
    assert reason == "it cannot be decoded"
    assert tuple(row[:-2]) == before[row[2]][:-2]  # its last columns are the document, and words
    assert row[-2] == f'{{"{SECRET}'
    assert [reason for reason, _ in steps] == ["it cannot be decoded", "its episode was moved", "its episode was moved"]
    assert steps[0][1] == "FFFF"


def test_the_quarantine_takes_more_at_another_time(settings):
    damage = "UPDATE patterns SET document = '{}' WHERE seq = {}"
    for seq in (1, 2):
        sql(damage.replace("{}'", "{}'").replace("seq = {}", f"seq = {seq}"))(Path(settings.database))
        repair(settings)
    assert len(_kept(settings, "patterns")) == 2


def test_numbers_that_an_older_version_misread_are_corrected(settings):
    with ms.MemoryStorage.open(settings) as storage:
        owner = storage.episodes.save(ms.Episode(task_description="t", reward=ms.RewardScore(total=-48.80190682023213)))
        storage.patterns.save(ms.Heuristic(condition="c", action="a", success_rate=0.90131))
        storage.spatiotemporal.put(
            ms.SpatiotemporalEntry(
                owner_type="episode", owner_id=owner.id, latitude=51.01530496001185, longitude=1.80262
            )
        )
    before = _rows(settings)
    assert check(settings) == Report([])
    # As an older version wrote it: the number that the engine reads in the document.
    sql(
        "UPDATE episodes SET reward = document ->> '$.reward.total'",
        "UPDATE patterns SET success_rate = document ->> '$.success_rate'",
        "UPDATE spatiotemporal_index SET latitude = document ->> '$.latitude', longitude = document ->> '$.longitude'",
    )(Path(settings.database))
    found = {finding.code: finding.rows for finding in check(settings).findings}
    assert found == {"columns.episodes": 1, "columns.patterns": 1, "columns.spatiotemporal_index": 1}
    assert repair(settings).is_healthy
    assert _rows(settings) == before


def test_an_older_schema_is_found_and_upgraded(database):
    settings = ms.Settings(database=str(database))
    engine = make_engine(settings)
    migrate.upgrade(engine, "0001")
    save_in_0001(engine)
    engine.dispose()
    (finding,) = check(settings).findings
    assert (finding.code, finding.can_repair) == ("schema.older", True)
    report = repair(settings)
    assert report.is_healthy
    assert [done.code for done in report.repaired] == ["schema.older"]
    with ms.MemoryStorage.open(settings) as storage:
        assert storage.episodes.count() == 1


def test_a_newer_schema_is_found_and_left_alone(settings):
    sql("UPDATE alembic_version SET version_num = '9999'")(Path(settings.database))
    for report in (check(settings), repair(settings)):
        assert [(one.code, one.can_repair) for one in report.findings] == [("schema.newer", False)]


def test_another_programs_file_is_not_looked_into(database):
    other = sqlite3.connect(database)
    other.execute("CREATE TABLE users (name TEXT)")
    other.close()
    before = database.read_bytes()
    for look in (check, repair):
        with pytest.raises(ms.SchemaError, match=r"memory\.db: .*another program"):
            look(ms.Settings(database=str(database)))
    assert database.read_bytes() == before


def test_pages_that_are_noise_are_found_and_not_made_worse(settings):
    path = Path(settings.database)
    content = bytearray(path.read_bytes())
    root = _root_page(settings, "steps")
    content[(root - 1) * 4096 : root * 4096] = b"\xaa" * 4096
    path.write_bytes(content)
    before = path.read_bytes()
    assert "file.damaged" in {finding.code for finding in check(settings).findings}
    assert path.read_bytes() == before
    left = {finding.code for finding in repair(settings).findings}
    assert "file.damaged" in left


def _root_page(settings: ms.Settings, table: str) -> int:
    engine = make_engine(settings)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        root = connection.exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).scalar_one()
    engine.dispose()
    return int(root)


@pytest.mark.parametrize("target", ["server"], indirect=True)
@pytest.mark.slow
def test_a_server_is_repaired_too(storage):
    _fill(storage)
    with storage.transaction() as tx:
        tx.execute(
            [
                ("UPDATE vector_models SET vectors = 7", []),
                ("DELETE FROM facets", []),
                ("UPDATE episodes SET outcome = 'x'", []),
                ("UPDATE patterns SET document = '{}' WHERE seq = 1", []),
                ("INSERT INTO episode_words (episode_words) VALUES ('delete-all')", []),
                ("DELETE FROM spatiotemporal_rtree", []),
            ]
        )
    codes = {finding.code for finding in check(storage.settings).findings}
    assert codes >= {"counters", "indexes.facets", "columns.episodes", "undecodable.patterns", "indexes.text"}
    assert repair(storage.settings).is_healthy
    assert_consistent(storage.engine)
    assert storage.patterns.count() == 3


@pytest.mark.slow
def test_no_finding_shows_a_stored_value(settings, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="sqlalchemy")
    said = []
    for name, (_, damage) in DAMAGES.items():
        try:
            damage(Path(settings.database))
        except Exception as error:  # noqa: BLE001 - as above
            print(name, error)
    for command in (["doctor"], ["doctor", "--json"], ["doctor", "--repair"], ["doctor", "--repair", "--json"]):
        result = CliRunner().invoke(app, [*command, "--database", settings.database])
        said += [result.stdout, result.stderr]
    said += [repr(check(settings)), caplog.text]
    assert "indexes.text" in said[0]
    assert "indexes.text" in said[2]
    assert SECRET not in "".join(said)


def test_the_command_reports_and_with_repair_repairs(settings):
    def command(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["doctor", *arguments, "--database", settings.database])

    assert command().exit_code == 0
    DAMAGES["the counters of a model are wrong"][1](Path(settings.database))
    found = command("--json")
    assert found.exit_code == 9
    assert [one["code"] for one in json.loads(found.stdout)["findings"]] == ["counters", "vectors.index"][:1]
    reported = command()
    assert (reported.exit_code, "--repair" in reported.stderr) == (9, True)
    repaired = command("--repair", "--json")
    assert repaired.exit_code == 0
    assert json.loads(repaired.stdout)["findings"] == []
    assert [one["code"] for one in json.loads(repaired.stdout)["repaired"]] == ["counters"]
    assert command().exit_code == 0


def test_a_database_that_is_locked_is_not_called_damaged(settings):
    DAMAGES["the counters of a model are wrong"][1](Path(settings.database))
    impatient = settings.model_copy(update={"request_timeout": 0.2})
    with ms.MemoryStorage.open(settings) as storage, storage.transaction() as tx:
        tx.episodes.count()
        for look in (check, repair):
            with raises(ms.UnavailableError, code="SQLITE_BUSY", match="database is locked"):
                look(impatient)
    assert repair(settings).is_healthy


def test_a_missing_database_is_not_created(database):
    result = CliRunner().invoke(app, ["doctor", "--repair", "--database", str(database)])
    assert (result.exit_code, database.exists()) == (3, False)


def test_former_names_work_and_warn(settings):
    with pytest.warns(DeprecationWarning, match=r"doctor\.examine is deprecated since 0\.1: use .*doctor\.check"):
        from memory_storage.doctor import examine
    with pytest.warns(DeprecationWarning, match=r"doctor\.mend .*doctor\.repair"):
        from memory_storage.doctor import mend
    assert (examine, mend) == (check, repair)
    report = check(settings)
    with pytest.warns(DeprecationWarning, match=r"Report\.is_sound .* Report\.is_healthy"):
        assert report.is_sound == report.is_healthy
    with pytest.warns(DeprecationWarning, match=r"Report\.mended .* Report\.repaired"):
        assert report.mended == []
    with pytest.warns(DeprecationWarning, match=r"Finding\.can_mend .* Finding\.can_repair"):
        assert Finding("code", "table", 1, "problem", "remedy").can_mend is False
