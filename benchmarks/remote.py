"""A storage on a real libSQL server: concurrent threads, round trips, and the cost of the driver.

The connection goes through a proxy in its own process, which adds 20 ms to every round trip, like a server in a nearby
region. Ratios are of throughput or time in the same run; 10.0 for ten threads is as good as it can be.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import import_module
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import create_engine, text

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.testing import Sqld
from tests.proxy import Proxy

from . import _workload
from ._measure import Work, interleaved, ratios
from ._report import Line, Report, milliseconds

LATENCY = 0.02
THREADS = 10
_GAIN, _LEAST_GAIN = 9, 8  # of ten; in short, and where writes queue for one lock, the least
_OWN_GAIN = 7  # each write indexes its words and facets, so the server's cores are busy
_WRITE_GAIN = 3  # of the four writes that are in flight at a time
_CALLS = 600  # by ten threads: with fewer, the last of them wait for each other's end a part of the time

_SELECT = "SELECT id, version FROM episodes ORDER BY seq LIMIT 1"
_INSERT_EPISODE = text(
    "INSERT INTO episodes (namespace, id, version, task_type, domain, complexity, started_at, created_at, updated_at, "
    "document) VALUES ('raw', :id, 1, 'other', 'airline', 'simple', 0, 0, 0, :document)"
)
_INSERT_STEP = text(
    "INSERT INTO steps (namespace, episode_id, step_number, id, tool, latency_ms, started_at, output, document) "
    "VALUES ('raw', :episode_id, :step_number, :id, :tool, 0, 0, :output, :document)"
)
_NOTES = (
    "threads: the throughput of ten threads relative to that of one; every round trip takes 20 ms longer.",
    "save: an episode of 20 steps, by its one batch; sqlalchemy-libsql writes the same rows by an INSERT and an "
    "executemany in one transaction, on an open connection; same proxy, same server.",
    "driver: single-row reads in autocommit by one thread, on loopback, without the added latency.",
)


def run(*, short: bool) -> Report:
    """Measure all cases."""
    rounds, calls, gain = (3, 100, _LEAST_GAIN) if short else (5, _CALLS, _GAIN)
    with _served() as (server, line):
        lines = [
            *_threads(line, rounds, calls, gain),
            _apart(rounds, calls),
            _save(line, rounds, saves=5 if short else 15),
            *_driver(server, rounds, reads=200 if short else 400),
        ]
    return Report("On a libSQL server", lines, list(_NOTES))


@contextmanager
def _served() -> Iterator[tuple[Sqld, Proxy]]:
    """A server with some episodes, and the slow connection to it."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Sqld(directory=Path(directory)) as server,
        Proxy(server.port, latency=LATENCY, own_process=True) as line,
    ):
        with ms.MemoryStorage.open(server.url) as storage:
            storage.episodes.save_many(_workload.episodes(0, 50))
        yield server, line


def _threads(line: Proxy, rounds: int, calls: int, gain: int) -> list[Line]:
    with ExitStack() as opened:
        storage = opened.enter_context(ms.MemoryStorage.open(line.url))
        ids = [episode.id for episode in storage.episodes.query(limit=50, steps=False).items]
        turns = count()
        theirs = create_engine(f"sqlite+libsql://127.0.0.1:{line.port}/?secure=false", pool_size=2 * THREADS)
        opened.callback(theirs.dispose)

        def write() -> None:
            storage.episodes.append_step(ids[next(turns) % len(ids)], ms.Step(tool="pytest", action="run the tests"))

        def read_theirs() -> None:
            with theirs.connect() as connection:
                connection.execute(text(_SELECT)).all()

        return [
            _gain("reads, 10 threads", lambda: storage.episodes.get(ids[0], steps=False), rounds, calls, at_least=gain),
            # The client sends four writes at a time (setting: max_concurrent_writes).
            _gain("appends to 50 episodes, 10 threads", write, rounds, calls, at_least=_WRITE_GAIN),
            _gain("reads, 10 threads, sqlalchemy-libsql", read_theirs, 1, min(calls, 80)),
        ]


def _apart(rounds: int, calls: int) -> Line:
    """Measure writes that do not queue for the server's lock: each thread has its own database."""
    with ExitStack() as opened:
        directory = opened.enter_context(tempfile.TemporaryDirectory())
        server = opened.enter_context(Sqld(directory=Path(directory), namespaces=True))
        line = opened.enter_context(Proxy(server.port, latency=LATENCY, own_process=True))
        places = []
        for number in range(THREADS):
            server.create_namespace(f"own-{number}")
            url = server.url_of(f"own-{number}").replace(f":{server.port}", f":{line.port}")
            storage = opened.enter_context(ms.MemoryStorage.open(url))
            places.append((storage, storage.episodes.save(_workload.episode(number)).id))
        own, turns = threading.local(), count()

        def write() -> None:
            if not hasattr(own, "place"):
                own.place = places[next(turns) % THREADS]
            storage, episode = own.place
            storage.episodes.append_step(episode, ms.Step(tool="pytest", action="run the tests"))

        return _gain("appends to 10 databases, 10 threads", write, rounds, calls, at_least=_OWN_GAIN)


def _gain(name: str, call: Work, rounds: int, calls: int, at_least: float | None = None) -> Line:
    """Return the throughput of ten threads relative to that of one."""
    with ThreadPoolExecutor(THREADS) as threads:
        sides = {
            "one": lambda: [call() for _ in range(calls // THREADS)],
            "ten": lambda: list(threads.map(lambda _: call(), range(calls))),
        }
        times = interleaved(lambda _: sides, rounds)
    middle, least, greatest = (THREADS * ratio for ratio in ratios(times["one"], times["ten"]))
    each = milliseconds(median(times["one"]) / (calls // THREADS)), milliseconds(median(times["ten"]) / calls)
    return Line(name, middle, least, greatest, "one {}, ten {} a call".format(*each), at_least=at_least)


def _save(line: Proxy, rounds: int, saves: int) -> Line:
    theirs = create_engine(f"sqlite+libsql://127.0.0.1:{line.port}/?secure=false")
    numbers = count(10_000)
    with ms.MemoryStorage.open(line.url) as storage, theirs.connect() as connection:

        def ours() -> None:
            for _ in range(saves):
                storage.episodes.save(_workload.episode(next(numbers)))

        def by_rows() -> None:  # one is enough: it takes as long as dozens of ours
            episode = _workload.episode(next(numbers))
            connection.execute(_INSERT_EPISODE, {"id": str(episode.id), "document": episode.model_dump_json()})
            connection.execute(_INSERT_STEP, list(map(_row(episode), episode.steps)))
            connection.commit()

        times = interleaved(lambda _: {"ours": ours, "theirs": by_rows}, rounds)
    theirs.dispose()
    each = [seconds / saves for seconds in times["ours"]]
    detail = f"{milliseconds(median(each))}, sqlalchemy-libsql {milliseconds(median(times['theirs']))}"
    return Line("save, 20 steps, to sqlalchemy-libsql", *ratios(times["theirs"], each), detail, at_least=15)


def _row(episode: ms.Episode) -> Callable[[ms.Step], dict[str, Any]]:
    def row(step: ms.Step) -> dict[str, Any]:
        return {
            "episode_id": str(episode.id),
            "step_number": step.step_number,
            "id": str(step.id),
            "tool": step.tool,
            "output": "",
            "document": step.model_dump_json(),
        }

    return row


def _driver(server: Sqld, rounds: int, reads: int) -> list[Line]:
    http = f"http://127.0.0.1:{server.port}"
    ours = dbapi.connect(server.url)
    ours.autocommit = True
    connections = {
        "ours": ours,
        "libsql": import_module("libsql").connect(http, auth_token=""),
        "turso-serverless": import_module("turso_serverless").connect(http),
    }
    sides = {name: _reading(connection, reads) for name, connection in connections.items()}
    times = interleaved(lambda _: sides, 3 * rounds)
    return [
        Line(
            f"driver, reads, to {name}",
            *ratios(times[name], times["ours"]),
            f"{milliseconds(median(times['ours']) / reads)}, {name} {milliseconds(median(times[name]) / reads)} a read",
            at_least=1.0,
        )
        for name in ("libsql", "turso-serverless")
    ]


def _reading(connection: Any, reads: int) -> Work:
    def work() -> None:
        for _ in range(reads):
            cursor = connection.cursor()
            cursor.execute(_SELECT)
            cursor.fetchall()

    return work
