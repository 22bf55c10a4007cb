"""Sync of files with a server on this machine: what it costs a write, its round trips and bytes, and a fleet.

The bytes are those that the client has counted; the load of a fleet is the processor time of the server, which is sqld.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from unittest.mock import patch

import memory_storage as ms
from memory_storage.dbapi import BatchStep, _http
from memory_storage.models import SyncReport
from memory_storage.testing import Sqld

from . import _workload
from ._measure import Work, interleaved, ratios
from ._report import Grid, Line, Report, line_of

_STEPS = 6
_BATCH = 250
_PULLED = 5_000  # episodes
_UNREACHED = "libsql://127.0.0.1:9?tls=0"
"""The server of a replica that never syncs: only its log costs."""
_NOTES = (
    "cost: the median time of a call with sync on by that without, in turns. Both files are on the same disk; each "
    "save is synced to it.",
    "pull: the time of `import_many` of the same episodes in a file, by that of a first sync, in turns; and the bytes "
    "received by those of the documents and outputs: plain as over loopback, and compressed as over TLS.",
    "fleet: each client saves an episode and syncs once a second. lag: from a save to the end of the first sync of "
    "another client that has it. load: processor seconds of the server by seconds.",
)


def run(*, short: bool) -> Report:
    """Measure 10,000 changes, a first sync, and fleets of 1, 10 and 50 for 20 seconds; less if short."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        lines = _costs(directory, calls=400 if short else 3_000)
        if short:
            return Report("Sync", lines, [_NOTES[0]])
        server = stack.enter_context(Sqld(directory=directory / "server"))
        trips, table = _transfer(directory, server, 12_000)
        lines += [trips, *_pull(directory, server, rounds=3)]
        fleet = Grid(
            "Fleet", ("clients", "load", "lag p50", "lag p95", "syncs/s"), [_fleet(n, 20.0) for n in (1, 10, 50)]
        )
    return Report("Sync", lines, list(_NOTES), [table, fleet])


def _costs(directory: Path, calls: int) -> list[Line]:
    with ExitStack() as stack:
        plain = stack.enter_context(ms.MemoryStorage.open(directory / "plain.db"))
        replica = stack.enter_context(ms.MemoryStorage.open(directory / "replica.db", sync_url=_UNREACHED))
        episode = _workload.episode(0, _STEPS)
        for storage in (replica, plain):
            storage.episodes.save(episode)
        number = count(1)

        def save(storage: ms.MemoryStorage) -> None:
            storage.episodes.save(_workload.episode(next(number), _STEPS))

        def get(storage: ms.MemoryStorage) -> None:
            storage.episodes.get(episode.id)

        return [
            _cost("save, sync on / off", partial(save, replica), partial(save, plain), calls),
            _cost("get, sync on / off", partial(get, replica), partial(get, plain), calls),
        ]


def _cost(name: str, on: Work, off: Work, calls: int) -> Line:
    """Return the ratio of the median times, and the least and greatest of ten parts."""
    times = interleaved(lambda _: {"on": on, "off": off}, calls, collect_every=calls)
    part = calls // 10
    parts = [
        median(times["on"][first : first + part]) / median(times["off"][first : first + part])
        for first in range(0, calls, part)
    ]
    return Line(name, median(times["on"]) / median(times["off"]), min(parts), max(parts))


def _transfer(directory: Path, server: Sqld, rows: int) -> tuple[Line, Grid]:
    ms.MemoryStorage.open(server.url).close()
    reports: list[tuple[str, SyncReport]] = []
    with ms.MemoryStorage.open(directory / "a.db", sync_url=server.url) as a:
        a.sync()
        for some in _episodes(rows // (_STEPS + 1)):
            a.episodes.save_many(some)
        reports.append(("push", a.sync()))
        reports.append(("nothing to do", a.sync()))
    with ms.MemoryStorage.open(directory / "b.db", sync_url=server.url) as b:
        reports.append(("pull, first sync", b.sync()))
    table = Grid(
        "Round trips and bytes",
        ("what", "changes", "round trips", "sent", "received", "seconds"),
        [
            (
                name,
                *map(str, (one.pushed + one.pulled, one.round_trips, one.bytes_sent, one.bytes_received)),
                f"{one.seconds:.2f}",
            )
            for name, one in reports
        ],
    )
    push = reports[0][1]
    return _exactly("round trips of 10,000 changes", push.round_trips * 10_000 / push.pushed, at_most=12), table


def _pull(directory: Path, server: Sqld, rounds: int) -> list[Line]:
    """Compare a first sync with `import_many` of the same episodes."""
    with ms.MemoryStorage.open(server.url) as there:
        for some in _episodes(_PULLED, first=100_000):
            there.episodes.import_many(some)
        stored = list(there.episodes.iterate())
    received = []

    def pull(number: int, *, compressed: bool = False) -> None:
        with ExitStack() as stack:
            if compressed:
                plain = _http._fixed_headers
                headers = patch.object(_http, "_fixed_headers", lambda at: plain(at) + "\r\nAccept-Encoding: gzip")
                stack.enter_context(headers)
            path = directory / f"pulled-{number}.db"
            received.append(stack.enter_context(ms.MemoryStorage.open(path, sync_url=server.url)).sync().bytes_received)

    def imported(number: int) -> None:
        with ms.MemoryStorage.open(directory / f"imported-{number}.db") as storage:
            for first in range(0, len(stored), _BATCH):
                storage.episodes.import_many(stored[first : first + _BATCH])

    times = interleaved(lambda n: {"pull": partial(pull, n), "import": partial(imported, n)}, rounds)
    pull(rounds + 1, compressed=True)
    with ms.MemoryStorage.open(directory / "imported-0.db") as storage:
        texts = [text for row in storage._context.executor.read(_DOCUMENTS) for text in row if text]
    size = sum(len(text.encode()) for text in texts)
    return [
        Line("pull, by the speed of import_many", *ratios(times["import"], times["pull"]), at_least=1.0),
        _exactly("bytes pulled / documents, compressed", received[-1] / size, at_most=1.3),
        _exactly("bytes pulled / documents, plain", received[-2] / size),
    ]


def _exactly(name: str, ratio: float, at_most: float | None = None) -> Line:
    return line_of(name, ratio, at_most=at_most)


def _episodes(number: int, first: int = 0) -> Iterator[list[ms.Episode]]:
    for start in range(first, first + number, _BATCH):
        yield [_workload.episode(n, _STEPS) for n in range(start, min(start + _BATCH, first + number))]


def _fleet(clients: int, seconds: float) -> tuple[str, ...]:
    saved: dict[object, float] = {}
    lags: list[float] = []
    syncs = [0]
    with tempfile.TemporaryDirectory() as name, Sqld(directory=Path(name) / "server") as server, ExitStack() as stack:
        ms.MemoryStorage.open(server.url).close()
        replicas = [
            stack.enter_context(ms.MemoryStorage.open(Path(name) / f"{number}.db", sync_url=server.url))
            for number in range(clients)
        ]
        for replica in replicas:
            replica.sync()
        until = time.monotonic() + seconds
        before = _processor_seconds(server)

        def work(replica: ms.MemoryStorage, number: int) -> None:
            seen: set[object] = set()
            time.sleep(number / clients)
            while (since := time.monotonic()) < until:
                episode = replica.episodes.save(_workload.episode(number, 2))
                saved[episode.id] = time.monotonic()
                seen.add(episode.id)
                replica.sync()
                syncs[0] += 1
                now = time.monotonic()
                for one in replica.episodes.query(limit=200).items:
                    if one.id not in seen:
                        seen.add(one.id)
                        lags.append(now - saved.get(one.id, now))
                time.sleep(max(0.0, since + 1.0 - time.monotonic()))

        threads = [threading.Thread(target=work, args=pair) for pair in zip(replicas, range(clients), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        load = (_processor_seconds(server) - before) / seconds
    p50, p95 = _quantiles(lags)
    return (str(clients), f"{load:.2f}", f"{p50 * 1000:.0f} ms", f"{p95 * 1000:.0f} ms", f"{syncs[0] / seconds:.1f}")


def _quantiles(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values) or [0.0]
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]


def _processor_seconds(server: Sqld) -> float:
    """Return the processor time of the server's process; 0 where the system does not say it."""
    try:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_DOCUMENTS = BatchStep("SELECT document, NULL FROM episodes UNION ALL SELECT document, output FROM steps")
