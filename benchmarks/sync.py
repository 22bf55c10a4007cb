"""Sync of files with a server on this machine: what it costs a write, its round trips and bytes, and a fleet.

The server is sqld behind a proxy that counts the bytes; the load of a fleet is the processor time of the server.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter

import memory_storage as ms
from memory_storage.dbapi import BatchStep
from memory_storage.models import SyncReport
from memory_storage.testing import Sqld

from . import _workload
from ._measure import Work, interleaved, ratios
from ._report import Grid, Line, Report

_STEPS = 6
_BATCH = 250
_UNREACHED = "libsql://127.0.0.1:9?tls=0"
"""The server of a replica that never syncs: only its log costs."""
_NOTES = (
    "cost: the time with sync on by that without, in the same round. Both files are on the same disk; each save is "
    "synced to it.",
    "pull: the time of `import_many` of the same episodes in a file, by that of the pull; and received bytes, plain as "
    "over loopback, by those of the documents and outputs. Over TLS the server compresses: see `compressed`.",
    "fleet: each client saves an episode and syncs once a second. lag: from a save to the end of the first sync of "
    "another client that has it. load: processor seconds of the server by seconds.",
)


def run(*, short: bool) -> Report:
    """Measure 10,000 changes, and fleets of 1, 10 and 50 for 20 seconds; less if short."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        lines = _costs(directory, rounds=20 if short else 60)
        if short:
            return Report("Sync", lines, [_NOTES[0]])
        server = stack.enter_context(Sqld(directory=directory / "server"))
        ms.MemoryStorage.open(server.url).close()
        transfer, table = _transfer(directory, server, 12_000)
        fleet = Grid(
            "Fleet", ("clients", "load", "lag p50", "lag p95", "syncs/s"), [_fleet(n, 20.0) for n in (1, 10, 50)]
        )
    return Report("Sync", [*lines, *transfer], list(_NOTES), [table, fleet])


def _costs(directory: Path, rounds: int) -> list[Line]:
    with ExitStack() as stack:
        plain = stack.enter_context(ms.MemoryStorage.open(directory / "plain.db"))
        replica = stack.enter_context(ms.MemoryStorage.open(directory / "replica.db", sync_url=_UNREACHED))
        ids = {
            side: [side.episodes.save(_workload.episode(n, _STEPS)).id for n in range(50)] for side in (plain, replica)
        }
        number = iter(range(1_000, 1_000_000))

        def save(storage: ms.MemoryStorage) -> None:
            for _ in range(20):
                storage.episodes.save(_workload.episode(next(number), _STEPS))

        def get(storage: ms.MemoryStorage) -> None:
            for key in ids[storage]:
                storage.episodes.get(key)

        found = []
        for name, work in (("save", save), ("get", get)):

            def sides(_: int, work: Callable[[ms.MemoryStorage], None] = work) -> Mapping[str, Work]:
                return {"on": partial(work, replica), "off": partial(work, plain)}

            times = interleaved(sides, rounds)
            found.append(Line(f"{name}, sync on / off", *ratios(times["on"], times["off"])))
        return found


def _transfer(directory: Path, server: Sqld, rows: int) -> tuple[list[Line], Grid]:
    episodes = [_workload.episode(number, _STEPS) for number in range(rows // (_STEPS + 1))]
    reports: list[tuple[str, SyncReport]] = []
    with ExitStack() as stack:
        a = stack.enter_context(ms.MemoryStorage.open(directory / "a.db", sync_url=server.url))
        a.sync()
        for first in range(0, len(episodes), _BATCH):
            a.episodes.save_many(episodes[first : first + _BATCH])
        reports.append(("push", a.sync()))
        reports.append(("nothing to do", a.sync()))
        b = stack.enter_context(ms.MemoryStorage.open(directory / "b.db", sync_url=server.url))
        reports.append(("pull, first sync", b.sync()))
        stored = list(a.episodes.iterate())
        single = stack.enter_context(ms.MemoryStorage.open(directory / "import.db"))
        since = perf_counter()
        for first in range(0, len(stored), _BATCH):
            single.episodes.import_many(stored[first : first + _BATCH])
        importing = perf_counter() - since
        texts = a._context.executor.read(_DOCUMENTS)
    size = sum(len(text.encode()) for row in texts for text in row if text)
    compressed = len(gzip.compress("".join(text for row in texts for text in row if text).encode(), 6))
    push, pull = reports[0][1], reports[2][1]
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
    trips = push.round_trips * 10_000 / push.pushed
    return [
        Line("round trips of 10,000 changes", trips, trips, trips, at_most=12),
        Line("pull, by the speed of import_many", *_thrice(importing / pull.seconds)),
        Line("bytes pulled / documents, plain", *_thrice(pull.bytes_received / size)),
        Line("documents / compressed", *_thrice(size / compressed)),
    ], table


def _thrice(value: float) -> tuple[float, float, float]:
    return value, value, value


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
