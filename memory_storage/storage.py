"""`MemoryStorage`, the facade: opens, migrates and closes a database, and gives access to the repositories."""

from __future__ import annotations

import inspect
import logging
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial, wraps
from random import Random
from secrets import token_bytes
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import Engine, event
from typing_extensions import Self, Unpack

from . import dbapi, health, migrate, models, pool
from ._exception_mapping import map_exceptions
from ._execution import Executor
from ._files import MaintenanceLock
from .background_embedding import EmbeddingQueue
from .dbapi import redacted
from .embedders import Embedder, embedder_named
from .engine import guard_engine, make_directory, make_engine
from .erasure import Eraser
from .errors import CommitUnknownError, ConfigurationError, UnavailableError, ValidationError
from .monitoring import Meter
from .recording import Run, StepBuffer
from .recording.decorator import CallRecorder
from .recording.step_buffer import flush_buffers
from .repositories import ItemRepository, LogRepository
from .repositories.retention.erasure import erase_items_and_logs
from .resilience import CircuitBreaker, Guard, is_retryable_read, was_not_committed
from .schema.vector_tables import FILLED_DISKANN
from .search.hnsw.index import HnswIndexes, is_installed
from .search.vector_index import Progress, VectorIndex
from .session import Repositories, Session, StorageContext, Transaction
from .settings import MEMORY, Settings, hidden, hidden_token
from .sql.statement import to_micros
from .sql.validation import as_id, aware, flag, function, to_list
from .sql.validation import embedder as as_embedder

if TYPE_CHECKING:  # sync is imported when a storage has a server
    from .sync.background import Background
    from .sync.conflicts import ConflictRepository
    from .sync.replica import Replica

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)
_NAMESPACE_LENGTH = 200
_IS_SYNCING = "another process syncs it; nothing was changed; try again later"
_OPEN = 'MemoryStorage.open("memory.db"), or MemoryStorage.open("libsql://...", auth_token=...)'


def _explain_misuse(advice: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a method to raise ConfigurationError with advice if the arguments do not fit its signature.

    Args:
        advice: What to write instead.
    """

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(method)

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> T:
            problem = _signature_problem(signature, *args, **kwargs)
            # Replaced before anything can fail: a traceback may show this frame, and a token may be among them.
            args = tuple(redacted(value) for value in args)
            kwargs = hidden(kwargs)
            if problem:
                args, kwargs = (), {}
                raise ConfigurationError(f"{problem}: {advice}")
            return method(*args, **kwargs)

        return cast("Callable[P, T]", call)

    return decorate


def _signature_problem(signature: inspect.Signature, *args: object, **kwargs: object) -> str:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""


class MemoryStorage(Repositories):
    """An agent's memory in one namespace of one database. Thread-safe."""

    @_explain_misuse(f"it takes an engine and its settings; most callers write {_OPEN}")
    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        embedder: Embedder | str | None = None,
        now: Callable[[], datetime] = models.utc_now,
    ) -> None:
        """Use an existing engine. Most callers want `open`.

        Args:
            engine: An engine of this package's dialect, whose database has the schema. The caller disposes of it.
            settings: Its settings; `database` must be the engine's.
            embedder: As in `open`; by default that of the settings.
            now: Returns the current time, aware; the clock of all timestamps.
        """
        _check_construction(engine, settings, now)
        _check_engine(engine)
        self.engine = engine
        self.settings = settings
        self.namespace = _check_namespace(settings.namespace)
        self._owns_engine = False
        self.vector_index = candidate_source(settings)
        """Where searches get their candidates: "hnsw", "diskann" or "exact"."""
        self._context = self._make_context(now, embedder)
        self._owns_memory = True
        self._server: MemoryStorage | None = None
        self._replica: Replica | None = None
        self._background: Background | None = None
        self._actor = ""
        super().__init__(Session(self._context, self.namespace))

    @classmethod
    @_explain_misuse(f"write {_OPEN}; other settings: MemoryStorage.open(Settings(database=..., ...))")
    def open(
        cls,
        database: str | os.PathLike[str] | Settings | None = None,
        *,
        auth_token: str | SecretStr | Callable[[], str | SecretStr] | None = None,
        namespace: str | None = None,
        embedder: Embedder | str | None = None,
        embed: models.EmbeddingMode | None = None,
        sync_url: str | None = None,
        sync_interval: float | None = None,
        sync_mode: models.SyncMode | None = None,
        now: Callable[[], datetime] = models.utc_now,
    ) -> Self:
        """Open a database, create it if it does not exist, and upgrade its schema.

        Args:
            database: A path, ":memory:", a URL, or all settings; by default the environment's.
            auth_token: The token of a server, or a callable that returns one.
            namespace: The tenant, agent or project whose rows are read and written; default: "default".
            embedder: Computes the vectors of the episodes and patterns that are saved, and of texts that are searched:
                an Embedder, or a name like "hashing" or "openai:text-embedding-3-small" (see `embedder_named`).
            embed: When they are embedded: "in_background" (default), "on_save", or "manually".
            sync_url: The URL of a server with which a file is kept in sync: see `sync`. It is not contacted yet.
            sync_interval: Seconds between two syncs, which a thread runs; None: the caller calls `sync`.
            sync_mode: "local_first" (default) or "write_through".
            now: Returns the current time, aware; the clock of all timestamps.

        Returns:
            The storage; close it, or use it in a `with` block.

        Raises:
            ConfigurationError: The path or a setting cannot work; a CredentialError if it is the key of the file.
            SchemaError: The schema is newer than this package, or another program's. Nothing is changed.
            UnavailableError: The server cannot be reached, after the retries of the settings. `code` is
                "CONNECTION_FAILED"; `host`, `port`, `cause` and `attempts` have the details.
        """
        auth_token, database = hidden_token(auth_token), redacted(database)  # a traceback may show this frame
        sync = {"embed": embed, "sync_url": sync_url, "sync_interval": sync_interval, "sync_mode": sync_mode}
        settings = _settings(database, auth_token, namespace, **sync)
        if not callable(now):
            raise ConfigurationError(f"now: must be a function that returns an aware moment, not {now!r}")
        _check_hnsw(settings)  # before there is a file, as is the next one
        _check_namespace(settings.namespace)
        make_directory(settings)
        with map_exceptions():
            engine = make_engine(settings)
        try:
            storage = cls(engine, settings, embedder=embedder, now=now)
            storage._ensure_schema()
            guard_engine(engine, storage._context.guard)
        except BaseException:
            engine.dispose()
            raise
        storage._owns_engine = True
        if settings.path is not None:
            storage._repair_indexes()
        with map_exceptions(engine):
            pool.fill(engine, settings.pool.min_idle)
        storage._start_sync()
        if storage._queue is not None:
            storage._queue.search(storage.namespace)
        return storage

    def _start_sync(self) -> None:
        settings = self.settings.of_server
        if settings is None:
            return
        from .sync.applying import Policy
        from .sync.replica import Options, Replica

        with map_exceptions():
            engine = make_engine(settings)
        server = type(self)(engine, settings, now=self._context.now)
        server._owns_engine = True
        # A transaction that is written through is the server's: it may complete an episode with a recall from here, and
        # what it has saved is embedded from here.
        server._context = replace(server._context, recalls=self._context.recalls, embedding_queue=self._queue)
        guard_engine(engine, server._context.guard)
        chosen = self.settings.sync_conflicts
        policy = Policy(
            prefer="mine" if chosen == "local_wins" else "theirs",
            decide=chosen if callable(chosen) else None,
            writer=self.settings.sync_writer or socket.gethostname(),
            now=lambda: to_micros(self._context.now()),
        )
        options = Options(self.settings.sync_namespaces, self.settings.sync_keep, self.settings.request_timeout)
        lock = MaintenanceLock(self.settings.path, suffix="-sync", busy=_IS_SYNCING)
        self._server = server
        self._context.executor.opening = token_bytes(16)
        self._replica = Replica(self._context, server._context.executor, policy, options, lock, server._ensure_schema)
        self._replica.prepare()
        self._use(self._make_session())
        if self.settings.sync_interval is not None:
            from .sync.background import Background

            self._background = Background(self.sync, self.settings.sync_interval)

    def _ensure_schema(self) -> None:
        """Upgrade the schema, with the retries of a call while the server cannot be reached."""
        guard, call, since = self._context.guard, self.meter.begin("open"), perf_counter()

        def ensure() -> None:
            with map_exceptions(self.engine):
                settings = self.settings
                migrate.ensure(self.engine, settings.path, settings.key, local_engine=settings.required_engine)

        def once() -> None:
            with guard.attempt():
                try:
                    ensure()
                except CommitUnknownError:
                    ensure()  # the revisions are one transaction: the schema says whether it was committed

        def count() -> None:
            call.retries += 1

        try:
            once()
        except UnavailableError as error:
            patience = self.settings.request_timeout
            guard.retry(error, once, since=since, seconds=patience, is_retryable=is_retryable_read, on_retry=count)
            self.meter.end("open", call, perf_counter() - since)

    def _make_context(self, now: Callable[[], datetime], embedder: Embedder | str | None) -> StorageContext:
        settings = self.settings
        now = partial(aware, now)
        self._queue = self._make_queue(embedder or settings.embedder, now)
        breaker = CircuitBreaker(settings.circuit_breaker, now=now)
        guard = Guard(breaker, settings.retry, max_wait=settings.request_timeout)
        executor = Executor(self.engine, guard, Meter(settings.logging), settings.request_timeout)
        index_path = settings.path if settings.encryption_key is None else None  # a file of vectors is not encrypted
        maintenance = MaintenanceLock(settings.path)
        return StorageContext(
            executor=executor,
            limits=settings.limits,
            now=now,
            vector_index=self.vector_index,
            memory=HnswIndexes(executor.read, index_path, settings.hnsw_max_bytes, maintenance),
            maintenance=maintenance,
            embedding_queue=self._queue,
        )

    def _make_queue(self, chosen: Embedder | str | None, now: Callable[[], datetime]) -> EmbeddingQueue | None:
        """Return what embeds the texts that are saved; None without an embedder."""
        if chosen is None:
            return None
        known = embedder_named(chosen) if isinstance(chosen, str) else as_embedder("embedder", chosen)
        mode, delay = self.settings.embed, self.settings.embed_delay
        return EmbeddingQueue(known, mode, lambda name: self.in_namespace(name).embeddings, delay=delay, now=now)

    def _repair_indexes(self) -> None:
        """Create missing DiskANN indexes if searches use them; else drop those that earlier versions created empty."""
        index = VectorIndex(self._session)
        try:
            if self.vector_index == "diskann":
                for model in index.repair_missing():
                    _log.warning("the vector index of %r is missing: searches are slow until it is rebuilt", model)
            elif dropped := index.drop_unused():
                _log.info("dropped %s: empty DiskANN indexes, which searches do not use", ", ".join(dropped))
        except UnavailableError as error:  # read-only, locked or full: searches are right in any case
            _log.warning("the DiskANN indexes of the file cannot be changed: %s", error)

    def in_namespace(self, namespace: str) -> Self:
        """Return a view of another namespace of the same database. Closing the view does not close the storage."""
        return self._view(_check_namespace(namespace), self._actor)

    def acting_as(self, actor: str) -> Self:
        """Return a view of this storage whose writes are attributed to `actor` in the audit log.

        Closing the view does not close the storage.
        """
        if not isinstance(actor, str):
            raise ValidationError("actor", "must be a string", actor)
        return self._view(self.namespace, actor)

    def _view(self, namespace: str, actor: str) -> Self:
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        view.settings = self.settings.model_copy(update={"namespace": namespace})
        view.namespace, view._actor, view._owns_engine = namespace, actor, False
        view._owns_memory = False
        view._use(view._make_session())
        return view

    def _make_session(self) -> Session:
        """Return the session of this view's repositories: it writes at the server first, if the mode says so."""
        if (through := self._through()) is None:
            return Session(self._context, self.namespace, self._actor)
        from .sync.write_through import WriteThroughSession

        server, replica = through
        return WriteThroughSession(self._context, Session(server._context, self.namespace, self._actor), replica)

    def _through(self) -> tuple[MemoryStorage, Replica] | None:
        """Return the server that is written to first, and what pulls from it; None if the file is written to."""
        if self._server is None or self._replica is None or self.settings.sync_mode != "write_through":
            return None
        return self._server, self._replica

    def _use(self, session: Session) -> None:
        """Use a session, and for it the repositories that ask the server."""
        super()._use(session)
        if self._replica is not None and self.settings.sync_keep is not None:
            from .sync.partial import PartialEpisodes

            vars(self)["episodes"] = PartialEpisodes(session, self._replica.fetch)
        if through := self._through():
            from .sync.write_through import WriteThroughEmbeddings

            server, replica = through
            local = Session(self._context, self.namespace, self._actor)
            # They are not pulled: what were written at the server could not be read here.
            vars(self)["items"], vars(self)["logs"] = ItemRepository(local), LogRepository(local)
            embeddings = server.in_namespace(self.namespace).acting_as(self._actor).embeddings
            vars(self)["embeddings"] = WriteThroughEmbeddings(local, embeddings, replica)

    def transaction(self) -> Transaction:
        """Return a transaction: `with storage.transaction() as tx: tx.episodes.save(...)`.

        A clean exit of the block commits; an exception rolls all of it back.
        """
        if through := self._through():
            from .sync.write_through import WriteThroughTransaction

            server, replica = through
            return WriteThroughTransaction(server._context, self.namespace, self._actor, replica)
        return Transaction(self._context, self.namespace, self._actor)

    def snapshot(self) -> Transaction:
        """Return a read-only transaction: `with storage.snapshot() as view: view.episodes.iterate()`.

        It sees the state of the database at its first read; concurrent writes of other clients are not visible. On a
        server it is kept alive until the block ends, also while the caller is idle.
        """
        return Transaction(self._context, self.namespace, self._actor, read_only=True)

    def run(self, work: Callable[[Transaction], T]) -> T:
        """Run `work(tx)` in a transaction, retrying all of it when a lock or connection failure rolled it back.

        The settings under `retry` limit the attempts. `work` is not retried when the transaction may have been
        committed (CommitUnknownError), nor while the circuit breaker is open (CircuitOpenError).

        Args:
            work: Takes the transaction; may be called several times.

        Returns:
            What `work` returns.
        """
        if not callable(work):
            raise ValidationError("work", "must be a function that takes the transaction: run(lambda tx: ...)", work)

        def once() -> T:
            with self.transaction() as tx:
                return work(tx)

        again = partial(self._context.meter.record_retry, "transaction")
        return self._context.guard.run(once, is_retryable=was_not_committed, on_retry=again)

    def recall(
        self,
        task: str,
        *,
        k: int = 5,
        budget_tokens: int = 2_000,
        count_tokens: Callable[[str], int] | None = None,
        weights: models.RecallWeights | None = None,
        diversity: float = 0.3,
        failures: int | None = None,
        patterns: int | None = None,
        explore: int | Random | None = None,
        keep: bool = False,
        **filters: Unpack[models.RecallFilters],
    ) -> models.Recall:
        """Return what to know before a task: similar successes with their steps, failures to avoid, and patterns.

        Episodes and patterns are searched by the words of the task and, if the storage has an embedder, by its vector.
        An empty memory gives an empty recall. Two round trips on a server.

        Args:
            task: What is to be done; its first 2,000 characters are searched by words.
            k: The greatest number of successes, from 1 to 1,000.
            budget_tokens: The greatest number of tokens of `str(recall)`. Outputs are shortened first, then steps are
                left out, then records.
            count_tokens: Counts the tokens of a text, like `lambda text: len(encoding.encode(text))`; by default an
                estimate that is rather too high.
            weights: The weights of similarity, reward, recency and effectiveness.
            diversity: From 0, the best records, to 1, the least similar to each other.
            failures: The greatest number of failures; default: half of `k`.
            patterns: The greatest number of patterns; default: half of `k`.
            explore: Draw the effectiveness of each record from what is known of it instead of taking the mean, so that
                records of which little is known are tried too (Thompson sampling): a seed, or a `random.Random`. The
                same seed and the same memory give the same recall. None: off.
            keep: Store which records it showed, so that another process can complete an episode with its ID: the newest
                10,000 of a namespace. One round trip more.
            **filters: The filters of `episodes.query`, without `outcome`, `completed` and `text`. Patterns have to be
                of the same domain, language and framework, or of none.

        Returns:
            The recall: `str(recall)` is Markdown, "" if there is nothing. Pass it to `episodes.complete` as `recalled`.

        Raises:
            ValidationError: An argument or a filter is invalid, or the embedder's vectors have another dimension than
                the stored ones.
        """
        from .recall import RecallRequest, estimate_tokens, recall

        request = RecallRequest(
            task,
            k,
            budget_tokens,
            estimate_tokens if count_tokens is None else count_tokens,
            models.RecallWeights() if weights is None else weights,
            diversity,
            failures,
            patterns,
            explore,
            keep,
            filters,
        )
        return recall(self._session, request)

    def record(
        self,
        task: str,
        *,
        task_type: models.TaskType | str = models.TaskType.OTHER,
        context: models.TaskContext | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        recalled: models.Recall | UUID | str | None = None,
        redact: Callable[[str], str] | None = None,
        buffered: bool = False,
    ) -> Run:
        """Return a run, which is an episode while its block runs: `with storage.record("task") as run: run.step(...)`.

        The episode is saved when the block is entered. It is completed by `run.complete(...)`, or when the block ends:
        as Success; after an exception as Failure, with the exception as its reason and the traceback as its details;
        after an interruption (KeyboardInterrupt, SystemExit, a cancelled task) as Abstained. Within another run it is
        an episode of its own, and `metadata["parent_episode"]` is the id of the outer one.

        Args:
            task: The description of the task.
            task_type: The kind of work.
            context: The surroundings.
            tags: Tags of the episode.
            metadata: Further data, a JSON object.
            recalled: What was recalled for the task, or its id: see `recall`.
            redact: Returns what is stored instead of a text: of parameters, outputs, errors, tracebacks and verdicts.
            buffered: Whether steps are stored later, many in one round trip: see `buffered_steps`. They have no number
                then when they are returned, and are stored before the outcome.

        Returns:
            The run. It saves nothing before it is entered.

        Raises:
            ValidationError: A field is invalid.
        """
        if redact is not None:
            function("redact", redact, "lambda text: text.replace(secret, '***')")
        episode = models.Episode(
            task_description=task,
            task_type=task_type,
            context=models.TaskContext() if context is None else context,
            tags=to_list(tags, "tags"),
            metadata=metadata or {},
            started_at=self._session.now(),
        )
        buffer = StepBuffer(self.episodes, episode.id) if flag("buffered", buffered) else None
        return Run(self.episodes, self._session, episode, redact, recalled, buffer)

    def buffered_steps(
        self,
        episode_id: UUID | str,
        *,
        max_steps: int = 1_000,
        max_bytes: int = 4_000_000,
        max_seconds: float | None = 1.0,
    ) -> StepBuffer:
        """Return a buffer of steps: `with storage.buffered_steps(id) as buffer: buffer.add(step)`. No round trip.

        A thread stores the steps, many in one round trip. `buffer.flush()` returns once all that were added are stored.

        Args:
            episode_id: The ID of the episode. Whether it exists is known when the first steps are stored.
            max_steps: How many steps may wait before they are stored.
            max_bytes: How many bytes of steps may wait before they are stored.
            max_seconds: How long a step waits at most, in seconds; None: no thread stores them, and `add` does when the
                buffer is full.

        Returns:
            The buffer. Close it, or use it in a `with` block.

        Raises:
            ValidationError: An argument is invalid.
        """
        key = UUID(as_id(episode_id, "episode_id"))
        return StepBuffer(self.episodes, key, max_steps=max_steps, max_bytes=max_bytes, max_seconds=max_seconds)

    @overload
    def recorded(self, work: Callable[P, T], /) -> Callable[P, T]: ...
    @overload
    def recorded(
        self,
        *,
        task: str | None = None,
        tool: str | None = None,
        task_type: models.TaskType | str = models.TaskType.OTHER,
        tags: Sequence[str] = (),
        parameters: bool | Collection[str] = True,
        output: bool = True,
        redact: Callable[[str], str] | None = None,
    ) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
    def recorded(
        self,
        work: Callable[..., Any] | None = None,
        *,
        task: str | None = None,
        tool: str | None = None,
        task_type: models.TaskType | str = models.TaskType.OTHER,
        tags: Sequence[str] = (),
        parameters: bool | Collection[str] = True,
        output: bool = True,
        redact: Callable[[str], str] | None = None,
    ) -> Any:
        """Decorate a function or a coroutine function to record its calls: `@storage.recorded`, or with options.

        Within a run (see `record`) a call is a step of it, with its arguments as parameters and what it returns as
        output. Outside of one it is an episode: Success with what it returns as verdict, or Failure. An exception is
        raised further. If the storage fails, that is logged, and the function is called and returns as without the
        decorator. A coroutine function is recorded from a thread, so that its event loop is not blocked.

        Args:
            work: The function, if the decorator has no options.
            task: The task of an episode; by default the first line of the docstring, else the name.
            tool: The tool of a step; by default the name of the function.
            task_type: The kind of work of an episode.
            tags: Tags of an episode.
            parameters: Whether arguments are stored, or the names of those that are.
            output: Whether the returned value is stored.
            redact: Returns what is stored instead of a text.

        Returns:
            The decorated function, or the decorator.

        Raises:
            ValidationError: It is a generator function or a class, or an option is invalid.
        """

        def start(description: str, redact: Callable[[str], str] | None) -> Run:
            return self.record(description, task_type=task_type, tags=tags, redact=redact)

        start(task or "a task", redact)  # raises now what is wrong with an option
        recorder = CallRecorder(start, task, tool, parameters, flag("output", output), redact)
        return recorder if work is None else recorder(work)

    def sync(
        self,
        *,
        wait: float | None = None,
        migrate: bool = False,
        rejoin: bool = False,
        progress: Progress | None = None,
    ) -> models.SyncReport:
        """Push what is new in this file to the server of `sync_url`, and pull what is new there, in all namespaces.

        What was changed on both sides is merged: steps, tags, metadata and different fields of one row all stay, and
        counters of patterns add up. Where both sides changed the same field, the server's value stands, and the local
        one is kept in `conflicts`. An interrupted sync is resumed by the next one; nothing is applied twice. Reads and
        writes of other threads and processes are allowed during a sync. Afterwards the file has all that others had
        pushed when it began.

        Args:
            wait: For a read that needs the newest: seconds during which a sync is repeated while the server is away or
                another thread or process syncs the file. By default it is not repeated, and waits for another sync
                for `request_timeout`.
            migrate: Upgrade the schema of the server first, if it is older; programs of older versions cannot use it
                afterwards. An empty server needs it once.
            rejoin: Merge with a server that is not the one that this file was synchronized with, or was restored from
                an older copy: everything is compared, and pushed where it is missing.
            progress: Called with "pushed" or "pulled", the number of changes so far, and the total or 0.

        Returns:
            What was done.

        Raises:
            ConfigurationError: The storage was opened without `sync_url`, or the server is a replica itself.
            SchemaError: The schema of the server is another one. Nothing was changed.
            ServerChangedError: The server is not the one that this file was synchronized with.
            UnavailableError: The server cannot be reached, or another process syncs the file. What was changed here
                stays in the file, and is pushed by a later sync.
        """
        replica = self._replica_or_error()
        report = replica.sync(wait=wait, migrate=migrate, rejoin=rejoin, progress=progress)
        if self._queue is not None and report.pulled:
            self._queue.search(self.namespace)
        return report

    def sync_status(self) -> models.SyncStatus | None:
        """Return how many changes wait to be pushed, how many conflicts there are, and when the latest sync ended.

        None if the storage was opened without `sync_url`.
        """
        return None if self._replica is None else self._replica.status()

    def _replica_or_error(self) -> Replica:
        if self._replica is None:
            raise ConfigurationError(
                "sync_url: this storage has none; open it with MemoryStorage.open(path, sync_url=...)"
            )
        return self._replica

    @property
    def conflicts(self) -> ConflictRepository:
        """What was changed here and at the server and could not be merged: list it, and take one side."""
        from .sync.conflicts import ConflictRepository

        return ConflictRepository(self._session)

    @property
    def circuit_breaker(self) -> CircuitBreaker:
        """The circuit breaker of this database, shared by all namespaces: state, `reset` and listeners."""
        return self._context.guard.breaker

    @property
    def meter(self) -> Meter:
        """Operation metrics of all namespaces, as exported by `memory_storage.monitoring`."""
        return self._context.meter

    def circuit_breaker_status(self) -> models.CircuitBreakerStatus:
        """Return the state of the circuit breaker."""
        return self.circuit_breaker.status()

    def pool_stats(self) -> models.PoolStats:
        """Return how many connections are in use and idle, and how long callers have waited for one."""
        return pool.stats(self.engine)

    def metrics(self) -> dict[str, models.OperationMetrics]:
        """Return the metrics of each operation, like "episodes.save", since the storage was opened."""
        return self._context.meter.metrics()

    def health_check(self, *, deep: bool = False, timeout: float = 5.0) -> models.Health:
        """Check that the database responds, has the right schema, and has free disk space.

        An unreachable database is reported as unhealthy; it is no error.

        Args:
            deep: Also count the namespace's rows and compare each index with its table, which reads all rows.
                Concurrent writes are allowed. In a file each full-text index is copied into memory for that; on a
                server its rows are compared with those of the table, and its words with each other.
            timeout: Seconds within which the database has to respond.

        Returns:
            The health: "healthy", "degraded" or "unhealthy", with each problem.

        Raises:
            ValidationError: An argument is invalid.
        """
        found = health.check(self._context, self.settings, self, deep=deep, timeout=timeout)
        if self._queue is not None:
            found = health.with_embedding(found, self._queue.status())
        if self._replica is None or found.status == "unhealthy":
            return found
        return replace(found, sync=self._replica.status())

    def embedding_status(self) -> models.EmbeddingStatus | None:
        """Return what has to be embedded, and how the embedder does; None if the storage was opened without one."""
        return None if self._queue is None else self._queue.status()

    @property
    def local_engine(self) -> str | None:
        """The engine with which the file is open: "sqlite" or "libsql"; None for a server, or once it is closed."""
        return pool.local_engine(self.engine)

    def interrupt(self) -> int:
        """Stop the calls that other threads run on this database now, in any namespace.

        Each raises UnavailableError (code SQLITE_INTERRUPT); nothing of it is stored, and a transaction that it belongs
        to is rolled back if it was writing. A call that waits for a lock is stopped too. libSQL's local engine hears of
        it between two statements, a server not at all: there `request_timeout` ends a call.

        Returns:
            How many calls are stopped. One that ends at this moment may still return its result.
        """
        return pool.interrupt(self.engine)

    def forget(
        self, *, episode: UUID | str | None = None, namespace: str | None = None, scrub: bool = True
    ) -> models.ErasureResult:
        """Erase an episode of this namespace, or a whole namespace, irreversibly. Idempotent.

        Steps, vectors, places, relationships and checkpoints are erased with it, from every table and index, as is what
        the doctor has quarantined of it; with a namespace its items and logs too. The episode is removed from the
        evidence of patterns; a pattern without other evidence is erased too, and so is a playbook that was composed
        from such a pattern. A digest of each id is kept as a tombstone, so that no stale copy is imported or saved
        again; not of items and records, whose keys may be used again. Backups and exports are not changed.

        Args:
            episode: The id of an episode of this namespace.
            namespace: The namespace to erase, this one or another; instead of `episode`.
            scrub: Also remove every byte of it from the file, its log and its sidecars: see `scrub`.

        Returns:
            What was erased; `scrubbed` and `why` say whether bytes may be left.

        Raises:
            UnavailableError: This thread has an open transaction, or concurrent writers keep writing there.
            ValidationError: Neither an episode nor a namespace is given, or both.
        """
        if (episode is None) == (namespace is None):
            raise ValidationError("episode", "must be given, or namespace, and not both", (episode, namespace))
        if namespace is not None:
            view = self.in_namespace(namespace)
            return view._erase_local(view._erase(lambda eraser: eraser.everything(scrub=scrub)))
        return self._erase(lambda eraser: eraser.episode(episode or "", scrub=scrub))

    def _erase(self, erase: Callable[[Eraser], models.ErasureResult]) -> models.ErasureResult:
        """Erase here; with write-through at the server first, from which the digests are pulled."""
        if through := self._through():
            server, replica = through
            replica.join()
            erased = erase(server.in_namespace(self.namespace)._eraser())
            replica.pull()
            return replace(erased, scrubbed=False, why=f"the file: call scrub(); the server: {erased.why}")
        return erase(self._eraser())

    def scrub(self) -> models.ScrubResult:
        """Remove what was deleted, in any namespace, from the free space of the file and from its log.

        The file is rewritten without free space (VACUUM): concurrent reads are allowed, writes wait, and the disk needs
        free space for two more copies. Vector indexes are rebuilt afterwards; searches are exact without them. On a
        server only its indexes can be scrubbed: see `ScrubResult.why`. One scrub of a file runs at a time, across
        processes. For an encrypted file the copy is in memory, and no temporary file is written.

        Raises:
            UnavailableError: The disk is full, another writer has held the lock for too long, or another scrub, restore
                or repair is running (code MAINTENANCE). Call it again.
            ConfigurationError: The directory of the file cannot be written to.
        """
        return self._eraser().scrub()

    def _erase_local(self, erased: models.ErasureResult) -> models.ErasureResult:
        """Erase what an erasure at the server does not reach: items and logs, which are only in the file."""
        if self._through() is None:
            return erased
        items, records = erase_items_and_logs(Session(self._context, self.namespace, self._actor))
        return replace(erased, items=erased.items + items, records=erased.records + records)

    def _eraser(self) -> Eraser:
        return Eraser(self._context.executor, self.settings, self._session, self._context.maintenance)

    def close(self) -> None:
        """Close the connections that `open` has opened, for all namespaces; later calls raise UnavailableError.

        Buffered steps are stored first. What is not embedded yet is embedded then, for at most 10 seconds. An in-memory
        database is lost.
        """
        if self._owns_memory:
            flush_buffers(self.meter)
        if self._owns_memory and self._queue is not None:
            self._queue.close(embeds=self._owns_engine and self.settings.database != MEMORY)
        if self._owns_memory and self._context.memory:
            self._context.memory.close()
        if self._owns_engine and self._background is not None:
            self._background.stop()
        if self._owns_engine and self._server is not None:
            self._server.close()
        if self._owns_engine:
            event.listen(self.engine, "do_connect", _refuse_to_connect)
            self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        engine = f", local_engine={self.local_engine!r}" if self.local_engine else ""
        return f"MemoryStorage({self.settings.database!r}, namespace={self.namespace!r}{engine})"


def _settings(
    database: str | os.PathLike[str] | Settings | None,
    auth_token: str | SecretStr | Callable[[], str | SecretStr] | None,
    namespace: str | None,
    **others: Any,
) -> Settings:
    given = {"auth_token": auth_token, "namespace": namespace, **others}
    chosen = {name: value for name, value in given.items() if value is not None}
    if isinstance(database, Settings):
        return Settings(**{**dict(database), **chosen}) if chosen else database
    if database is not None:
        chosen["database"] = _checked_path(database)
    return Settings.from_environment(**chosen)


def _checked_path(database: object) -> str:
    path = os.fspath(database) if isinstance(database, os.PathLike) else database
    if not isinstance(path, str):
        raise ConfigurationError(f"database: must be a path, a URL or Settings, not a {type(database).__name__}")
    return path


def _check_construction(engine: object, settings: object, now: object) -> None:
    if not isinstance(engine, Engine):
        raise ConfigurationError(f"engine: must be an engine, not a {type(engine).__name__}: write {_OPEN}")
    if not isinstance(settings, Settings):
        raise ConfigurationError(f"settings: must be Settings(database=...), not a {type(settings).__name__}")
    if not callable(now):
        raise ConfigurationError(f"now: must be a function that returns an aware moment, not a {type(now).__name__}")


def _check_engine(engine: Engine) -> None:
    """Raise ConfigurationError unless the storage can use a caller's engine."""
    from .dialect import LibSQLDialect  # loaded already if the engine is of it

    if not isinstance(engine.dialect, LibSQLDialect):
        url = "libsql://HOST" if engine.url.host else f"libsql:///{engine.url.database or ':memory:'}"
        raise ConfigurationError(
            f"engine: must be of this package's dialect, not {engine.url.drivername}://: write create_engine({url!r})"
        )
    levels = engine.get_execution_options().get("isolation_level"), engine.dialect._on_connect_isolation_level
    if "AUTOCOMMIT" in {str(level).upper() for level in levels}:
        raise ConfigurationError(
            "engine: its isolation level is AUTOCOMMIT, so that a transaction could not be rolled back: leave it out"
        )


def candidate_source(settings: Settings) -> str:
    """Return where searches get their candidates: "hnsw", "diskann" or "exact"."""
    _check_hnsw(settings)
    if settings.vector_index != "auto":
        return settings.vector_index
    if settings.server or (not is_installed() and _has_filled_diskann(settings)):
        return "diskann"
    return "hnsw" if is_installed() else "exact"


def _check_hnsw(settings: Settings) -> None:
    if settings.vector_index == "hnsw" and not is_installed():
        raise ConfigurationError("vector_index: hnsw needs usearch: pip install 'memory-storage[ann]', or use diskann")


def _has_filled_diskann(settings: Settings) -> bool:
    """Return whether a file has DiskANN indexes with vectors. Changes no byte of it; False for what cannot be read."""
    if settings.path is None or not settings.path.exists() or settings.local_engine == "sqlite":
        return False
    try:
        with closing(dbapi.connect(str(settings.path), encryption_key=settings.key, configure=False)) as connection:
            return bool(connection.execute(FILLED_DISKANN).fetchone())
    except dbapi.Error:  # no schema yet, or not a database of this package: opening it says so
        return False


def _check_namespace(namespace: str) -> str:
    if not isinstance(namespace, str) or not 1 <= len(namespace) <= _NAMESPACE_LENGTH:
        raise ValidationError("namespace", f"1 to {_NAMESPACE_LENGTH} characters", namespace)
    if "\0" in namespace or any("\ud800" <= character <= "\udfff" for character in namespace):
        raise ValidationError("namespace", "text without NUL and lone surrogates", namespace)
    return namespace


def _refuse_to_connect(*_: Any) -> None:
    raise UnavailableError("the storage is closed; open it again")
