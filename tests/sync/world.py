"""Some replicas and a server, with faults at every hand-over, and a plain model of what must hold in the end."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from secrets import token_bytes
from typing import Any
from unittest.mock import patch
from uuid import UUID

import networkx as nx

import memory_storage as ms
from memory_storage._files import MaintenanceLock
from memory_storage.dbapi import BatchStep
from memory_storage.errors import UnavailableError
from memory_storage.models import new_id as uuid7
from memory_storage.sql.statement import SqlTemplate, to_micros
from memory_storage.sync.applying import Policy
from memory_storage.sync.local import Local
from memory_storage.sync.replica import Options, Replica

_CHECKPOINTS = SqlTemplate(
    "SELECT id, episode_id, step_number, label, created_at, document FROM checkpoints WHERE namespace = :namespace"
)
START = datetime(2026, 11, 29, tzinfo=timezone.utc)


@contextmanager
def small_pages() -> Iterator[None]:
    """Have requests of a few rows, so that a short history has many; by one thread, so that it can be repeated."""
    sizes = {
        "server": {"PAGE_ROWS": 3, "_HEADS": 2},
        "local": {"PUSH_ROWS": 4},
        "applying": {"_ROWS_AT_ONCE": 2},
        "writing": {"_MOST_ROWS": 2},
        "replica": {"_FETCHED_AT_ONCE": 1},
        "counts": {"_MOST_ACKNOWLEDGED": 2, "_MOST_OF_A_PATTERN": 0},
    }
    with ExitStack() as stack:
        for module, values in sizes.items():
            for name, value in values.items():
                stack.enter_context(patch(f"memory_storage.sync.{module}.{name}", value))
        stack.enter_context(patch("memory_storage.sync.ahead.Ahead.start"))
        yield


class Crash(Exception):  # noqa: N818 - no error, but an end
    """Ends a replica as a kill would."""


@dataclass
class Line:
    """The line to the server: it loses requests and answers, delays requests, and lets others in between.

    Attributes:
        faults: What happens to the next requests, in order: "request", "answer", "late" or "".
        late: Requests that have not arrived yet.
        between: Called before a request arrives.
    """

    server: ms.MemoryStorage
    faults: list[str] = field(default_factory=list)
    late: list[list[BatchStep]] = field(default_factory=list)
    between: Callable[[], None] | None = None
    requests: int = 0

    def exchange(self, steps: Sequence[BatchStep], *, reads_only: bool = False) -> list[Any]:
        """Run a request at the server, or not."""
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else ""
        if self.between is not None:
            between, self.between = self.between, None
            between()
        if fault == "request":
            raise UnavailableError("the request was lost", code="CONNECTION_FAILED")
        if fault == "late" and not reads_only:
            self.late.append(list(steps))
            raise UnavailableError("no answer in time", code="REQUEST_TIMEOUT")
        answer = self.server._context.executor.exchange(steps, reads_only=reads_only)
        if fault == "answer":
            raise UnavailableError("the response was lost", code="CONNECTION_LOST")
        return json.loads(json.dumps(answer, default=_blob), object_hook=_unblob)

    def deliver(self) -> None:
        """Let the requests arrive that are late. Their responses are lost."""
        late, self.late = self.late, []
        for steps in late:
            with suppress(ms.MemoryStorageError, Exception):
                self.server._context.executor.exchange(steps)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.server._context.executor, name)


def _blob(value: bytes) -> dict[str, str]:
    return {"blob": value.hex()}


def _unblob(value: dict[str, str]) -> Any:
    return bytes.fromhex(value["blob"]) if value.keys() == {"blob"} else value


class Client:
    """A replica that may crash at each of its transactions."""

    def __init__(self, world: World, number: int, path: Path) -> None:
        self.world, self.number, self.path = world, number, path
        self.offset = timedelta(days=365 * (number - 1))
        self.line = Line(world.server)
        self.crash_at: int | None = None
        self.open()

    def open(self) -> None:
        """Open the file, as after a crash, and as another process does."""
        self.storage, self.other_process = self._opened(), self._opened()
        policy = Policy("theirs", f"client-{self.number}", lambda: to_micros(self.storage._context.now()))
        self.replica = Replica(self.storage._context, self.line, policy, Options(), MaintenanceLock(None), lambda: None)
        local = self.replica._local = CrashingLocal(self.storage._context, self)
        self.crash_at = None
        local.become_replica()

    def _opened(self) -> ms.MemoryStorage:
        storage = ms.MemoryStorage.open(self.path, now=lambda: self.world.now + self.offset)
        storage._context.executor.opening = token_bytes(16)
        storage._use(storage._make_session())
        return storage

    def close(self) -> None:
        """Close the file."""
        self.other_process.close()
        self.storage.close()

    def reopen(self) -> None:
        """Close the file, and open it."""
        self.close()
        self.open()

    def copy(self, number: int) -> Client:
        """Return a client with a copy of the file, as of a machine that was cloned."""
        path = self.path.with_name(f"client{number}.db")
        self.close()
        shutil.copyfile(self.path, path)
        self.open()
        return Client(self.world, number, path)

    def sync(self) -> bool:
        """Sync; return whether that succeeded. A crash reopens the file."""
        try:
            self.replica.sync()
        except UnavailableError:
            return False
        except Crash:
            self.reopen()
            return False
        return True


class CrashingLocal(Local):
    """The file of a replica, which crashes before or after a commit."""

    def __init__(self, context: Any, client: Client) -> None:
        super().__init__(context)
        self._client = client

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Run the block as a transaction, or crash."""
        crash, client = self._client.crash_at, self._client
        if crash is not None:
            client.crash_at = crash - 1 if crash > 1 else None
        with super().transaction() as tx:
            yield tx
            if crash == 0:
                client.crash_at = None
                raise Crash
        if crash == 1:
            raise Crash


@dataclass
class Model:
    """What was acknowledged, and what must hold."""

    episodes: set[UUID] = field(default_factory=set)
    deleted: set[UUID] = field(default_factory=set)
    erased: set[UUID] = field(default_factory=set)
    steps: dict[UUID, UUID] = field(default_factory=dict)
    deleted_steps: set[UUID] = field(default_factory=set)
    patterns: set[UUID] = field(default_factory=set)
    deleted_patterns: set[UUID] = field(default_factory=set)
    retrieved: Counter[UUID] = field(default_factory=Counter)
    applied: Counter[UUID] = field(default_factory=Counter)
    parents: dict[str, str] = field(default_factory=dict)
    edits: list[tuple[UUID, str]] = field(default_factory=list)
    tags: dict[UUID, set[str]] = field(default_factory=dict)
    relationships: set[tuple[UUID, str, UUID]] = field(default_factory=set)
    deleted_relationships: set[tuple[UUID, str, UUID]] = field(default_factory=set)
    checkpoints: dict[UUID, UUID] = field(default_factory=dict)


class World:
    """The clients, the server, and the model.

    Args:
        directory: Where the files are.
        clients: How many replicas.
    """

    def __init__(self, directory: Path, clients: int = 3) -> None:
        self.now = START
        self.server = ms.MemoryStorage.open(directory / "server.db")
        self.clients = [Client(self, number, directory / f"client{number}.db") for number in range(clients)]
        self.model = Model()
        self.n = 0

    def tick(self) -> int:
        """Let a second pass, and return a new number."""
        self.now += timedelta(seconds=1)
        self.n += 1
        return self.n

    def close(self) -> None:
        """Close everything."""
        for client in self.clients:
            client.close()
        self.server.close()

    # -- what clients do ------------------------------------------------------------------------------------------

    def save(self, client: Client, steps: int) -> None:
        """Save a new episode."""
        n = self.tick()
        episode = client.storage.episodes.save(
            ms.Episode(
                task_description=f"d0.{n}.",
                context=ms.TaskContext(domain=f"o0.{n}."),
                steps=[ms.Step(tool="t", action=f"{n}.{number}.") for number in range(steps)],
            )
        )
        self.model.episodes.add(episode.id)
        self.model.parents[f"d0.{n}."] = self.model.parents[f"o0.{n}."] = ""
        self.model.steps |= {step.id: episode.id for step in episode.steps}

    def _episode(self, client: Client, number: int) -> UUID | None:
        ids = [one.id for one in client.storage.episodes.query(archived=None, limit=1000).items]
        return sorted(ids)[number % len(ids)] if ids else None

    def _pattern(self, client: Client, number: int) -> UUID | None:
        ids = [one.id for one in client.storage.patterns.query(limit=1000).items]
        return sorted(ids)[number % len(ids)] if ids else None

    def append(self, client: Client, number: int) -> None:
        """Append a step."""
        if (episode := self._episode(client, number)) is not None:
            step = client.storage.episodes.append_step(episode, ms.Step(tool="a", action=f"{self.tick()}."))
            self.model.steps[step.id] = episode

    def edit(self, client: Client, number: int, name: str) -> None:
        """Change one field of an episode."""
        if (key := self._episode(client, number)) is None:
            return
        episode = client.storage.episodes.get(key, steps=False)
        value = f"{name}.{self.tick()}."
        if name == "d":
            self.model.parents[value] = episode.task_description
            changed = episode.model_copy(update={"task_description": value})
        else:
            self.model.parents[value] = episode.context.domain
            changed = episode.model_copy(update={"context": episode.context.model_copy(update={"domain": value})})
        client.storage.episodes.save(changed)
        self.model.edits.append((key, value))

    def tag(self, client: Client, number: int) -> None:
        """Add a tag and a key of metadata."""
        if (key := self._episode(client, number)) is None:
            return
        episode = client.storage.episodes.get(key, steps=False)
        name = f"tag{self.tick()}"
        if len(episode.tags) < 90:
            update = {"tags": [*episode.tags, name], "metadata": {**episode.metadata, name: 1}}
            client.storage.episodes.save(episode.model_copy(update=update))
            self.model.tags.setdefault(key, set()).add(name)

    def complete(self, client: Client, number: int) -> None:
        """Complete an episode."""
        if (key := self._episode(client, number)) is not None:
            client.storage.episodes.complete(key, ms.Success(verdict=f"v{self.tick()}."), reward=0.1 * (self.n % 7))

    def archive(self, client: Client, number: int) -> None:
        """Archive an episode, or restore it."""
        if (key := self._episode(client, number)) is not None:
            self.tick()
            (client.storage.episodes.archive if number % 3 else client.storage.episodes.restore)(key)

    def change_step(self, client: Client, number: int) -> None:
        """Change the first step of an episode."""
        if (key := self._episode(client, number)) is not None:
            episode = client.storage.episodes.get(key)
            if episode.steps:
                step = episode.steps[0].model_copy(update={"action": f"c{self.tick()}."})
                client.storage.episodes.save(episode.model_copy(update={"steps": [step]}))

    def delete_step(self, client: Client, number: int) -> None:
        """Delete the last step of an episode."""
        if (key := self._episode(client, number)) is not None:
            self.tick()
            for step in client.storage.steps.latest(key, 1):
                client.storage.steps.delete(step.id)
                self.model.deleted_steps.add(step.id)

    def delete(self, client: Client, number: int) -> None:
        """Delete an episode."""
        if (key := self._episode(client, number)) is not None:
            self.tick()
            client.storage.episodes.delete(key)
            self.model.deleted.add(key)

    def forget(self, client: Client, number: int) -> None:
        """Erase an episode."""
        if (key := self._episode(client, number)) is not None:
            self.tick()
            client.storage.forget(episode=key, scrub=False)
            self.model.erased.add(key)

    def learn(self, client: Client) -> None:
        """Save a new pattern."""
        n = self.tick()
        pattern = client.storage.patterns.save(ms.Heuristic(condition=f"c{n}.", action="a", description=f"p{n}."))
        self.model.patterns.add(pattern.id)

    def count(self, client: Client, number: int) -> None:
        """Count a retrieval and an application of a pattern."""
        if (key := self._pattern(client, number)) is not None:
            self.tick()
            storage = client.other_process if number % 3 == 0 else client.storage
            storage.patterns.record_retrieval(key)
            storage.patterns.record_application(key, success=bool(number % 2), reward_delta=0.5)
            self.model.retrieved[key] += 1
            self.model.applied[key] += 1

    def edit_pattern(self, client: Client, number: int) -> None:
        """Change the text of a pattern."""
        if (key := self._pattern(client, number)) is not None:
            pattern = client.storage.patterns.get(key)
            client.storage.patterns.save(pattern.model_copy(update={"description": f"q{self.tick()}."}))

    def delete_pattern(self, client: Client, number: int) -> None:
        """Delete a pattern."""
        if (key := self._pattern(client, number)) is not None:
            self.tick()
            client.storage.patterns.delete(key)
            self.model.deleted_patterns.add(key)

    def embed(self, client: Client, number: int) -> None:
        """Store a vector of an episode."""
        if (key := self._episode(client, number)) is not None:
            vector = [1.0, float(self.tick()), 2.0]
            client.storage.embeddings.put("episode", key, vector, model="m")

    def place(self, client: Client, number: int) -> None:
        """Store a place of an episode."""
        if (key := self._episode(client, number)) is not None:
            entry = ms.SpatiotemporalEntry(owner_type="episode", owner_id=key, place_name=f"l{self.tick()}.")
            client.storage.spatiotemporal.put(entry)

    def relate(self, client: Client, number: int) -> None:
        """Store a relationship between two episodes, or change its weight, unless it would close a cycle."""
        one, other = self._episode(client, number), self._episode(client, number // 7)
        if one is not None and other is not None and one != other:
            kind = ("blocks", "blocks", "related_to")[number % 3]
            with suppress(ms.ValidationError):
                client.storage.relationships.add(one, other, kind, weight=self.tick() / 7)
                self.model.relationships.add((one, kind, other))

    def unrelate(self, client: Client, number: int) -> None:
        """Delete a relationship."""
        stored = sorted(client.storage.relationships.iterate(), key=lambda one: one.id)
        if stored:
            self.tick()
            one = stored[number % len(stored)]
            client.storage.relationships.delete(one.id)
            self.model.deleted_relationships.add(_ends(one))

    def checkpoint(self, client: Client, number: int) -> None:
        """Store a checkpoint of an episode."""
        if (key := self._episode(client, number)) is not None:
            checkpoint, text = uuid7(), f"k{self.tick()}."
            sql = """INSERT INTO checkpoints (namespace, id, episode_id, step_number, label, created_at, document)
                VALUES ('default', ?, ?, 0, ?, ?, ?)"""
            values = [str(checkpoint), str(key), text, self.n, json.dumps({"state": text})]
            with client.storage.transaction() as tx:
                tx.execute([(sql, values)])
            self.model.checkpoints[checkpoint] = key

    def copy(self, client: Client) -> None:
        """Copy the file of a client: from here on both are there."""
        if len(self.clients) < 5:
            self.clients.append(client.copy(len(self.clients)))

    # -- what must hold -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let late requests arrive, and sync each client twice without faults."""
        for client in self.clients:
            client.line.faults.clear()
            client.line.between = None
            client.crash_at = None
        for client in self.clients:
            client.line.deliver()
        for _ in range(2):
            for client in self.clients:
                assert client.sync()

    def check(self) -> None:
        """Check that all are equal to each other and to the model."""
        self.settle()
        server = contents(self.server)
        for client in self.clients:
            assert client.replica.status().waiting == 0, (client.number, client.replica.status())
            mine = contents(client.storage)
            for name, rows in server.items():
                assert mine[name] == rows, (client.number, name, _difference(mine[name], rows))
            assert not client.storage._context.executor.read(BatchStep("PRAGMA foreign_key_check"))
        episodes = {one.id: one for one in server["episodes"].values()}
        self._check_episodes(episodes)
        self._check_patterns(server["patterns"])
        self._check_relationships(server["relationships"], episodes.keys())
        self._check_checkpoints(server["checkpoints"], episodes.keys())
        self._check_edits(episodes)
        for storage in (self.server, *(client.storage for client in self.clients)):
            everything = dump(storage)
            for erased in self.model.erased:
                assert str(erased) not in everything, "what was erased is somewhere"

    def _check_episodes(self, episodes: dict[UUID, ms.Episode]) -> None:
        model = self.model
        gone = model.deleted | model.erased
        assert episodes.keys() >= model.episodes - gone, "an episode was lost"
        assert not episodes.keys() & gone, "what was deleted came back"
        for episode in episodes.values():
            numbers = [step.step_number for step in episode.steps]
            assert len(set(numbers)) == len(numbers)
        stored = {step.id for episode in episodes.values() for step in episode.steps}
        expected = {step for step, episode in model.steps.items() if episode in episodes}
        assert stored == expected - model.deleted_steps, "a step was lost, or came back"
        for key in episodes.keys() & model.tags.keys():
            assert model.tags[key] <= set(episodes[key].tags), "a tag was lost"
            assert model.tags[key] <= episodes[key].metadata.keys(), "a key was lost"

    def _check_patterns(self, patterns: dict[UUID, Any]) -> None:
        model = self.model
        assert patterns.keys() == model.patterns - model.deleted_patterns
        for key, pattern in patterns.items():
            counted = pattern.effectiveness
            assert counted.times_retrieved == model.retrieved[key], (key, counted, model.retrieved[key])
            assert counted.times_applied == model.applied[key]
            assert counted.success_when_applied + counted.failure_when_applied == model.applied[key]

    def _check_relationships(self, relationships: dict[UUID, ms.Relationship], episodes: Collection[UUID]) -> None:
        """One that was acknowledged is stored, or kept as a conflict: two replicas may close a cycle together."""
        graph = nx.DiGraph([(one.from_id, one.to_id) for one in relationships.values() if one.kind == "blocks"])
        assert nx.is_directed_acyclic_graph(graph)
        stored = {_ends(one) for one in relationships.values()}
        assert len(stored) == len(relationships)
        for client in self.clients:
            kept = [one.mine for one in client.storage.conflicts.iterate() if one.kind == "relationship"]
            stored |= {_ends(ms.Relationship.model_validate(mine)) for mine in kept}
        expected = self.model.relationships - self.model.deleted_relationships
        missing = [one for one in expected - stored if one[0] in episodes and one[2] in episodes]
        assert not missing, "a relationship was lost in silence"

    def _check_checkpoints(self, checkpoints: dict[UUID, Any], episodes: Collection[UUID]) -> None:
        kept = {one.object_id for client in self.clients for one in client.storage.conflicts.iterate()}
        expected = {key for key, episode in self.model.checkpoints.items() if episode in episodes}
        assert expected <= checkpoints.keys() | kept, "a checkpoint was lost in silence"

    def _check_edits(self, episodes: dict[UUID, ms.Episode]) -> None:
        """An edit is in the end's field, or under a later edit of a client that had seen it, or kept as a conflict."""
        seen = {key: self._with_parents(_texts(one.model_dump(mode="json"))) for key, one in episodes.items()}
        for client in self.clients:
            for conflict in client.storage.conflicts.iterate():
                if conflict.kind == "episode" and conflict.object_id in seen:
                    for side in (conflict.mine, conflict.theirs):
                        seen[conflict.object_id] |= self._with_parents(_texts(side))
        for key, value in self.model.edits:
            if key in episodes:
                assert value in seen[key], ("an edit was lost in silence", value, seen[key])

    def _with_parents(self, values: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for value in values:
            one = value
            while one and one not in found:
                found.add(one)
                one = self.model.parents[one]
        return found


def _texts(episode: dict[str, Any] | None) -> list[str]:
    return [episode["task_description"], episode["context"]["domain"]] if episode else []


def _ends(one: ms.Relationship) -> tuple[UUID, str, UUID]:
    return one.from_id, one.kind, one.to_id


def contents(storage: ms.MemoryStorage) -> dict[str, dict[Any, Any]]:
    """Return everything that a storage has, by kind and id."""
    of = {"namespace": storage.namespace}
    return {
        "episodes": {one.id: one for one in storage.episodes.iterate(archived=None)},
        "patterns": {one.id: one for one in storage.patterns.iterate()},
        "embeddings": {(one.owner_id, one.model): one for one in storage.embeddings.iterate()},
        "places": {one.id: one for one in storage.spatiotemporal.iterate()},
        "relationships": {one.id: one for one in storage.relationships.iterate()},
        "checkpoints": {UUID(row[0]): row for row in storage._context.executor.read(_CHECKPOINTS.bind(**of))},
    }


def dump(storage: ms.MemoryStorage) -> str:
    """Return the text of all rows of all tables."""
    read = storage._context.executor.read
    tables = read(BatchStep("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"))
    return "\n".join(repr(read(BatchStep(f'SELECT * FROM "{name}"'))) for (name,) in tables)


def _difference(mine: dict[Any, Any], theirs: dict[Any, Any]) -> Any:
    for key in mine.keys() | theirs.keys():
        if mine.get(key) != theirs.get(key):
            return mine.get(key), theirs.get(key)
    return None
