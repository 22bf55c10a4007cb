"""The example web app under load, with its server killed: no wrong response, no hang, and recovery."""

from __future__ import annotations

import collections
import dataclasses
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import urllib3

import memory_storage as ms
from memory_storage.models import new_id
from memory_storage.testing import Sqld
from memory_storage.testing._ports import free_port

from .raw import eventually

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("MEMORY_STORAGE_LOAD_SECONDS", "8"))
THREADS = 40
REQUEST_TIMEOUT = 5.0
# Waiting for a connection, the call, and resolving an unacknowledged write: the maximum duration of a request.
LONGEST = REQUEST_TIMEOUT + REQUEST_TIMEOUT + 10.0


@pytest.fixture
def app(server: Sqld, tmp_path: Path) -> Iterator[str]:
    """The URL of the app, in a process of its own."""
    port = free_port()
    environment = {
        **os.environ,
        "TURSO_DATABASE_URL": server.url,
        "MEMORY_STORAGE_REQUEST_TIMEOUT": str(REQUEST_TIMEOUT),
        "MEMORY_STORAGE_POOL__CONNECT_TIMEOUT": str(REQUEST_TIMEOUT),
        "MEMORY_STORAGE_CIRCUIT_BREAKER__TIMEOUT": "0.5",
    }
    command = [sys.executable, "-m", "uvicorn", "examples.webapp.app:app", "--port", str(port), "--log-level=warning"]
    with (tmp_path / "app.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        _wait_until_up(f"http://127.0.0.1:{port}", process, tmp_path / "app.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib3.request("GET", f"{url}/health", retries=False, timeout=1)
        except urllib3.exceptions.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(log.read_text())


@dataclasses.dataclass
class KnownEpisode:
    """An episode as its client knows it: what was acknowledged, and what was asked without an answer."""

    user: str
    id: str
    saved: bool = False
    steps: dict[str, int] = dataclasses.field(default_factory=dict)
    perhaps: set[str] = dataclasses.field(default_factory=set)
    verdict: str | None = None
    perhaps_complete: bool = False


class Client:
    """One thread's: its episodes, and every answer it got."""

    def __init__(self, url: str, number: int) -> None:
        self._url = f"{url}/users/{number}/episodes"
        self._http = urllib3.PoolManager(retries=False, timeout=LONGEST)
        self._random = random.Random(number)
        self.user = str(number)
        self.known: list[KnownEpisode] = []
        self.statuses: collections.Counter[int] = collections.Counter()
        self.times: list[tuple[float, float, int]] = []
        self.wrong: list[str] = []

    def work(self, until: float) -> None:
        while time.monotonic() < until:
            if not self.known or self._random.random() < 0.2:
                self._save()
            else:
                done = self._random.choice((self._append, self._append, self._complete, self._get, self._query))
                done(self._random.choice(self.known))

    def _ask(self, method: str, path: str = "", body: Any = None) -> tuple[int, Any]:
        began = time.monotonic()
        answer = self._http.request(method, self._url + path, json=body)
        self.times.append((began, time.monotonic() - began, answer.status))
        self.statuses[answer.status] += 1
        if answer.status not in (200, 503):
            self.wrong.append(f"{method} {path}: {answer.status} {answer.data[:300]!r}")
        return answer.status, answer.json()

    def _save(self) -> None:
        episode = KnownEpisode(self.user, str(new_id()))
        body = {"task_description": f"of {self.user}", "task_type": "testing", "steps": []}
        status, _ = self._ask("PUT", f"/{episode.id}", body)
        if status == 200:
            episode.saved = True
            self.known.append(episode)

    def _append(self, episode: KnownEpisode) -> None:
        step = str(uuid4())
        status, found = self._ask("PUT", f"/{episode.id}/steps/{step}", {"tool": "t", "action": step})
        if status == 200:
            episode.steps[step] = found["step_number"]
        else:
            episode.perhaps.add(step)

    def _complete(self, episode: KnownEpisode) -> None:
        verdict = str(uuid4())
        status, _ = self._ask("PUT", f"/{episode.id}/outcome", {"verdict": verdict})
        if status == 200:
            episode.verdict, episode.perhaps_complete = verdict, False
        else:
            episode.perhaps_complete = True

    def _get(self, episode: KnownEpisode) -> None:
        status, found = self._ask("GET", f"/{episode.id}")
        if status == 200:
            self.wrong += _wrong_with(episode, ms.Episode(**found))

    def _query(self, _: KnownEpisode) -> None:
        status, found = self._ask("GET", "?limit=5")
        if status == 200 and any(one["task_description"] != f"of {self.user}" for one in found):
            self.wrong.append("another one's episode")


def _wrong_with(known: KnownEpisode, found: ms.Episode) -> list[str]:
    """Return how the stored episode differs from what its client knows."""
    wrong = []
    numbers = [step.step_number for step in found.steps]
    if numbers != list(range(1, len(numbers) + 1)):
        wrong.append(f"{known.id}: the steps have the numbers {numbers}")
    stored = {step.action: step.step_number for step in found.steps}
    if len(stored) != len(found.steps):
        wrong.append(f"{known.id}: a step is there twice")
    if any(str(step.id) != step.action for step in found.steps):
        wrong.append(f"{known.id}: a step has another one's content")
    if not known.steps.items() <= stored.items():
        wrong.append(f"{known.id}: known {known.steps}, stored {stored}")
    if not stored.keys() <= known.steps.keys() | known.perhaps:
        wrong.append(f"{known.id}: steps that no request asked for")
    if not known.perhaps_complete and known.verdict != (found.outcome and found.outcome.verdict):
        wrong.append(f"{known.id}: known {known.verdict}, stored {found.outcome}")
    return wrong


def _kill_and_start(server: Sqld, after: float) -> tuple[float, float]:
    time.sleep(after)
    killed = time.monotonic()
    server.kill()
    time.sleep(1.0)
    server.start()
    return killed, time.monotonic()


@pytest.mark.slow
def test_forty_threads_survive_a_killed_server(app: str, server: Sqld, capsys):
    clients = [Client(app, number) for number in range(THREADS)]
    before = threading.active_count()
    until = time.monotonic() + SECONDS
    with ThreadPoolExecutor(THREADS + 1) as threads:
        outage = threads.submit(_kill_and_start, server, SECONDS / 2)
        for done in [threads.submit(client.work, until) for client in clients]:
            done.result(timeout=SECONDS + 4 * LONGEST)
        killed, back = outage.result()

    assert [problem for client in clients for problem in client.wrong] == []
    times = [one for client in clients for one in client.times]
    assert max(seconds for _, seconds, _ in times) < LONGEST
    assert any(status == 200 and began > back for began, _, status in times), "it did not recover"
    health = urllib3.request("GET", f"{app}/health").json()
    assert health["checked_out"] == 0
    _assert_all_is_there(server, clients)
    _report(capsys, clients, times, killed, back)
    eventually(lambda: threading.active_count() <= before)  # a pool's timer ends a moment after it is cancelled


def _assert_all_is_there(server: Sqld, clients: list[Client]) -> None:
    with ms.MemoryStorage.open(server.url) as storage:
        for client in clients:
            episodes = storage.in_namespace(f"user:{client.user}").episodes
            stored = {str(episode.id): episode for episode in episodes.iterate()}
            assert {known.id for known in client.known} <= stored.keys()
            assert [wrong for known in client.known for wrong in _wrong_with(known, stored[known.id])] == []


def _report(
    capsys: Any, clients: list[Client], times: list[tuple[float, float, int]], killed: float, back: float
) -> None:
    statuses = sum((client.statuses for client in clients), collections.Counter[int]())
    good = sorted(seconds for _, seconds, status in times if status == 200)
    first = min(began + seconds for began, seconds, status in times if status == 200 and began > back)
    steps = sum(len(known.steps) for client in clients for known in client.known)
    with capsys.disabled():
        print(
            f"\nweb app: {THREADS} threads, {SECONDS:g} s: {len(times)} requests {dict(statuses)}, "
            f"{sum(len(client.known) for client in clients)} episodes, {steps} steps; median "
            f"{good[len(good) // 2] * 1000:.0f} ms, longest {max(seconds for _, seconds, _ in times):.1f} s; "
            f"away for {back - killed:.1f} s, answering {first - back:.2f} s after"
        )
