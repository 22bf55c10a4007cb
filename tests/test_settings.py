"""Settings that callers get wrong: empty and misspelled variables, fields of another name or another unit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage import environment
from memory_storage.settings import Limits, LoggingSettings
from tests.raising import raises

ROOT = Path(__file__).parents[1]
SECTIONS = (ms.PoolSettings, ms.CircuitBreakerSettings, ms.RetrySettings, LoggingSettings, Limits, ms.Settings)


def _refusal(call: Any) -> str:
    with raises(ms.ConfigurationError) as caught:
        call()
    return str(caught.value)


class TestVariables:
    def test_an_empty_one_is_unset(self, monkeypatch: pytest.MonkeyPatch):
        for name in ("TURSO_DATABASE_URL", "TURSO_AUTH_TOKEN", *environment.variables(ms.Settings)):
            monkeypatch.setenv(name, "")
        monkeypatch.setenv("LIBSQL_DATABASE_PATH", "memory.db")
        assert ms.Settings.from_environment() == ms.Settings(database="memory.db")

    def test_all_empty_is_no_database(self, monkeypatch: pytest.MonkeyPatch):
        for name in ("TURSO_DATABASE_URL", "LIBSQL_DATABASE_PATH"):
            monkeypatch.setenv(name, "")
        message = _refusal(ms.MemoryStorage.open)
        assert "set LIBSQL_DATABASE_PATH, or TURSO_DATABASE_URL and TURSO_AUTH_TOKEN" in message

    @pytest.mark.parametrize(
        ("name", "suggestion"),
        [
            ("MEMORY_STORAGE_NAMESPCE", "did you mean MEMORY_STORAGE_NAMESPACE?"),
            ("memory_storage_namespce", "did you mean MEMORY_STORAGE_NAMESPACE?"),
            ("MEMORY_STORAGE_POOL__MAX_CONECTIONS", "did you mean MEMORY_STORAGE_POOL__MAX_CONNECTIONS?"),
            ("MEMORY_STORAGE_POOL_MAX_CONNECTIONS", "did you mean MEMORY_STORAGE_POOL__MAX_CONNECTIONS?"),
            ("MEMORY_STORAGE_LIMITS__TAG", "did you mean MEMORY_STORAGE_LIMITS__TAGS?"),
            ("MEMORY_STORAGE_NAMESPACE__X", "did you mean MEMORY_STORAGE_NAMESPACE?"),
            ("MEMORY_STORAGE_DATABASE", "set LIBSQL_DATABASE_PATH or TURSO_DATABASE_URL"),
            ("MEMORY_STORAGE_AUTH_TOKEN", "set TURSO_AUTH_TOKEN"),
            ("MEMORY_STORAGE_ZZZ", "is not a setting"),
        ],
    )
    def test_an_unknown_one_is_refused(self, monkeypatch: pytest.MonkeyPatch, name: str, suggestion: str):
        monkeypatch.setenv(name, "sesame")
        message = _refusal(lambda: ms.MemoryStorage.open(":memory:"))
        assert name in message
        assert message.endswith(suggestion)
        assert "sesame" not in message

    @pytest.mark.parametrize("name", ["TURSO_DATABSE_URL", "LIBSQL_DATABASE_PAHT", "TURSO_DB_URL"])
    def test_a_misspelled_database_is_pointed_out(self, monkeypatch: pytest.MonkeyPatch, name: str):
        monkeypatch.setenv(name, "memory.db")
        assert f"{name} is set: did you mean " in _refusal(ms.MemoryStorage.open)

    def test_those_of_tests_and_of_the_testing_kit_are_known(self, monkeypatch: pytest.MonkeyPatch):
        files = [path for folder in ("memory_storage", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
        names = {
            name
            for path in files
            if path.name not in {"environment.py", Path(__file__).name}
            for name in re.findall(r"\bMEMORY_STORAGE_[A-Z_]+\b", path.read_text())
        }
        assert names - environment.OTHERS - {environment.PREFIX} <= environment.variables(ms.Settings)
        for name in environment.OTHERS:
            monkeypatch.setenv(name, "1")
        ms.MemoryStorage.open(":memory:").close()


class TestFields:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: ms.RetrySettings(initial_backoff_ms=100),
                "initial_backoff_ms: no such field; did you mean 'initial_backoff', in seconds?",
            ),
            (lambda: ms.RetrySettings(max_retries=3), "did you mean 'max_attempts'?"),
            (lambda: ms.CircuitBreakerSettings(recovery_timeout_secs=3), "did you mean 'timeout', in seconds?"),
            (lambda: ms.PoolSettings(connection_timeout=5), "did you mean 'connect_timeout', in seconds?"),
            (lambda: ms.PoolSettings(max_conections=5), "did you mean 'max_connections'?"),
            (lambda: Limits(tag=5), "did you mean 'tags'?"),
            (lambda: LoggingSettings(slow_query_ms=5), "did you mean 'slow_query', in seconds?"),
            (
                lambda: ms.Settings(database=":memory:", pool={"max_conections": 5}),
                "pool.max_conections: no such field; did you mean 'max_connections'?",
            ),
            (
                lambda: ms.Settings(database=":memory:", max_connections=5),
                "did you mean pool=PoolSettings(max_connections=...)?",
            ),
            (lambda: ms.Settings(url=":memory:"), "url: no such field; did you mean 'database'?"),
            (lambda: ms.Settings(path=":memory:"), "path: no such field; did you mean 'database'?"),
            (lambda: ms.Settings(), "database: Field required"),
            (lambda: ms.Settings(database=":memory:", retry=5), "retry: must be RetrySettings(...)"),
            (lambda: ms.Settings(database=":memory:", zzz=5), "zzz: no such field"),
        ],
    )
    def test_of_another_name_point_to_ours(self, make: Any, message: str):
        assert _refusal(make).endswith(message)

    @pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
    def test_every_misspelling_is_pointed_out(self, section: Any):
        for name in section.model_fields:
            for wrong in (name[:-1], name + "s", name.upper(), name.replace("_", "", 1) + "x"):
                if wrong not in section.model_fields:
                    assert "did you mean " in _refusal(lambda wrong=wrong: section(**{wrong: 1})), (section, wrong)

    def test_a_secret_in_a_misspelled_one_is_not_shown(self):
        message = _refusal(lambda: ms.Settings(database=":memory:", encryption_kee="sesame"))
        assert message == "encryption_kee: no such field; did you mean 'encryption_key'?"


class TestFormerNames:
    def test_the_former_value_of_the_vector_index_works_and_warns(self):
        with pytest.warns(
            DeprecationWarning, match="vector_index='memory' is deprecated .* vector_index='hnsw'"
        ) as seen:
            settings = ms.Settings(database="memory.db", vector_index="memory")  # type: ignore[arg-type]
        assert settings.vector_index == "hnsw"
        assert seen[0].filename == __file__

    def test_the_former_name_of_the_limit_works_and_warns(self):
        with pytest.warns(DeprecationWarning, match="vector_index_memory is deprecated .* hnsw_max_bytes"):
            settings = ms.Settings(database="memory.db", vector_index_memory=5)
        assert settings.hnsw_max_bytes == 5
        with pytest.warns(DeprecationWarning, match="vector_index_memory is deprecated"):
            assert settings.vector_index_memory == 5
        assert "vector_index_memory" not in dir(settings)

    def test_the_former_variables_work_and_warn(self, monkeypatch):
        monkeypatch.setenv("MEMORY_STORAGE_VECTOR_INDEX_MEMORY", "7")
        monkeypatch.setenv("MEMORY_STORAGE_VECTOR_INDEX", "memory")
        with pytest.warns(DeprecationWarning) as seen:  # noqa: PT030 - both
            settings = ms.Settings.from_environment(database="memory.db")
        assert (settings.hnsw_max_bytes, settings.vector_index, len(seen)) == (7, "hnsw", 2)

    def test_both_names_of_the_limit_are_refused(self):
        with pytest.raises(ms.ConfigurationError, match="vector_index_memory"):
            ms.Settings(database="memory.db", vector_index_memory=5, hnsw_max_bytes=6)
