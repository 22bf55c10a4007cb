"""Encrypted files contain no plain text; without the key nothing is read or changed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

import memory_storage as ms
from memory_storage import dbapi
from tests.checks import assert_consistent
from tests.raising import raises

CANARY = "canary-in-the-mine"
KEY = "sesame-key-of-the-tests"


def _settings(path: Path, key: str | None = KEY) -> ms.Settings:
    return ms.Settings(database=str(path), encryption_key=key)


def _filled(path: Path) -> ms.MemoryStorage:
    storage = ms.MemoryStorage.open(_settings(path))
    episode = storage.episodes.save(
        ms.Episode(
            task_description=CANARY,
            tags=[CANARY],
            metadata={CANARY: CANARY},
            steps=[ms.Step(tool=CANARY, result=ms.StepOk(output=CANARY * 500))],
        )
    )
    storage.embeddings.put("episode", episode.id, [1.0] * 384, model=CANARY)
    return storage


def _bytes(path: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in path.parent.iterdir()}


def test_nothing_is_in_clear_in_the_file_and_its_log(database):
    storage = _filled(database)
    files = _bytes(database)
    assert {"memory.db", "memory.db-wal"} <= set(files)
    for name, content in files.items():
        assert CANARY.encode() not in content, name
        assert b"\x00\x00\x80\x3f" * 8 not in content, name
        assert b"CREATE TABLE" not in content, name
        assert not content.startswith(b"SQLite format 3"), name
    storage.close()
    assert all(CANARY.encode() not in content for content in _bytes(database).values())
    with ms.MemoryStorage.open(_settings(database)) as again:
        assert again.episodes.query(text=CANARY).items[0].task_description == CANARY
        assert_consistent(again.engine)


@pytest.mark.parametrize(
    ("key", "problem"),
    [("another", "encrypted with another key"), (KEY + " ", "another key"), (None, "encrypted, and no key was given")],
)
def test_a_wrong_or_missing_key_is_refused_and_changes_nothing(database, key, problem):
    _filled(database).close()
    before = _bytes(database)
    for _ in range(2):
        with pytest.raises(ms.CredentialError, match=rf"memory.db: .*{problem}.*setting: encryption_key") as caught:
            ms.MemoryStorage.open(_settings(database, key))
    assert _bytes(database) == before
    assert KEY not in str(caught.value)
    with ms.MemoryStorage.open(_settings(database)) as storage:
        assert storage.episodes.count() == 1


def test_a_key_for_a_plain_file_is_refused_without_a_change(database):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(ms.Episode(task_description="in clear"))
    before = _bytes(database)
    with pytest.raises(ms.ConfigurationError, match=r"memory\.db: this file is not encrypted, but a key was given"):
        ms.MemoryStorage.open(_settings(database))
    assert _bytes(database) == before


def test_a_wrong_key_releases_no_lock_of_an_open_storage(database):
    with _filled(database) as storage, storage.transaction() as tx:
        tx.episodes.save(ms.Episode(task_description="on its way"))
        with pytest.raises(ms.CredentialError, match="this process has it open with another key"):
            ms.MemoryStorage.open(_settings(database, "another"))
        done = _in_another_process(
            "import sys; from memory_storage import dbapi;"
            f"c = dbapi.connect(sys.argv[1], encryption_key={KEY!r}, busy_timeout=0.1);"
            "c.execute('UPDATE episodes SET version = version')",
            database,
        )
        assert "database is locked" in done.stderr
    with ms.MemoryStorage.open(_settings(database)) as again:
        assert again.episodes.count() == 2


@pytest.mark.parametrize("key", ["", SecretStr(""), "x" * 33, "\u00e9" * 17])
def test_a_key_that_the_cipher_would_truncate_is_refused(database, key):
    with pytest.raises(ms.ConfigurationError, match="encryption_key must have 1 to 32 bytes"):
        ms.Settings(database=str(database), encryption_key=key)
    with raises(dbapi.ProgrammingError, code="BAD_KEY", match="1 to 32 bytes"):
        dbapi.connect(str(database), encryption_key=key)
    assert not database.exists()


def test_a_key_for_a_server_is_refused_rather_than_ignored():
    with pytest.raises(ms.ConfigurationError, match="a server encrypts its own"):
        ms.Settings(database="libsql://db.example.io", encryption_key=KEY)


def test_the_environment_gives_the_key(database, monkeypatch):
    monkeypatch.setenv("MEMORY_STORAGE_ENCRYPTION_KEY", KEY)
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(ms.Episode(task_description=CANARY))
    assert CANARY.encode() not in database.read_bytes()
    monkeypatch.delenv("MEMORY_STORAGE_ENCRYPTION_KEY")
    with pytest.raises(ms.CredentialError, match="no key was given"):
        ms.MemoryStorage.open(database)


@pytest.mark.parametrize("key", ["k", "x" * 32, "\u00e9'\"; --", "\x01\n", "\U0001f511"])
def test_any_text_of_up_to_32_bytes_is_a_key_to_its_last_byte(database, key):
    ms.MemoryStorage.open(_settings(database, key)).close()
    ms.MemoryStorage.open(_settings(database, key)).close()
    with pytest.raises(ms.CredentialError):
        ms.MemoryStorage.open(_settings(database, key[:-1] + "_"))


def test_the_key_is_in_no_repr_log_error_url_or_traceback(database, caplog):
    caplog.set_level(logging.DEBUG)
    _filled(database).close()
    shown = []
    for key in (KEY + "-wrong", None):
        settings = _settings(database, key)
        shown += [repr(settings), str(settings), settings.model_dump_json(), repr(settings.key)]
        with pytest.raises(ms.CredentialError) as caught:
            ms.MemoryStorage.open(settings)
        shown += traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    storage = ms.MemoryStorage.open(_settings(database))
    shown += [repr(storage), repr(storage.engine), str(storage.engine.url), caplog.text]
    storage.close()
    with pytest.raises(ms.ConfigurationError) as refused:
        ms.Settings(database=str(database), encryption_key=KEY, encryptionkey=KEY, pool=7)
    shown += traceback.TracebackException.from_exception(refused.value, capture_locals=True).format()
    ours = [line for line in shown if "test_encryption.py" not in line]  # this test's own locals have it
    assert not [line for line in ours if KEY in line]
    assert KEY not in str(os.environ)


def _in_another_process(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
