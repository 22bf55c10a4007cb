"""A connection that breaks anywhere: no partial or duplicate write, no hang, and no leaked connection.

MEMORY_STORAGE_TEST_CUTS is how many random cuts there are; default 200.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

import memory_storage as ms
from memory_storage import _commit_status, dbapi, migrate, session
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises

from .raw import client, eventually

CUTS = int(os.environ.get("MEMORY_STORAGE_TEST_CUTS", "200"))
TIMEOUT = 3.0
SETTLING = 7.0
SLACK = 4.0  # a busy machine
STEPS = 20

Faults = Callable[[Proxy], None]
NEAR = {
    "before the request": lambda proxy: proxy.cut_request_after(0),
    "in its head": lambda proxy: proxy.cut_request_after(40),
    "in its body": lambda proxy: proxy.cut_request_after(300),
    "after it": lambda proxy: proxy.cut_reply_after(0),
    "in the head of the reply": lambda proxy: proxy.cut_reply_after(30, reset=False),
    "in its middle": lambda proxy: proxy.cut_reply_after(330),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sqld]:
    """A server with the schema, for the tests of this module that do not kill it."""
    with Sqld(directory=tmp_path_factory.mktemp("faults")) as server:
        ms.MemoryStorage.open(server.url).close()
        yield server


@contextmanager
def opened(url: str, namespace: str = "", *, timeout: float = TIMEOUT) -> Iterator[ms.MemoryStorage]:
    settings = ms.Settings(
        database=url,
        namespace=namespace or uuid4().hex,
        request_timeout=timeout,
        circuit_breaker={"enabled": False},  # else most of the faults would not be met
    )
    with ms.MemoryStorage.open(settings) as storage:
        yield storage
        assert storage.engine.pool.checkedout() == 0


@dataclass
class Pair:
    """The same memory, through a proxy that will harm, and past it."""

    proxy: Proxy
    faulty: ms.MemoryStorage
    direct: ms.MemoryStorage


@pytest.fixture
def pair(sqld: Sqld, migrated_server_url: str) -> Iterator[Pair]:
    """With a database of its own: the last test's broken transaction may keep the lock of its own for five seconds."""
    namespace = uuid4().hex
    with (
        Proxy(sqld.port, record=True) as proxy,
        opened(migrated_server_url.replace(str(sqld.port), str(proxy.port)), namespace) as faulty,
        opened(migrated_server_url, namespace) as direct,
    ):
        yield Pair(proxy, faulty, direct)


@pytest.fixture
def lanes(sqld: Sqld) -> Iterator[list[Pair]]:
    """Ten, each with a database of its own: a transaction whose line broke keeps the lock for five seconds."""
    with ExitStack() as stack:
        made = []
        for _ in range(10):
            name = f"lane-{uuid4().hex}"
            sqld.create_namespace(name)
            stack.callback(sqld.delete_namespace, name)
            direct = stack.enter_context(opened(sqld.url_of(name), "lane"))
            proxy = stack.enter_context(Proxy(sqld.port))
            faulty = stack.enter_context(opened(sqld.url_of(name).replace(str(sqld.port), str(proxy.port)), "lane"))
            made.append(Pair(proxy, faulty, direct))
        yield made


def an_episode(steps: int = STEPS) -> ms.Episode:
    return ms.Episode(task_description="a", steps=[a_step() for _ in range(steps)])


def a_step() -> ms.Step:
    return ms.Step(tool="tool", action="act", result=ms.StepOk(output="done " * 20))


def a_pattern() -> ms.Heuristic:
    return ms.Heuristic(condition="if", action="then")


def applied(storage: ms.MemoryStorage, pattern: UUID, *, success: bool = True) -> int:
    counts = storage.patterns.get(pattern).effectiveness
    return counts.success_when_applied if success else counts.failure_when_applied


class Ledger:
    """Writes of four kinds, and what was said of each: that it is done, or that this is unknown, or that it is not."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.pattern = pair.direct.patterns.save(a_pattern()).id
        self.episode = pair.direct.episodes.save(an_episode(0)).id
        self.kinds = [self.save, self.append, self.apply, self.transact]
        self.done: dict[str, list[UUID]] = {kind.__name__: [] for kind in self.kinds}
        self.unknown: dict[str, list[UUID]] = {kind.__name__: [] for kind in self.kinds}
        self.slowest = 0.0

    def write(self, kind: Callable[[UUID], None]) -> None:
        key = uuid4()
        began = time.monotonic()
        try:
            kind(key)
        except ms.CommitUnknownError:
            self.unknown[kind.__name__].append(key)
        except ms.UnavailableError:
            pass
        else:
            self.done[kind.__name__].append(key)
        self.slowest = max(self.slowest, time.monotonic() - began)

    def save(self, key: UUID) -> None:
        saved = self.pair.faulty.episodes.save(an_episode().model_copy(update={"id": key}))
        assert (saved.version, len(saved.steps)) == (1, STEPS)

    def append(self, key: UUID) -> None:
        step = self.pair.faulty.episodes.append_step(self.episode, a_step().model_copy(update={"id": key}))
        assert step.id == key

    def apply(self, key: UUID) -> None:
        self.pair.faulty.patterns.record_application(self.pattern, success=True)

    def transact(self, key: UUID) -> None:
        with self.pair.faulty.transaction() as tx:
            tx.episodes.save(an_episode(3).model_copy(update={"id": key}))
            tx.patterns.record_application(self.pattern, success=False)
            tx.episodes.append_step(key, a_step())

    def check(self) -> None:
        stored = {episode.id: len(episode.steps) for episode in self.pair.direct.episodes.iterate()}
        del stored[self.episode]
        by_kind = {
            "save": {i for i, n in stored.items() if n == STEPS},
            "transact": {i for i, n in stored.items() if n == 4},
        }
        assert len(stored) == sum(map(len, by_kind.values())), "half an episode"
        steps = list(self.pair.direct.steps.iterate(self.episode))
        assert [step.step_number for step in steps] == list(range(1, len(steps) + 1))
        by_kind["append"] = {step.id for step in steps}
        for kind, found in by_kind.items():
            assert set(self.done[kind]) <= found <= {*self.done[kind], *self.unknown[kind]}, kind
        direct = self.pair.direct
        assert 0 <= applied(direct, self.pattern) - len(self.done["apply"]) <= len(self.unknown["apply"])
        assert applied(direct, self.pattern, success=False) == len(by_kind["transact"])


def cut_at_random(pair: Pair, seed: int, cuts: int) -> Ledger:
    ledger, draw = Ledger(pair), random.Random(seed)
    sizes = {}
    for kind in ledger.kinds:
        ledger.write(kind)
        pair.proxy.reset_counts()
        ledger.write(kind)
        sizes[kind] = pair.proxy.bytes_sent, pair.proxy.bytes_received
    assert not any(ledger.unknown.values())
    while cuts > 0:
        pair.proxy.reset_counts()
        kind = draw.choice(ledger.kinds)
        sent, received = sizes[kind]
        times, reset = draw.choice([1, 1, 1, 2, 3]), draw.random() < 0.5
        if draw.random() < 0.5:
            pair.proxy.cut_request_after(draw.randrange(sent + 1), reset=reset, times=times)
        else:
            pair.proxy.cut_reply_after(draw.randrange(received + 1), reset=reset, times=times)
        ledger.write(kind)
        pair.proxy.cut_request_after(None)
        pair.proxy.cut_reply_after(None)
        assert pair.faulty.engine.pool.checkedout() == 0
        cuts -= pair.proxy.cuts
    return ledger


@pytest.mark.slow
def test_after_random_cuts_each_write_is_stored_once_or_not(lanes: list[Pair]):
    with ThreadPoolExecutor(len(lanes)) as threads:
        ledgers = list(threads.map(cut_at_random, lanes, range(len(lanes)), [CUTS // len(lanes)] * len(lanes)))
    for ledger in ledgers:
        ledger.check()
    assert max(ledger.slowest for ledger in ledgers) < 2 * (TIMEOUT + SETTLING) + SLACK
    assert all(ledger.done[kind] for ledger in ledgers for kind in ledger.done)


def break_at_each_statement(pair: Pair, near: str) -> None:
    pattern = pair.direct.patterns.save(a_pattern()).id
    for broken in range(5):  # before the first to the third, the commit, and after it
        episode, done = an_episode(2), True
        try:
            with pair.faulty.transaction() as tx:
                work = [
                    lambda tx=tx, episode=episode: tx.episodes.save(episode),
                    lambda tx=tx: tx.patterns.record_application(pattern, success=True),
                    lambda tx=tx, episode=episode: tx.episodes.append_step(episode.id, a_step()),
                ]
                for number, one in enumerate(work):
                    if number == broken:
                        NEAR[near](pair.proxy)
                    one()
                if broken == len(work):
                    NEAR[near](pair.proxy)
        except ms.UnavailableError:
            done = False
        pair.proxy.cut_request_after(None)
        pair.proxy.cut_reply_after(None)
        assert pair.faulty.engine.pool.checkedout() == 0
        found = pair.direct.episodes.find(episode.id)
        assert (found is not None and len(found.steps) == 3) == done, (near, broken)
        assert done or broken < 4
    assert applied(pair.direct, pattern) == pair.direct.episodes.count()


@pytest.mark.slow
def test_a_transaction_cut_at_any_statement_is_atomic(lanes: list[Pair]):
    with ThreadPoolExecutor(len(NEAR)) as threads:
        list(threads.map(break_at_each_statement, lanes, NEAR))


def test_a_transaction_continues_on_a_new_connection(pair: Pair):
    with pair.faulty.transaction() as tx:
        tx.episodes.save(an_episode(1))
        pair.proxy.cut_request_after(10)
        tx.episodes.save(an_episode(1))
    assert pair.direct.episodes.count() == 2


def _write_calls() -> dict[str, Callable[[ms.MemoryStorage, ms.Episode, ms.Heuristic], object]]:
    def transact(storage: ms.MemoryStorage, episode: ms.Episode, pattern: ms.Heuristic) -> object:
        with storage.transaction() as tx:
            tx.patterns.record_application(pattern.id, success=True)
            return tx.episodes.append_step(episode.id, a_step()).step_number

    return {
        "save": lambda storage, episode, _: storage.episodes.save(an_episode()).version,
        "save again": lambda storage, episode, _: (
            storage.episodes.save(episode.model_copy(update={"task_description": "b"})).version
        ),
        "append_step": lambda storage, episode, _: storage.episodes.append_step(episode.id, a_step()).step_number,
        "delete": lambda storage, episode, _: storage.episodes.delete(episode.id),
        "complete": lambda storage, episode, _: (
            storage.episodes.complete(episode.id, ms.Success(verdict="done"), reward=1).version
        ),
        "record_application": lambda storage, _, pattern: storage.patterns.record_application(pattern.id, success=True),
        "transaction": transact,
    }


EXPECTED = {
    "save": 1,
    "save again": 2,
    "append_step": STEPS + 1,
    "delete": True,
    "complete": 2,
    "record_application": None,
    "transaction": STEPS + 1,
}


@pytest.mark.parametrize("cut", ["reply", "request"])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_lost_request_or_response_writes_once_and_reports_so(pair: Pair, name: str, cut: str):
    episode, pattern = pair.direct.episodes.save(an_episode()), pair.direct.patterns.save(a_pattern())
    pair.faulty.episodes.count()
    if name == "transaction":
        with pair.faulty.transaction() as tx:
            tx.patterns.record_application(pattern.id, success=True)
            appended = tx.episodes.append_step(episode.id, a_step()).step_number
            (pair.proxy.cut_reply_after if cut == "reply" else pair.proxy.cut_request_after)(20)
        result: object = appended
    else:
        (pair.proxy.cut_reply_after if cut == "reply" else pair.proxy.cut_request_after)(20)
        result = _write_calls()[name](pair.faulty, episode, pattern)
    assert pair.proxy.cuts == 1
    assert result == EXPECTED[name]
    after = pair.direct.episodes.find(episode.id)
    assert pair.direct.episodes.count() == {"save": 2, "delete": 0}.get(name, 1)
    assert (after is None) == (name == "delete")
    if after is not None:
        assert len(after.steps) == STEPS + (name in {"append_step", "transaction"})
    assert applied(pair.direct, pattern.id) == (name in {"record_application", "transaction"})


@pytest.mark.parametrize("name", ["save", "append_step", "record_application", "complete"])
def test_a_write_that_arrives_after_its_fence_fails(shared: Sqld, name: str):
    namespace = uuid4().hex
    with (
        Proxy(shared.port, record=True) as proxy,
        opened(proxy.url, namespace, timeout=0.7) as faulty,
        opened(shared.url, namespace) as direct,
        ThreadPoolExecutor(1) as other,
    ):
        episode, pattern = direct.episodes.save(an_episode()), direct.patterns.save(a_pattern())
        proxy.reset_counts()
        proxy.deaf = True
        call = other.submit(_write_calls()[name], faulty, episode, pattern)
        eventually(lambda: len(proxy.requests) == 1)
        head, late = proxy.requests[0]
        proxy.deaf = False
        assert call.result(TIMEOUT + SETTLING + SLACK) == EXPECTED[name]
        with client(shared.port) as raw:
            reply = raw.pool.request("POST", head.split()[1], body=late)
        # Saving the same again would change another number of rows; an append finds its step before its receipt.
        taken = "steps.namespace, steps.id" if name == "append_step" else "receipts.id"
        refusal = "malformed JSON" if name == "save" else f"UNIQUE constraint failed: {taken}"
        assert refusal.encode() in reply.data
        assert direct.episodes.count() == 1 + (name == "save")
        assert direct.steps.count() == STEPS * (1 + (name == "save")) + (name == "append_step")
        assert applied(direct, pattern.id) == (name == "record_application")
        assert direct.episodes.get(episode.id).version == EXPECTED["complete"] if name == "complete" else True


@pytest.mark.slow
def test_calls_to_a_silent_or_dripping_server_end_in_time(shared: Sqld):
    def throttled(proxy: Proxy) -> None:
        proxy.throttle = 1

    def deafened(proxy: Proxy) -> None:
        proxy.deaf = True

    def timed(fault: Callable[[Proxy], None], call: str, kept: bool) -> float:
        may_be_done = call in {"save", "record_application"}
        expected = (
            raises(ms.CommitUnknownError) if may_be_done else raises(ms.RequestTimeoutError, code="REQUEST_TIMEOUT")
        )
        with ExitStack() as open_:
            with one_by_one:  # sixteen at once may take longer than the timeout
                proxy, direct = open_.enter_context(Proxy(shared.port)), open_.enter_context(opened(shared.url))
                episode, pattern = direct.episodes.save(an_episode(1)), direct.patterns.save(a_pattern())
                settings = direct.settings.model_copy(update={"database": proxy.url, "request_timeout": 2.0})
                storage = open_.enter_context(ms.MemoryStorage.open(settings))
            if not kept:
                storage.engine.dispose()
            fault(proxy)
            began = time.monotonic()
            with expected:
                calls[call](storage, episode, pattern)
            taken = time.monotonic() - began
            assert storage.engine.pool.checkedout() == 0
            proxy.cut_all()
            return taken

    one_by_one = threading.Lock()
    calls = {**_write_calls(), "read": lambda storage, episode, _: storage.episodes.find(episode.id)}
    cases = [
        (fault, call, kept)
        for fault in (throttled, deafened)
        for call in ("read", "save", "record_application", "transaction")
        for kept in (True, False)
    ]
    with ThreadPoolExecutor(len(cases)) as threads:
        results = [*zip(cases, threads.map(lambda case: timed(*case), cases), strict=True)]
    for (_, call, _), taken in results:
        assert taken < 2 + (0 if call in {"read", "transaction"} else SETTLING) + SLACK


def test_a_server_restart_loses_and_duplicates_no_write(server: Sqld):
    namespace = uuid4().hex
    with opened(server.url, namespace) as storage, ThreadPoolExecutor(4) as threads:
        ledgers = [Ledger(Pair(None, storage, storage)) for _ in range(4)]  # type: ignore[arg-type]
        over = threading.Event()

        def work(ledger: Ledger) -> None:
            while not over.is_set():
                ledger.write(random.choice(ledger.kinds))

        jobs = [threads.submit(work, ledger) for ledger in ledgers]
        for _ in range(2):
            time.sleep(0.7)
            server.kill()
            time.sleep(0.2)
            server.start()
        time.sleep(0.7)
        over.set()
        for job in jobs:
            job.result(TIMEOUT + SETTLING + SLACK)
    assert max(ledger.slowest for ledger in ledgers) < 2 * (TIMEOUT + SETTLING) + SLACK
    with opened(server.url, namespace) as storage:
        episodes = {episode.id: len(episode.steps) for episode in storage.episodes.iterate()}
        for ledger in ledgers:
            assert set(ledger.done["save"]) <= {key for key, steps in episodes.items() if steps == STEPS}
            assert set(ledger.done["transact"]) <= {key for key, steps in episodes.items() if steps == 4}
            steps = [step.id for step in storage.steps.iterate(ledger.episode)]
            assert set(ledger.done["append"]) <= set(steps) <= {*ledger.done["append"], *ledger.unknown["append"]}
            assert len(steps) == len(set(steps)) == episodes.pop(ledger.episode)
            done, unknown = ({kind: len(keys) for kind, keys in of.items()} for of in (ledger.done, ledger.unknown))
            assert 0 <= applied(storage, ledger.pattern) - done["apply"] <= unknown["apply"]
            failures = applied(storage, ledger.pattern, success=False)
            assert 0 <= failures - done["transact"] <= unknown["transact"]
        assert set(episodes.values()) <= {STEPS, 4}
        known = {key for ledger in ledgers for kind in ("save", "transact") for key in ledger.done[kind]}
        maybe = {key for ledger in ledgers for kind in ("save", "transact") for key in ledger.unknown[kind]}
        assert set(episodes) <= known | maybe


@pytest.mark.slow
@pytest.mark.parametrize("times", range(1, 8))
def test_lost_responses_never_report_a_stored_write_as_failed(pair: Pair, times: int):
    ledger = Ledger(pair)
    for kind in ledger.kinds:
        pair.proxy.cut_reply_after(0, times=times)
        ledger.write(kind)
        pair.proxy.cut_reply_after(None)
    ledger.check()


def test_a_transaction_resumed_after_an_error_leaves_its_marker(pair: Pair):
    with pair.faulty.transaction() as tx:
        with raises(ms.NotFoundError, kind="episode"):
            tx.episodes.archive(uuid4())
        saved = tx.episodes.save(an_episode(1))
        pair.proxy.cut_reply_after(0, times=2)
    assert pair.direct.episodes.get(saved.id).version == 1


def test_run_after_a_lost_commit_does_not_apply_work_twice(pair: Pair):
    runs = []

    def work(tx: ms.Transaction) -> None:
        with raises(ms.NotFoundError, kind="episode"):
            tx.episodes.archive(uuid4())
        tx.episodes.save(an_episode(1))
        if not runs:
            pair.proxy.cut_reply_after(0, times=2)
        runs.append(1)

    pair.faulty.run(work)
    assert pair.direct.episodes.count() == 1


def test_a_snapshot_survives_the_loss_of_its_last_response(pair: Pair):
    with pair.faulty.snapshot() as view:
        assert view.episodes.count() == 0
        pair.proxy.cut_reply_after(0, times=2)


def test_a_block_leaves_one_receipt_however_much_it_writes(pair: Pair):
    with pair.faulty.transaction() as tx:
        for _ in range(3):
            tx.episodes.save(an_episode(0))
    with pair.direct.transaction() as tx:
        assert tx.execute([("SELECT count(*) FROM receipts", ())]) == [[(1,)]]


def test_a_resolved_write_returns_the_rows_of_its_last_statement(pair: Pair):
    its_session = session.Session(pair.faulty._context, pair.faulty.namespace)
    insert = "INSERT INTO forgotten (digest) VALUES (?)"
    steps = [dbapi.BatchStep(insert, (bytes([n]) * 16,)) for n in range(3)]
    pair.proxy.cut_reply_after(0, times=2)
    assert its_session.write([*steps, dbapi.BatchStep("SELECT count(*) FROM forgotten")]) == [(3,)]


def test_resolving_a_commit_reports_to_the_circuit_breaker(pair: Pair, monkeypatch):
    guard, heard = pair.faulty._context.guard, []
    record = guard.record

    def listen(ticket: int, error: BaseException | None = None, **options: bool) -> None:
        heard.append(type(error).__name__)
        record(ticket, error, **options)

    monkeypatch.setattr(guard, "record", listen)
    pair.proxy.cut_reply_after(0, times=4)
    pair.faulty.episodes.save(an_episode(0))
    assert heard == ["CommitUnknownError"] * 4 + ["NoneType"]  # its outcome; what was saved is known


def test_a_commit_that_never_arrives_is_known_not_to_be_done(pair: Pair):
    def work() -> None:
        with pair.faulty.transaction() as tx:
            tx.episodes.save(an_episode(1))
            pair.proxy.cut_request_after(10, times=2)  # and the query of its outcome gets through

    with pytest.raises(ms.UnavailableError) as caught:
        work()
    assert caught.value.code == "NOT_STORED"
    assert pair.direct.episodes.count() == 0


def test_a_transaction_that_only_read_has_nothing_to_lose_either(pair: Pair):
    with pair.faulty.transaction() as tx:
        assert tx.episodes.count() == 0
        pair.proxy.cut_reply_after(0, times=2)
    assert pair.faulty.engine.pool.checkedout() == 0


def test_a_save_with_a_lost_response_claims_no_other_version(pair: Pair, monkeypatch):
    episode = pair.direct.episodes.save(an_episode(0))
    resolve = _commit_status.CommitResolver.resolve

    def and_then_another_writes(resolver: _commit_status.CommitResolver, receipt: object) -> int:
        found = resolve(resolver, receipt)
        theirs = pair.direct.episodes.get(episode.id)
        pair.direct.episodes.save(theirs.model_copy(update={"tags": ["theirs"]}))
        return found

    monkeypatch.setattr(_commit_status.CommitResolver, "resolve", and_then_another_writes)
    pair.proxy.cut_reply_after(0)
    mine = pair.faulty.episodes.save(episode.model_copy(update={"tags": ["mine"]}))
    if mine.version == 2 and pair.direct.episodes.get(episode.id).tags == ["theirs"]:
        with pytest.raises(ms.ConflictError):
            pair.faulty.episodes.save(mine)


def test_a_cut_connection_keeps_foreign_keys_off_in_a_migration(pair: Pair):
    episode = pair.direct.episodes.save(an_episode(2))
    # The BEGIN whose answer is lost keeps the lock until the server takes it away, after five seconds.
    with opened(pair.proxy.url, timeout=20.0) as patient:
        with patient.engine.connect() as warm:
            warm.exec_driver_sql("SELECT 1").all()
        with migrate.writing(patient.engine) as connection:
            pair.proxy.cut_reply_after(0)
            before = connection.exec_driver_sql("SELECT count(*) FROM steps").scalar()
            connection.exec_driver_sql("DELETE FROM episodes")
            assert connection.exec_driver_sql("SELECT count(*) FROM steps").scalar() == before
    assert len(pair.direct.episodes.get(episode.id).steps) == 2
