"""Sessions and transactions: the namespace, limits and clock that repositories share, over one executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Protocol, TypeVar, overload
from uuid import UUID

from sqlalchemy import Engine
from typing_extensions import Self

from . import dbapi
from ._execution import Executor, TransactionExecutor
from ._files import MaintenanceLock
from .models import OwnerType
from .monitoring import AuditRecord, Meter, Operation, named_operation
from .repositories import (
    AnalyticsRepository,
    CheckpointRepository,
    EmbeddingRepository,
    EpisodeRepository,
    ItemRepository,
    LogRepository,
    PatternRepository,
    RelationshipRepository,
    RetentionRepository,
    SpatiotemporalRepository,
    StepRepository,
    SummaryRepository,
)
from .repositories.episodes.recalls import RecentRecalls
from .resilience import Guard
from .search.hnsw.index import HnswIndexes
from .search.session import EmbeddingQueueProtocol
from .search.vectors import KnownSpaces
from .settings import Limits
from .sql.session import Row

R = TypeVar("R")

_SERVER_VALUE_BYTES = 4_900_000  # sqld takes 5,000,000, which a row's other columns are part of


@dataclass(frozen=True)
class StorageContext:
    """What all sessions on one database share."""

    executor: Executor
    limits: Limits
    now: Callable[[], datetime]
    vector_index: str = "diskann"
    memory: HnswIndexes | None = None
    spaces: KnownSpaces = field(default_factory=KnownSpaces)
    maintenance: MaintenanceLock = field(default_factory=partial(MaintenanceLock, None))
    embedding_queue: EmbeddingQueueProtocol | None = None
    recalls: RecentRecalls = field(default_factory=RecentRecalls)

    @property
    def engine(self) -> Engine:
        """Whose pool the connections are taken from."""
        return self.executor.engine

    @property
    def guard(self) -> Guard:
        """The circuit breaker and the retries of this database."""
        return self.executor.guard

    @property
    def meter(self) -> Meter:
        """Measures the operations of all sessions."""
        return self.executor.meter


class _SessionExecutor(Protocol):
    """Runs the statements of a session: each call as a transaction of its own, or all of them in one."""

    @property
    def is_transaction(self) -> bool: ...
    def read(self, step: dbapi.BatchStep, *, shrinks: bool = False) -> Sequence[Row]: ...
    def read_all(self, steps: Sequence[dbapi.BatchStep]) -> list[Sequence[Row]]: ...
    def write(
        self, steps: Sequence[dbapi.BatchStep], *, again: dbapi.BatchStep | None = None, changed: int = 0
    ) -> Sequence[Row]: ...
    def probe(self, batch: dbapi.Batch, *, deadline: float) -> Sequence[Row]: ...
    def indexing(self, maintenance: MaintenanceLock) -> AbstractContextManager[bool]: ...
    def log(self, record: AuditRecord, *, is_known: bool) -> None: ...


class Session(dbapi.Unpicklable):
    """What repositories run in; implements `SessionProtocol`.

    Args:
        context: What it shares with all sessions on the database.
        namespace: Whose rows it reads and writes.
        actor: Named in the audit log.
        executor: Runs the statements; by default each call is a transaction of its own.
    """

    def __init__(
        self, context: StorageContext, namespace: str, actor: str = "", executor: _SessionExecutor | None = None
    ) -> None:
        self._executor = executor = executor or context.executor
        self._maintenance = context.maintenance
        self.namespace, self.actor = namespace, actor
        self.limits, self.now, self.meter = context.limits, context.now, context.meter
        self.vector_index, self.memory, self.spaces = context.vector_index, context.memory, context.spaces
        self.embedding_queue, self.recalls = context.embedding_queue, context.recalls
        self.has_embedder = context.embedding_queue is not None
        self._saved: list[tuple[OwnerType, list[str]]] = []  # in a transaction: what was saved
        # What a replica stores, its server has to take.
        travels = context.executor.is_remote or context.executor.opening is not None
        self.max_value_bytes = _SERVER_VALUE_BYTES if travels else None
        self.has_recent_words = not context.executor.is_remote
        self.is_transaction = executor.is_transaction
        self.opening = context.executor.opening
        self.started_at_monotonic: float | None = None  # set when a transaction begins
        # The executor's own methods: a call does not pass through this class.
        self.read, self.read_all = executor.read, executor.read_all
        self.write, self.probe = executor.write, executor.probe

    def indexing(self) -> AbstractContextManager[bool]:
        """See `SessionProtocol`."""
        return self._executor.indexing(self._maintenance)

    def saved(self, owner_type: OwnerType, ids: Sequence[UUID]) -> None:
        """See `SessionProtocol`."""
        texts = [str(one) for one in ids]
        if self.is_transaction:
            self._saved.append((owner_type, texts))
        elif self.embedding_queue is not None:
            self.embedding_queue.add(self.namespace, owner_type, texts)

    def committed(self) -> None:
        """Have embedded what the transaction has saved."""
        saved, self._saved = self._saved, []
        for owner_type, ids in saved:
            if self.embedding_queue is not None:
                self.embedding_queue.add(self.namespace, owner_type, ids)

    def audit(self, name: str, operation: Operation, subjects: object, *, is_known: bool) -> None:
        """See `SessionProtocol`."""
        sql = (step.sql for batch in operation.batches or () for step in batch.steps)
        record = AuditRecord.of(self.actor, self.namespace, name, sql, operation.changed, subjects)
        self._executor.log(record, is_known=is_known)


class _made_when_used(cached_property[R]):  # noqa: N801 - a decorator
    """A `cached_property` for several threads: all get the same object, and no lock is left to a forked child."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> R: ...
    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Self | R:
        if instance is None:
            return self
        made: R = vars(instance).setdefault(self.func.__name__, self.func(instance))  # `setdefault` is atomic
        return made


class Repositories(dbapi.Unpicklable):
    """The repositories of one namespace, over one session. Each is made when it is first used."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @_made_when_used
    def episodes(self) -> EpisodeRepository:
        """Episodes with their steps."""
        return EpisodeRepository(self._session)

    @_made_when_used
    def steps(self) -> StepRepository:
        """The steps of episodes, one by one."""
        return StepRepository(self._session)

    @_made_when_used
    def patterns(self) -> PatternRepository:
        """What was learned from episodes."""
        return PatternRepository(self._session)

    @_made_when_used
    def embeddings(self) -> EmbeddingRepository:
        """Vectors of episodes, steps and patterns; `embeddings.index` has their indexes."""
        return EmbeddingRepository(self._session)

    @_made_when_used
    def spatiotemporal(self) -> SpatiotemporalRepository:
        """Where and when episodes and steps happened."""
        return SpatiotemporalRepository(self._session)

    @_made_when_used
    def analytics(self) -> AnalyticsRepository:
        """Counts, rates, trends and comparisons of episodes."""
        return AnalyticsRepository(self._session)

    @_made_when_used
    def retention(self) -> RetentionRepository:
        """Deletes or archives episodes by a policy."""
        return RetentionRepository(self._session)

    @_made_when_used
    def items(self) -> ItemRepository:
        """JSON values by path and key."""
        return ItemRepository(self._session)

    @_made_when_used
    def logs(self) -> LogRepository:
        """Ordered records."""
        return LogRepository(self._session)

    @_made_when_used
    def relationships(self) -> RelationshipRepository:
        """Relationships between episodes, and walks along them."""
        return RelationshipRepository(self._session)

    @_made_when_used
    def checkpoints(self) -> CheckpointRepository:
        """States of episodes from which their work can be resumed."""
        return CheckpointRepository(self._session)

    @_made_when_used
    def summaries(self) -> SummaryRepository:
        """Summaries of episodes."""
        return SummaryRepository(self._session)

    def _use(self, session: Session) -> None:
        """Replace the session, and drop the repositories that were made over the one before."""
        self._session = session
        for name in _REPOSITORIES:
            vars(self).pop(name, None)


_REPOSITORIES = [name for name, value in vars(Repositories).items() if isinstance(value, _made_when_used)]


class Transaction(Repositories):
    """A transaction: a clean exit of the block commits, an exception rolls back. Not thread-safe.

    It takes the write lock at its first statement, so that what it reads cannot change before it writes. A snapshot
    takes no lock: it sees the state of the database at its first statement, while other clients write.

    On a server it is kept alive until the block ends: a thread sends a request after five idle seconds, since the
    server ends an idle transaction after ten. When another writer waits, the server rolls back a transaction that has
    held the write lock for five seconds; the next call then raises UnavailableError.
    """

    def __init__(self, context: StorageContext, namespace: str, actor: str = "", *, read_only: bool = False) -> None:
        self._executor = TransactionExecutor(context.executor, read_only=read_only)
        super().__init__(Session(context, namespace, actor, self._executor))

    @property
    def namespace(self) -> str:
        """The namespace whose rows it reads and writes."""
        return self._session.namespace

    @property
    def actor(self) -> str:
        """Whom the audit log names."""
        return self._session.actor

    def now(self) -> datetime:
        """Return the current time by the storage's clock, aware."""
        return self._session.now()

    def __enter__(self) -> Self:
        self._session.started_at_monotonic = time.monotonic()
        self._executor.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.end(error)
        if error is None:
            self._session.committed()

    @named_operation("transaction.execute")
    def execute(self, statements: Sequence[tuple[str, Sequence[object]]]) -> list[list[Row]]:
        """Run your own SQL, all statements or none, in one round trip.

        The statements are not restricted to the namespace.

        Args:
            statements: Pairs of SQL, with `?` for each value, and the values.

        Returns:
            The rows of each statement.
        """
        return self._executor.execute([dbapi.BatchStep(sql, parameters) for sql, parameters in statements])
