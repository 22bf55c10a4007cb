"""The fixtures that every test may use: a storage on each backend, and things to put into it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

import memory_storage as ms
from memory_storage import dbapi, migrate
from memory_storage.dbapi import _engines
from memory_storage.testing import Sqld
from tests.backends import needs_libsql

from . import schema_template
from .shared_server import SharedServer, settings_of_environment

pytest_plugins = ["tests.server.fixtures"]

# A test on a file or a server waits for the disk at each commit, 6 ms where there is no cache. No test is about a power
# cut, so their directories are in memory where Linux offers that, unless TMPDIR or --basetemp names another place.
_IN_MEMORY, _ROOM = Path("/dev/shm"), 4 * 2**30
if "TMPDIR" not in os.environ and _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > _ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))

# The share of a test's `max_examples` that hypothesis makes on a backend. Each run makes other ones, and most of those
# that break the storage do so on each backend, so there are fewer where a call costs more.
# MEMORY_STORAGE_TEST_EXAMPLES=1 makes all of them on each.
_SHARES = {"memory": 0.5, "file": 0.2, "encrypted": 0.2, "server": 0.2}
_SHARE = os.environ.get("MEMORY_STORAGE_TEST_EXAMPLES")

# Time limits fail on a busy machine for no fault of the code; a fixture may serve all the examples of one test.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("default")


_SERVERS = {"sqld", "server", "migrated_server_url", "guarded", "libsql_server", "server_memory", "shared_url"}
_ON_A_SERVER = {"server", "on_server"}  # parameters of fixtures
# Stress, real waits, and processes: slow by nature, all of a file.
_SLOW = (
    "tests/chaos/",
    "tests/cli/test_process.py",
    "tests/compliance/",
    "tests/durability/",
    "tests/integrations/otel/test_frameworks.py",
    "tests/integrations/otel/test_overhead.py",
    "tests/migrations/test_layouts.py",
    "tests/report/test_distribution.py",
    "tests/search/hnsw/test_histories.py",
    "tests/search/test_vector_index.py",
    "tests/server/test_faults.py",
    "tests/server/test_idle.py",
    "tests/server/test_replica.py",
    "tests/server/test_restarts.py",
    "tests/server/test_web_app.py",
    "tests/stored/",
    "tests/test_errors_asserted.py",
    "tests/test_peak_memory.py",
    "tests/testing/test_shared_server.py",
)

_FROM_OUTSIDE = ("TURSO_DATABASE_URL", "TURSO_AUTH_TOKEN", "LIBSQL_DATABASE_PATH")
_IGNORED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer `--server` and `--local-engine`."""
    parser.addoption(
        "--server",
        action="store_true",
        help="run the repository and the conformance tests on the server of TURSO_DATABASE_URL and TURSO_AUTH_TOKEN, "
        "each in a namespace of its own; rows of other namespaces are left alone",
    )
    parser.addoption(
        "--local-engine",
        choices=dbapi.LOCAL_ENGINES[1:],
        help="open files and databases in memory with this engine where a test does not name one",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Forget a database that the environment names, before any fixture: tests write, and delete.

    With `--server` it is what the tests run on; workers read it too, so the variables stay for them.
    """
    config.stash[_IGNORED] = []
    if engine := config.getoption("--local-engine"):
        _engines.DEFAULT = engine
    if config.getoption("--server"):
        worker = getattr(config, "workerinput", None)
        run = worker["shared_server_run"] if worker else None
        config.pluginmanager.register(SharedServer(settings_of_environment(), run=run, is_worker=worker is not None))
    else:
        config.stash[_IGNORED] += [name for name in _FROM_OUTSIDE if os.environ.pop(name, None) is not None]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is ignored; in the main process, which the workers inherit from."""
    names = config.stash[_IGNORED]
    return [f"ignored: {', '.join(names)} (the tests start servers of their own; or use --server)"] if names else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server or a browser, by its fixtures, and what is slow by where it is.

    Of a test that runs on each backend, the quick round runs the one in memory.
    """
    in_memory = {_test(item) for item in items if _backend(item) == "memory"}
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & _SERVERS or any(isinstance(one, str) and one in _ON_A_SERVER for one in _parameters(item)):
            item.add_marker(pytest.mark.server)
        if any(isinstance(one, str) and one == "libsql" for one in _parameters(item)):
            item.add_marker(needs_libsql)
        if "browser" in fixtures:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)
        if item.nodeid.startswith(_SLOW) or (_test(item) in in_memory and _backend(item) != "memory"):
            item.add_marker(pytest.mark.slow)


def _backend(item: pytest.Item) -> str | None:
    return next((one for one in _parameters(item) if isinstance(one, str) and one in _SHARES), None)


def _test(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _parameters(item: pytest.Item) -> list[object]:
    return list(getattr(getattr(item, "callspec", None), "params", {}).values())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Have hypothesis make this backend's share of the examples."""
    test = getattr(item, "obj", None)
    test = getattr(test, "__func__", test)  # a method takes no attribute
    usual = getattr(test, "_hypothesis_internal_use_settings", None)
    backend = _backend(item)
    if usual is None or backend is None:
        return (yield)
    share = float(_SHARE or _SHARES[backend])
    test._hypothesis_internal_use_settings = settings(usual, max_examples=max(1, round(share * usual.max_examples)))
    try:
        return (yield)
    finally:
        test._hypothesis_internal_use_settings = usual


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Let xdist send a report that has lone surrogates, in a log for example: else it ends the whole run."""
    return _without_surrogates((yield))


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _without_surrogates(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_surrogates(part) for part in value)
    return value


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURSO_DATABASE_URL", "TURSO_AUTH_TOKEN", "LIBSQL_DATABASE_PATH", "COLUMNS"):  # xdist sets the last
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def schema_by_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make schemas in this process by `schema_template`. Tests about revisions override this fixture."""
    monkeypatch.setattr(migrate, "_run", schema_template.run)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The path of a file that is not there yet."""
    return tmp_path / "memory.db"


@pytest.fixture(scope="session")
def _template_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that has the schema, and nothing else; without a log."""
    path = tmp_path_factory.mktemp("template") / "memory.db"
    ms.MemoryStorage.open(path).close()
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    return path


@pytest.fixture
def migrated_file(database: Path, _template_file: Path) -> Path:
    """The path of a database of this test's own: empty, with the schema. To run the revisions takes 60 ms more."""
    return Path(shutil.copyfile(_template_file, database))


@pytest.fixture(scope="session")
def sqld(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sqld]:
    """One server for all, with a namespace for each test that wants one. Do not stop it: start another."""
    with Sqld(directory=tmp_path_factory.mktemp("sqld"), namespaces=True) as server:
        yield server


@pytest.fixture(scope="session")
def _template(sqld: Sqld) -> str:
    """The name of a database on the server that is empty, and has the schema."""
    sqld.create_namespace("template")
    ms.MemoryStorage.open(sqld.url_of("template")).close()
    return "template"


@pytest.fixture
def migrated_server_url(sqld: Sqld, _template: str) -> Iterator[str]:
    """The URL of a database of this test's own on the shared server: empty, with the schema."""
    name = f"test-{uuid4().hex}"
    sqld.fork_namespace(_template, name)  # 10 ms; to run the revisions takes 70
    yield sqld.url_of(name)
    sqld.delete_namespace(name)


@pytest.fixture
def server_target(request: pytest.FixtureRequest) -> str | ms.Settings:
    """What a storage on a server is opened with: the URL of a database of this test's own, or, with `--server`,
    settings with a namespace of its own.
    """
    with_option = request.config.getoption("--server")
    return request.getfixturevalue("own_namespace" if with_option else "migrated_server_url")


@pytest.fixture(params=["memory", "file", "server"])
def target(request: pytest.FixtureRequest) -> str | ms.Settings:
    """What a storage is opened with, on each backend: a database of this test's own."""
    if request.param == "memory":
        return ":memory:"
    if request.param == "file":
        return str(request.getfixturevalue("migrated_file"))
    return request.getfixturevalue("server_target")


@pytest.fixture
def storage(target: str) -> Iterator[ms.MemoryStorage]:
    """An empty storage, on each backend."""
    with ms.MemoryStorage.open(target) as opened:
        yield opened


@pytest.fixture
def make_episode() -> Callable[..., ms.Episode]:
    """An episode with some steps, and other fields as given."""

    def make(steps: int = 2, **fields: object) -> ms.Episode:
        done = [
            ms.Step(tool=f"tool-{number % 3}", action=f"action {number}", result=ms.StepOk(output=f"output {number}"))
            for number in range(1, steps + 1)
        ]
        return ms.Episode(**{"task_description": "Fix the flaky token refresh", "steps": done, **fields})

    return make


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes that the test starts react to SIGINT: a job in the background of a shell inherits it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a handler becomes the default in a child
    yield
    signal.signal(signal.SIGINT, before)
