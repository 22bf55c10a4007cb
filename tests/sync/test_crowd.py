"""Eight processes with a file each, or two for all, a line that fails in every way, kills of clients and of the server.

MEMORY_STORAGE_CHAOS_SECONDS is how long it lasts (default 10), MEMORY_STORAGE_CHAOS_CHANGES how many changes are in the
sync that is killed after 2,000 of them each time (default 14,000), MEMORY_STORAGE_CHAOS_SEED what happens; the seed of
a run is printed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage.testing import Sqld
from tests.checks import assert_consistent
from tests.proxy import Proxy

from .world import contents

CHANGES = int(os.environ.get("MEMORY_STORAGE_CHAOS_CHANGES", "14000"))
KILLS = CHANGES // 2_000
SECONDS = float(os.environ.get("MEMORY_STORAGE_CHAOS_SECONDS", "10"))
SEED = int(os.environ.get("MEMORY_STORAGE_CHAOS_SEED") or time.time_ns() % 2**32)
CLIENTS = 8
ROOT = Path(__file__).parents[2]


class Crowd:
    """The client processes."""

    def __init__(self, directory: Path, url: str, seed: int, files: int) -> None:
        self._directory, self._url, self._seed, self._files = directory, url, seed, files
        self.kills = 0
        self._processes = [self._start(number) for number in range(CLIENTS)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        self._seed += 1
        arguments = [
            self._directory / f"{number % self._files}.db",
            self._url,
            self._directory / f"{number}.txt",
            self._seed,
        ]
        command = [sys.executable, "-m", "tests.sync.crowd", *map(str, arguments)]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)

    def kill_one(self, chance: random.Random) -> None:
        """Kill a client, and start it again on its file."""
        number = chance.randrange(CLIENTS)
        self._processes[number].send_signal(signal.SIGKILL)
        self._processes[number].communicate()
        self._processes[number] = self._start(number)
        self.kills += 1

    def stop(self) -> None:
        """End the clients."""
        for process in self._processes:
            process.communicate(timeout=30)
        assert [process.returncode for process in self._processes] == [0] * CLIENTS

    def ledger(self) -> Counter[tuple[str, str, str]]:
        """Return how often each line was written."""
        files = self._directory.glob("*.txt")
        return Counter(tuple(line.split()) for file in files for line in file.read_text().splitlines())


def faults(proxy: Proxy, server: Sqld, crowd: Crowd, chance: random.Random) -> dict[str, Callable[[], object]]:
    """What may happen."""

    def go_away() -> None:
        proxy.refuse()
        time.sleep(chance.uniform(0.1, 0.5))
        proxy.accept()

    def be_deaf() -> None:
        proxy.deaf = True
        time.sleep(chance.uniform(0.1, 0.5))
        proxy.deaf = False
        proxy.cut_all()

    def restart() -> None:
        server.kill()
        server.start()

    return {
        "requests are cut": lambda: proxy.cut_request_after(chance.randrange(20_000), times=3),
        "answers are cut": lambda: proxy.cut_reply_after(chance.choice([0, 0, chance.randrange(20_000)]), times=3),
        "the line is cut": proxy.cut_all,
        "the line is slow": lambda: setattr(proxy, "latency", chance.choice([0.0, 0.05])),
        "the server is away": go_away,
        "the server is deaf": be_deaf,
        "the server is killed": restart,
        "a client is killed": lambda: crowd.kill_one(chance),
        "a client is killed again": lambda: crowd.kill_one(chance),
    }


@pytest.mark.slow
@pytest.mark.parametrize("files", [CLIENTS, 2])
@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal that Windows does not have")
def test_what_a_crowd_was_told_is_there_once(tmp_path: Path, files: int, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(SEED)
    happened: Counter[str] = Counter()
    with Sqld(directory=tmp_path / "server") as server, Proxy(server.port) as proxy:
        with ms.MemoryStorage.open(server.url) as storage:
            storage.episodes.save(ms.Episode(task_description="the first"))
            storage.patterns.save(ms.Heuristic(condition="if", action="then"))
        crowd = Crowd(tmp_path, proxy.url, SEED, files)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.05, 0.4))
            name, fault = chance.choice(list(faults(proxy, server, crowd, chance).items()))
            fault()
            happened[name] += 1
        proxy.latency = 0.0
        proxy.cut_request_after(None)
        proxy.cut_reply_after(None)
        crowd.stop()
        ledger = crowd.ledger()
        replicas = [
            ms.MemoryStorage.open(ms.Settings(database=str(tmp_path / f"{number}.db"), sync_url=server.url))
            for number in range(files)
        ]
        for _ in range(2):
            for replica in replicas:
                replica.sync()
        with ms.MemoryStorage.open(server.url) as storage:
            stored = contents(storage)
            assert_consistent(storage.engine)
        for replica in replicas:
            assert contents(replica) == stored
            assert replica.sync_status() is not None
            assert_consistent(replica.engine)
        _compare(stored, ledger)
        conflicts = sum(replica.conflicts.count() for replica in replicas)
        for replica in replicas:
            replica.close()
    with capsys.disabled():
        print(
            f"\n{files} files, seed {SEED}: {sum(ledger.values())} entries, {crowd.kills} kills, {conflicts} conflicts"
        )
        print(", ".join(f"{name}: {times}" for name, times in sorted(happened.items())))


def _compare(stored: dict[str, dict[object, object]], ledger: Counter[tuple[str, str, str]]) -> None:
    episodes = {str(key): one for key, one in stored["episodes"].items()}
    steps = Counter(str(step.id) for one in episodes.values() for step in one.steps)  # type: ignore[attr-defined]
    keys = {key for one in episodes.values() for key in one.metadata}  # type: ignore[attr-defined]
    assert set(steps.values()) <= {1}, "a step is doubled"
    assert len(episodes) >= 1 + sum(kind == "episode" for _, kind, _ in ledger)
    for (word, kind, name), times in ledger.items():
        if (word, kind) == ("ok", "episode"):
            assert len(episodes[name].steps) >= 2, "an episode is there by half"  # type: ignore[attr-defined]
        elif (word, kind) == ("ok", "step"):
            assert name in steps, "a step was lost"
        elif (word, kind) == ("ok", "key"):
            assert name in keys, "a key was lost"
        elif (word, kind) == ("ok", "count"):
            pattern = next(iter(stored["patterns"].values()))
            applied = pattern.effectiveness.times_applied  # type: ignore[attr-defined]
            assert times <= applied <= ledger["try", "count", name], "a count was lost, or doubled"


def episodes(number: int) -> Iterator[list[ms.Episode]]:
    """Yield episodes with six steps of the sizes of real ones, 200 at a time."""
    words = ["".join(random.choices("abcdefghij", k=7)) for _ in range(2_000)]
    for first in range(0, number, 200):
        yield [
            ms.Episode(
                task_description=f"episode {first + n}",
                steps=[
                    ms.Step(tool="t", action="act", result=ms.StepOk(output=" ".join(random.choices(words, k=90))))
                    for _ in range(6)
                ],
            )
            for n in range(min(200, number - first))
        ]


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["push", "pull"])
@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal that Windows does not have")
def test_a_sync_that_is_killed_goes_on(tmp_path: Path, direction: str, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        Sqld(directory=tmp_path / "first") as first,
        Sqld(directory=tmp_path / "second") as second,
        Proxy(first.port) as peace,
        Proxy(second.port if direction == "push" else first.port) as war,
    ):
        for server in (first, second):
            ms.MemoryStorage.open(server.url).close()
        source = tmp_path / "peace.db" if direction == "push" else first.url
        with ms.MemoryStorage.open(source) as storage:
            for some in episodes(CHANGES // 7):
                storage.episodes.import_many(some)
        if direction == "push":
            shutil.copyfile(tmp_path / "peace.db", tmp_path / "war.db")
        _sync(peace, tmp_path / "peace.db").wait()
        in_peace = _traffic(peace)
        chance, kills = random.Random(SEED), 0
        process = _sync(war, tmp_path / "war.db")
        while True:
            limit = _traffic(war) + in_peace * chance.uniform(0.3, 1.5) / KILLS
            while process.poll() is None and _traffic(war) < limit:
                time.sleep(0.001)
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
            process = _sync(war, tmp_path / "war.db")
        assert process.returncode == 0
        ratio = _traffic(war) / in_peace
        with ms.MemoryStorage.open(tmp_path / "war.db") as killed, ms.MemoryStorage.open(first.url) as there:
            expected = contents(there)
            assert contents(killed) == expected
            assert len(expected["episodes"]) == CHANGES // 7
            assert_consistent(killed.engine)
        if direction == "push":
            with ms.MemoryStorage.open(second.url) as other:
                assert contents(other) == expected
                assert_consistent(other.engine)
    with capsys.disabled():
        print(f"\n{direction} of {CHANGES:,} changes, seed {SEED}, killed {kills} times: {ratio:.2f} times the bytes")
    assert kills > KILLS / 2
    assert ratio <= (1.2 if CHANGES >= 100_000 else 1.6)  # of few changes, one great request is much


def _sync(proxy: Proxy, path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "memory_storage", "sync", "--database", str(path), "--url", proxy.url]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _traffic(proxy: Proxy) -> int:
    return proxy.bytes_received + proxy.bytes_sent
