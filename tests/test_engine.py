"""A storage on a caller's engine: which engines are refused, with the remedy."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event

import memory_storage as ms
from tests.durability.processes import PROCESSES


@pytest.fixture
def path(database: Path) -> Path:
    ms.MemoryStorage.open(database).close()
    return database


@pytest.mark.parametrize("url", ["sqlite+libsql:///{}", "sqlite:///{}"])
def test_an_engine_of_another_dialect_is_refused_with_a_url(path, url):
    engine = create_engine(url.format(path))
    with pytest.raises(ms.ConfigurationError, match=r"not sqlite.*create_engine\('libsql:///") as caught:
        ms.MemoryStorage(engine, ms.Settings(database=str(path)))
    written = str(caught.value).partition("create_engine('")[2].partition("')")[0]
    storage = ms.MemoryStorage(create_engine(written), ms.Settings(database=str(path)))
    assert storage.episodes.count() == 0
    storage.engine.dispose()


def test_refusing_another_dialects_server_shows_no_token(path):
    engine = create_engine("sqlite+libsql://user:secret@db.example.io/?authToken=secret")
    with pytest.raises(ms.ConfigurationError, match=r"create_engine\('libsql://HOST'\)") as caught:
        ms.MemoryStorage(engine, ms.Settings(database=str(path)))
    assert "secret" not in str(caught.value)


ENGINES = {
    "create_engine": lambda url: create_engine(url, isolation_level="AUTOCOMMIT"),
    "in small letters": lambda url: create_engine(url, execution_options={"isolation_level": "autocommit"}),
    "its options": lambda url: create_engine(url, execution_options={"isolation_level": "AUTOCOMMIT"}),
    "a copy with options": lambda url: create_engine(url).execution_options(isolation_level="AUTOCOMMIT"),
}


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_an_engine_in_autocommit_is_refused(path, make):
    engine = make(f"libsql:///{path}")
    with pytest.raises(ms.ConfigurationError, match="engine: its isolation level is AUTOCOMMIT"):
        ms.MemoryStorage(engine, ms.Settings(database=str(path)))
    engine.dispose()


def test_autocommit_set_by_a_listener_opens_no_transaction(path):
    engine = create_engine(f"libsql:///{path}")
    event.listen(engine, "connect", lambda connection, record: setattr(connection, "autocommit", True))
    storage = ms.MemoryStorage(engine, ms.Settings(database=str(path)))
    with pytest.raises(ms.ConfigurationError, match="its connections are in AUTOCOMMIT"), storage.transaction():
        pass
    assert engine.pool.checkedout() == 0
    assert storage.episodes.save(ms.Episode(task_description="a batch is all or nothing anyway")).version == 1
    engine.dispose()


REFUSED = {
    "a namespace with a NUL": (ms.ValidationError, {"namespace": "a\0b"}),
    "an index that is not installed": (ms.ConfigurationError, {"vector_index": "hnsw"}),
}


@pytest.mark.parametrize(("kind", "values"), REFUSED.values(), ids=REFUSED)
def test_a_setting_that_is_refused_leaves_no_file(tmp_path, monkeypatch, kind, values):
    monkeypatch.setattr("memory_storage.storage.is_installed", lambda: False)
    with pytest.raises(kind, match=next(iter(values))):
        ms.MemoryStorage.open(ms.Settings(database=str(tmp_path / "new" / "memory.db"), **values))
    assert list(tmp_path.iterdir()) == []


PARTS = {
    "storage": lambda storage: storage,
    "view": lambda storage: storage.in_namespace("other"),
    "engine": lambda storage: storage.engine,
    "repository": lambda storage: storage.episodes,
    "part of a repository": lambda storage: storage.embeddings.index,
    "transaction": lambda storage: storage.transaction(),
    "connection": lambda storage: storage.engine.raw_connection().dbapi_connection,
    "breaker": lambda storage: storage.circuit_breaker,
    "meter": lambda storage: storage.meter,
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy])
def test_pickling_is_an_error_with_a_remedy(database, part, way):
    with (
        ms.MemoryStorage.open(database) as storage,
        pytest.raises(TypeError, match=r"cannot pickle \w+: its connections.*MemoryStorage\.open\(settings\)"),
    ):
        way(part(storage))


@pytest.mark.slow
def test_the_settings_travel_to_another_process(database):
    settings = ms.Settings(database=str(database), encryption_key="a key", namespace="theirs")
    with ms.MemoryStorage.open(settings) as storage, ProcessPoolExecutor(1, mp_context=PROCESSES) as processes:
        assert processes.submit(_save, storage.settings).result(60) == 1
        assert storage.episodes.count() == 1


def _save(settings: ms.Settings) -> int:
    with ms.MemoryStorage.open(settings) as storage:
        return storage.episodes.save(ms.Episode(task_description="from another process")).version
