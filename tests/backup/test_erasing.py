"""Erased rows are removed from backups, and from every file that has a byte of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage.backup import ErasedBackup, back_up, forget_in_backups, restore
from memory_storage.doctor import repair
from memory_storage.search.hnsw import sidecar_names
from tests.checks import assert_consistent
from tests.raising import raises
from tests.test_erasure import _damaged
from tests.test_forget import Canary

KEY = "the key of these tests"
NEEDLE = b"canary"


def settings_of(database: Path, *, is_encrypted: bool = False, **fields: object) -> ms.Settings:
    return ms.Settings(database=str(database), encryption_key=KEY if is_encrypted else None, **fields)


def where(directory: Path, needles: list[bytes]) -> list[str]:
    """The files below a directory, and deleted ones that this process has open, that have one of the needles."""
    contents = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    for link in Path("/proc/self/fd").iterdir():
        try:
            name = os.readlink(link)
            if name.startswith(str(directory.parent)) and not name.startswith(str(directory)):
                continue  # of another test, until it is collected
            if name.endswith("(deleted)") and stat.S_ISREG(link.stat().st_mode):
                contents[name] = link.read_bytes()
        except OSError:  # closed by now
            continue
    return [name for name, data in contents.items() if any(needle.lower() in data.lower() for needle in needles)]


@pytest.mark.slow
@pytest.mark.parametrize("is_encrypted", [False, True])
def test_no_file_has_a_byte_of_an_erased_row(tmp_path, monkeypatch, is_encrypted):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    for name in ("TMPDIR", "SQLITE_TMPDIR"):
        monkeypatch.setenv(name, str(temporary))
    database, copy = tmp_path / "memory.db", tmp_path / "copy.db"
    settings = settings_of(database, is_encrypted=is_encrypted, vector_index="diskann")
    with ms.MemoryStorage.open(settings) as storage:
        found = Canary(storage, 20)  # rows, words, facets, places, vectors, patterns
        needles = found.needles()
        conversation = [{"role": "user", "content": "zqcanary said"}]
        quarantined = _damaged(storage, "zqhurt")
        spoken = storage.episodes.save(ms.Episode(task_description="t", metadata={"conversation": conversation}))
        evicted = ms.Settings(**{**dict(settings), "limits": ms.Limits(max_episodes=1, when_full="evict")})
        with ms.MemoryStorage.open(evicted).in_namespace("small") as small:
            gone = small.episodes.save(ms.Episode(task_description="zqcanary"))
            small.episodes.save(ms.Episode(task_description="stays"))
        needles += [b"zqhurt", *(str(one).encode() for one in (quarantined.id, spoken.id, gone.id))]
    repair(settings)
    with ms.MemoryStorage.open(settings) as storage, ms.MemoryStorage.open(settings) as other:
        assert other.episodes.count()  # another user of the file, and of its log
        back_up(storage, copy)
        for name in ("0123abcd.part", "0123abcd.part-wal", "0123456789abcdef.usearch"):  # of killed processes
            (tmp_path / f"{database.name}.{name}").write_bytes(NEEDLE)
        planted = where(tmp_path, needles)
        assert {f"{database.name}.0123abcd.part", f"{database.name}.0123456789abcdef.usearch"} <= {*planted}
        assert is_encrypted or {copy.name, f"{database.name}-wal"} <= {*planted}

        for one in (found.episode, quarantined, spoken):
            storage.forget(episode=one.id, scrub=False)
        storage.in_namespace("small").forget(episode=gone.id, scrub=False)
        assert storage.scrub().complete
        (erased,) = forget_in_backups(storage, [copy])

        assert (erased.complete, erased.episodes) == (True, 2)
        assert where(tmp_path, needles) == []
        assert_consistent(storage.engine)
    assert not [name for name in sidecar_names(database) if NEEDLE in database.with_name(name).read_bytes()]
    again = settings_of(tmp_path / "again.db", is_encrypted=is_encrypted)
    assert restore(copy, again).rows > 0
    with ms.MemoryStorage.open(again) as storage:
        assert storage.episodes.count() == 20
        assert storage.episodes.erased_among([found.episode.id]) == {found.episode.id}
        with storage.engine.connect() as connection:
            names = "SELECT name FROM sqlite_master WHERE name LIKE 'quarantined%'"
            tables = connection.exec_driver_sql(names).scalars().all()
            counts = [connection.exec_driver_sql(f'SELECT count(*) FROM "{name}"').scalar_one() for name in tables]
        assert (len(tables) > 3, sum(counts)) == (True, 0)
        assert where(tmp_path, needles) == []


@pytest.fixture
def backed_up(database: Path, tmp_path: Path) -> tuple[ms.MemoryStorage, ms.Episode, Path]:
    storage = ms.MemoryStorage.open(database)
    episodes = storage.episodes.save_many([ms.Episode(task_description=f"zqcanary {n}") for n in range(3)])
    path = tmp_path / "copy.db"
    back_up(storage, path)
    yield storage, episodes[0], path
    storage.close()


def test_a_file_of_two_spellings_or_links_is_erased_once(backed_up, tmp_path):
    storage, episode, path = backed_up
    path.chmod(0o640)
    link = tmp_path / "link.db"
    link.symlink_to(path.name)
    storage.forget(episode=episode.id)
    seen: list[str] = []
    (erased,) = forget_in_backups(
        storage,
        [link, path, str(tmp_path / "." / "copy.db"), os.path.join(tmp_path, "..", tmp_path.name, "copy.db")],
        progress=lambda what, done, total: seen.append(what),
    )
    assert erased == ErasedBackup(str(link), episodes=1)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert set(seen) == {"copied", "verified"}
    assert b"zqcanary 0" not in path.read_bytes()
    assert b"zqcanary 1" in path.read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir() if "part" in one.name or "lock" in one.name) == []
    assert forget_in_backups(storage, [path]) == [ErasedBackup(str(path))]


def test_another_hard_link_of_a_backup_is_named(backed_up, tmp_path):
    storage, episode, path = backed_up
    other = tmp_path / "other.db"
    os.link(path, other)
    storage.forget(episode=episode.id)
    (erased,) = forget_in_backups(storage, [path])
    assert (erased.episodes, erased.complete) == (1, False)
    assert "other hard links (1)" in erased.why
    assert b"zqcanary 0" in other.read_bytes()
    assert [one.complete for one in forget_in_backups(storage, [other])] == [True]
    assert b"zqcanary 0" not in other.read_bytes()


def test_an_evicted_episode_stays_in_backups(database, tmp_path):
    settings = ms.Settings(database=str(database), limits=ms.Limits(max_episodes=1, when_full="evict"))
    with ms.MemoryStorage.open(settings) as storage:
        evicted = storage.episodes.save(ms.Episode(task_description="evicted"))
        back_up(storage, tmp_path / "copy.db")
        storage.episodes.save(ms.Episode(task_description="newer"))
        assert storage.episodes.find(evicted.id) is None
        assert forget_in_backups(storage, [tmp_path / "copy.db"]) == [ErasedBackup(str(tmp_path / "copy.db"))]
        (erased,) = forget_in_backups(storage, [tmp_path / "copy.db"], episode=evicted.id)
        assert erased.episodes == 1


def test_a_namespace_that_the_database_never_had_is_erased(backed_up, tmp_path):
    storage, _, path = backed_up
    with ms.MemoryStorage.open(tmp_path / "another.db") as another:
        assert forget_in_backups(another, [path]) == [ErasedBackup(str(path))]
        (erased,) = forget_in_backups(another, [path], namespace="default")
    assert erased.episodes == 3
    assert NEEDLE not in path.read_bytes()
    assert storage.episodes.count() == 3


def test_a_file_that_is_not_a_backup_is_refused_first(backed_up, tmp_path):
    storage, episode, path = backed_up
    storage.forget(episode=episode.id)
    before = path.read_bytes()
    text, plain = tmp_path / "text.txt", tmp_path / "plain.db"
    text.write_text("no database " * 1_000)
    ms.MemoryStorage.open(plain).close()
    for wrong, message in [
        (tmp_path / "none.db", "there is no such backup"),
        (tmp_path, "there is no such backup"),
        (text, "not a backup"),
        (plain, "not a backup: it has no digests"),
        (Path(storage.settings.database), "this is the database itself"),
    ]:
        with raises(ms.ConfigurationError, match=message):
            forget_in_backups(storage, [path, wrong])
        assert path.read_bytes() == before
    with raises(ms.ValidationError, field="backups"):
        forget_in_backups(storage, str(path))
    with raises(ms.ValidationError, field="backups.1"):
        forget_in_backups(storage, [path, 5])
    with raises(ms.ValidationError, field="episode"):
        forget_in_backups(storage, [path], episode=episode.id, namespace="default")


def test_a_backup_with_another_key_is_refused(backed_up, tmp_path):
    storage, episode, path = backed_up
    other = tmp_path / "encrypted.db"
    back_up(storage, other, encryption_key=KEY)
    storage.forget(episode=episode.id)
    before = other.read_bytes()
    with raises(ms.CredentialError):
        forget_in_backups(storage, [path, other])
    assert other.read_bytes() == before
    assert b"zqcanary 0" in path.read_bytes()


def test_a_damaged_backup_is_named_and_stays_what_it_was(backed_up):
    storage, episode, path = backed_up
    storage.forget(episode=episode.id)
    path.write_bytes(path.read_bytes().replace(b"zqcanary 1", b"zqcanary 9"))
    before = path.read_bytes()
    (erased,) = forget_in_backups(storage, [path])
    assert not erased.complete
    assert "the backup was modified after its creation" in erased.why
    assert path.read_bytes() == before


@pytest.mark.slow
def test_the_commands_erase_from_backups_too(backed_up, tmp_path):
    from typer.testing import CliRunner

    from memory_storage.cli import app

    storage, episode, path = backed_up
    arguments = ["--backup", str(path), "--database", storage.settings.database]
    wrong = CliRunner().invoke(app, ["forget", str(episode.id), "--yes", "--backup", str(tmp_path / "x"), *arguments])
    assert (wrong.exit_code, storage.episodes.count()) == (3, 3)
    done = CliRunner().invoke(app, ["forget", str(episode.id), "--yes", *arguments])
    assert done.exit_code == 0
    assert f"{path}: erased 1 episode" in done.stdout
    assert b"zqcanary 0" not in path.read_bytes()
    storage.retention.apply(ms.RetentionPolicy(max_episodes=1))
    scrubbed = CliRunner().invoke(app, ["scrub", "--json", *arguments])
    assert scrubbed.exit_code == 0
    assert '"episodes":1' in scrubbed.stdout
    assert path.read_bytes().count(b"zqcanary") >= 1
    os.link(path, tmp_path / "other")
    assert CliRunner().invoke(app, ["scrub", *arguments]).exit_code == 7
