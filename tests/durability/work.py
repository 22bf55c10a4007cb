"""The functions that the processes of these tests run."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import NAMESPACE_OID, UUID, uuid5

import memory_storage as ms
from memory_storage import dbapi

from .writes import Writer, now

THREADS = 8
ENGINES = ("sqlite", "libsql")


def open_at_once(barrier: Any, path: Path) -> str:
    """Open a file that may not be there yet, and use it."""
    barrier.wait()
    with ms.MemoryStorage.open(path) as storage:
        return str(storage.episodes.save(ms.Episode(task_description="one of many")).id)


def append_and_apply(
    barrier: Any, path: Path, episodes: list[UUID], patterns: list[UUID], steps: int, applications: int
) -> list[tuple[float, str, int]]:
    """Append steps to the shared episodes and apply the shared patterns; per write: its seconds, step id and number."""
    with ms.MemoryStorage.open(path) as storage:

        def write(thread: int) -> list[tuple[float, str, int]]:
            done = []
            for number in range(max(steps, applications)):
                if number < steps:
                    episode = episodes[(thread + number) % len(episodes)]
                    began = time.monotonic()
                    step = storage.episodes.append_step(episode, ms.Step(tool="crowd", action=f"{number}"))
                    done.append((time.monotonic() - began, str(step.id), step.step_number or 0))
                if number < applications:
                    began = time.monotonic()
                    storage.patterns.record_application(
                        patterns[(thread + number) % len(patterns)], success=number % 2 == 0, reward_delta=0.5
                    )
                    done.append((time.monotonic() - began, "", 0))
            return done

        with ThreadPoolExecutor(THREADS) as threads:
            barrier.wait()
            return [one for done in threads.map(write, range(THREADS)) for one in done]


def write_until_killed(
    acknowledge: Any, path: Path, engine: str, seed: str, durability: Literal["full", "normal"]
) -> None:
    """Write, and send a byte for each write that has returned."""
    settings = settings_of(path, engine, namespace=seed, durability=durability)
    with ms.MemoryStorage.open(settings, now=now) as storage:
        for _ in Writer(storage, seed).run():
            os.write(acknowledge.fileno(), b".")


def open_until_killed(acknowledge: Any, path: Path) -> None:
    """Open a file that is not there yet, save an episode, say so, and wait."""
    storage = ms.MemoryStorage.open(path)
    with storage.transaction() as tx:
        tx.episodes.save(ms.Episode(task_description="opened"))
        os.write(acknowledge.fileno(), b".")
    time.sleep(60)


def open_as_nobody(barrier: Any, path: Path) -> tuple[str, str]:
    """Open, read and write as a user without rights; the error, and what it says."""
    ms.MemoryStorage.open(":memory:").close()  # what that loads, the other user may not be allowed to read
    if os.geteuid() == 0:
        os.setuid(65534)
    read = ""
    try:
        with ms.MemoryStorage.open(path) as storage:
            read = f"{storage.episodes.count()} episode, then "
            storage.episodes.save(ms.Episode(task_description="unowned"))
    except ms.MemoryStorageError as error:
        return read + type(error).__name__, str(error)
    return read + "no error", ""


def settings_of(path: Path | str, engine: str, key: str | None = None, **fields: Any) -> ms.Settings:
    """Settings that name the engine, and ask for no index that only one of them has."""
    return ms.Settings.model_validate(
        {"database": str(path), "local_engine": engine, "encryption_key": key, "vector_index": "exact", **fields}
    )


def write_with_engine(
    barrier: Any, path: Path, engine: str, writes: int, shared: list[UUID], pattern: UUID
) -> dict[str, Any]:
    """Write to the shared rows and to own ones, each write a commit; the ids that are stored when this returns."""
    steps: list[str] = []
    episodes: list[UUID] = []
    places: list[UUID] = []
    with ms.MemoryStorage.open(settings_of(path, engine)) as storage:
        barrier.wait()
        for number in range(writes):
            kind = number % 10
            if kind == 0:
                step = ms.Step(tool="t", action=f"act {number}")
                episode = ms.Episode(task_description=f"by{engine} {number}", steps=[step], tags=[engine])
                episodes.append(storage.episodes.save(episode).id)
            elif kind == 4:
                point = {"latitude": number % 90, "longitude": number % 180}
                owner = {"owner_type": "episode", "owner_id": episodes[-1]}
                places.append(storage.spatiotemporal.put(ms.SpatiotemporalEntry(**owner, **point)).id)
            elif kind == 7:
                storage.patterns.record_application(pattern, success=True)
            else:
                step = ms.Step(tool=engine, action=f"{number}")
                steps.append(str(storage.episodes.append_step(shared[number % len(shared)], step).id))
    return {"steps": steps, "episodes": episodes, "places": places}


def save_until_killed(acknowledge: Any, path: Path, engine: str, key: str | None, seed: str) -> None:
    """Save episodes with ids that the seed tells, and send a byte for each."""
    with ms.MemoryStorage.open(settings_of(path, engine, key)) as storage:
        for number in range(10_000):
            episode = ms.Episode(id=uuid5(NAMESPACE_OID, f"{seed} {number}"), task_description=f"{seed} {number}")
            storage.episodes.save(episode)
            os.write(acknowledge.fileno(), b".")


def append_until(barrier: Any, path: Path, engine: str, key: str | None, episode: UUID, until: Path) -> list[str]:
    """Append steps until a file is there; their ids."""
    steps = []
    with ms.MemoryStorage.open(settings_of(path, engine, key)) as storage:
        barrier.wait()
        while not until.exists():
            steps.append(str(storage.episodes.append_step(episode, ms.Step(tool=engine, action="continue")).id))
    return steps


def insert_until_killed(acknowledge: Any, path: Path, engine: str, key: str | None) -> None:
    """Insert rows that stay in the log, and send a byte for each."""
    connection = dbapi.connect(str(path), local_engine=engine, encryption_key=key)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    for number in range(10**6):
        connection.execute("INSERT INTO t VALUES (?, zeroblob(3000))", (number,))
        connection.commit()
        os.write(acknowledge.fileno(), b".")


def insert_two(barrier: Any, path: Path, engine: str) -> str | None:
    """Insert 2 into the table t by an engine; "" or the code of the error."""
    connection = dbapi.connect(str(path), local_engine=engine, busy_timeout=0.05)
    try:
        connection.execute("INSERT INTO t VALUES (2)")
        connection.commit()
    except dbapi.Error as error:
        return error.code
    finally:
        connection.close()
    return ""


def hold_the_lock(pipe: Any, path: Path, seconds: float) -> None:
    """Take the write lock, say so, and keep it for a while."""
    with ms.MemoryStorage.open(path) as storage, storage.transaction() as tx:
        tx.episodes.count()
        pipe.send_bytes(b"locked")
        time.sleep(seconds)


def retain_until_killed(pipe: Any, path: Path, policy: ms.RetentionPolicy, moment: datetime) -> None:
    """Apply a retention policy, and report when the first batch is done."""
    with ms.MemoryStorage.open(path) as storage:
        plan = storage.retention.plan(policy, now=moment)
        storage.retention.apply(plan, progress=lambda *_: os.write(pipe.fileno(), b"."))
        os.write(pipe.fileno(), b".")
        time.sleep(60)


def forget_until_killed(pipe: Any, path: Path, namespace: str) -> None:
    """Say that it begins, and erase a namespace."""
    with ms.MemoryStorage.open(path) as storage:
        os.write(pipe.fileno(), b".")
        storage.forget(namespace=namespace)
        time.sleep(60)


def write_for_a_while(barrier: Any, path: Path, until: Path) -> list[float]:
    """Save episodes until a file is there; the seconds that each save took."""
    took = []
    with ms.MemoryStorage.open(path, namespace=f"writer {os.getpid()}") as storage:
        barrier.wait()
        while not until.exists():
            began = time.monotonic()
            storage.episodes.save(ms.Episode(task_description="concurrent", steps=[ms.Step(tool="t")]))
            took.append(time.monotonic() - began)
            time.sleep(0.002)
    return took


def retain_and_say_so(barrier: Any, path: Path, policy: ms.RetentionPolicy, done: Path) -> list[str]:
    """Apply a retention policy while others write; the plan's ids, of which none was skipped."""
    with ms.MemoryStorage.open(path) as storage:
        barrier.wait()
        try:
            plan = storage.retention.plan(policy)
            assert storage.retention.apply(plan).skipped == []
        finally:
            done.touch()
    return [str(item.id) for item in plan]
