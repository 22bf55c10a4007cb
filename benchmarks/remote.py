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
from ._bare import Bare
from ._measure import Work, interleaved, ratios
from ._report import Line, Report, milliseconds

LATENCY = 0.02
THREADS = 10
_GAIN, _OWN_GAIN = 9, 7  # of ten; each write to its own database keeps the server's cores busy
_BARE = 0.6  # of the throughput of bare requests, on a slow machine too; it is 0.8, and 0.1 if one thread waits for all
_WRITE_GAIN = 3  # of the four writes that are in flight at a time
_LEAST_WRITE_GAIN = 2  # on a slow machine too; it is 1 if one thread waits for all
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
    "to bare requests: ten threads relative to ten that send the same requests by http.client. What the line and the "
    "server take counts on both sides; a thread that waits for another one on ours only.",
    "save: an episode of 20 steps, by its one batch; sqlalchemy-libsql writes the same rows by an INSERT and an "
    "executemany in one transaction, on an open connection; same proxy, same server.",
    "driver: single-row reads in autocommit by one thread, on loopback, without the added latency.",
)


def run(*, short: bool) -> Report:
    """Measure all cases."""
    rounds, calls = (3, 100) if short else (5, _CALLS)
    with _served() as (server, line):
        lines = [
            *_threads(line, rounds, calls, short=short),
            *_apart(rounds, calls, None if short else _OWN_GAIN),
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


def _threads(line: Proxy, rounds: int, calls: int, *, short: bool) -> list[Line]:
    with ExitStack() as opened:
        storage = opened.enter_context(ms.MemoryStorage.open(line.url))
        ids = [episode.id for episode in storage.episodes.query(limit=50, steps=False).items]
        turns = count()
        theirs = create_engine(f"sqlite+libsql://127.0.0.1:{line.port}/?secure=false", pool_size=2 * THREADS)
        opened.callback(theirs.dispose)

        def write() -> None:
            storage.episodes.append_step(ids[next(turns) % len(ids)], _step())

        def read_theirs() -> None:
            with theirs.connect() as connection:
                connection.execute(text(_SELECT)).all()

        def read() -> None:
            storage.episodes.get(ids[0], steps=False)

        read()
        return [
            _gain("reads, 10 threads", read, rounds, calls, at_least=None if short else _GAIN),
            _to_bare("reads, 10 threads, to bare requests", read, Bare(read), rounds, calls),
            # The client sends four writes at a time (setting: max_concurrent_writes).
            _gain(
                "appends to 50 episodes, 10 threads", write, rounds, calls, _LEAST_WRITE_GAIN if short else _WRITE_GAIN
            ),
            _gain("reads, 10 threads, sqlalchemy-libsql", read_theirs, 1, min(calls, 80)),
        ]


def _apart(rounds: int, calls: int, gain: int | None) -> list[Line]:
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
            places.append(_appending(storage))
        own, turns = threading.local(), count()

        def place() -> tuple[Work, Work]:
            if not hasattr(own, "number"):
                own.number = next(turns) % THREADS
            number: int = own.number
            return places[number]

        def write() -> None:
            place()[0]()

        def bare() -> None:
            place()[1]()

        return [
            _gain("appends to 10 databases, 10 threads", write, rounds, calls, at_least=gain),
            _to_bare("appends to 10 databases, to bare requests", write, bare, rounds, calls),
        ]


def _appending(storage: ms.MemoryStorage) -> tuple[Work, Work]:
    """Return what appends a step to a new episode, and the same by bare requests."""
    episodes = storage.episodes
    episode, first = episodes.save(_workload.episode(0)).id, _step()
    bare = Bare(lambda: episodes.append_step(episode, first), added=str(first.id))
    return lambda: episodes.append_step(episode, _step()), bare


def _step() -> ms.Step:
    return ms.Step(tool="pytest", action="run the tests")


def _to_bare(name: str, call: Work, bare: Work, rounds: int, calls: int) -> Line:
    """Return the throughput of ten threads relative to ten threads with the bare requests."""
    with ThreadPoolExecutor(THREADS) as threads:
        sides = {
            name: lambda work=work: list(threads.map(lambda _: work(), range(calls)))
            for name, work in (("ours", call), ("bare", bare))
        }
        times = interleaved(lambda _: sides, rounds)
    each = (milliseconds(median(times[side]) / calls) for side in ("ours", "bare"))
    return Line(name, *ratios(times["bare"], times["ours"]), "{}, bare {} a call".format(*each), at_least=_BARE)


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
