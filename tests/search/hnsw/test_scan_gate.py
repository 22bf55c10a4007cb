"""Searches in a row leave a build of the index most of the processor: long exact scans take turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.search.hnsw.scan_gate import ScanGate
from tests.search import oracle
from tests.search.conftest import COUNT, MODEL, Indexed, at

THREADS = 4
SEARCHES = 5


class Processor:
    """A clock of processor time by which every scan is just a long one. Counts the scans in progress."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own = threading.local()
        self.scans = self.running = self.most = 0

    def __call__(self) -> float:
        """Return the time of the current thread. The gate asks at the start and at the end of each scan."""
        ends = self._own.ends = not getattr(self._own, "ends", True)
        with self._lock:
            self.running += -1 if ends else 1
            self.scans += ends
            self.most = max(self.most, self.running)
        return 0.025 * ends


@pytest.fixture
def processor() -> Processor:
    return Processor()


@pytest.fixture
def gate(processor: Processor) -> ScanGate:
    """A gate that knows scans of the kind "long" to be long."""
    gate = ScanGate(turns=1, processor_seconds=processor)
    with gate.admit("long"):
        pass
    return gate


@pytest.fixture
def unindexed(bare: Any) -> Iterator[Indexed]:
    """A storage whose index has to be built."""
    for sidecar in bare.parent.glob("*.usearch"):
        sidecar.unlink()
    with ms.MemoryStorage.open(at(bare, "hnsw")) as storage:
        yield Indexed(storage, COUNT)


class TestAClosedGate:
    def test_admits_one_long_scan_at_a_time(self, gate, processor):
        processor.most = 0
        with gate.closed(), ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda _: _pass(gate), range(20)))
        assert (processor.most, processor.scans) == (1, 21)

    def test_admits_as_many_scans_as_it_has_turns(self, processor):
        gate = ScanGate(turns=2, processor_seconds=processor)
        with gate.closed(), gate.admit("long"):
            pass
        at_once = threading.Barrier(2)

        def scan(_: int) -> None:
            with gate.admit("long"):
                at_once.wait(10)

        with gate.closed(), ThreadPoolExecutor(2) as pool:
            list(pool.map(scan, range(2)))
        assert processor.most == 2

    def test_lets_short_and_unknown_scans_pass(self, gate):
        gate = ScanGate(turns=1, processor_seconds=lambda: 0.0)
        with gate.closed(), gate.admit("short"), gate.admit("short"), gate.admit("other"):
            pass

    def test_lets_a_scan_pass_that_has_waited_long_enough(self, processor):
        gate = ScanGate(turns=1, max_wait=0.01, processor_seconds=processor)
        with gate.closed(), gate.admit("long"):
            pass
        with gate.closed(), gate.admit("long"), gate.admit("long"):
            assert processor.running == 0  # the second start is an end to this clock: both run

    def test_gives_the_turn_back_after_an_error(self, gate, processor):
        with gate.closed():
            with pytest.raises(LookupError), gate.admit("long"):
                raise LookupError
            with gate.admit("long"):
                assert processor.running == 1

    def test_releases_the_waiting_scans_when_it_is_opened(self, gate):
        started, admitted = threading.Event(), threading.Event()

        def scan() -> None:
            started.set()
            with gate.admit("long"):
                admitted.set()

        thread = threading.Thread(target=scan)
        with ExitStack() as scans:
            with gate.closed():
                scans.enter_context(gate.admit("long"))  # does not end before the other one is admitted
                thread.start()
                assert started.wait(10)
                assert not admitted.wait(0.05)
            assert admitted.wait(3)
        thread.join()

    def test_remembers_a_bounded_number_of_kinds(self, gate):
        with gate.closed():
            for kind in range(2_500):
                with gate.admit(kind):
                    pass
        assert len(gate._costs) <= 1_000


def test_an_open_gate_delays_nothing_and_learns_which_scans_are_long(processor):
    gate = ScanGate(turns=1, processor_seconds=processor)
    for _ in range(3):
        with gate.admit("long"):
            pass
    processor.most = 0
    with gate.closed(), ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: _pass(gate), range(THREADS)))
    assert processor.most == 1


def _pass(gate: ScanGate) -> None:
    with gate.admit("long"):
        pass


class TestABuild:
    """During a build, `search` is called after the first batch, by the thread that builds."""

    def _build(self, indexed: Indexed, processor: Processor, search: Any) -> None:
        indexed.storage._context.memory.scan_gate = ScanGate(turns=1, processor_seconds=processor)
        batches: list[int] = []

        def after_batch(_: str, done: int, __: int) -> None:
            batches.append(done)
            if len(batches) == 1:
                search()

        indexed.storage.embeddings.index.catch_up(MODEL, progress=after_batch)
        assert batches[-1] == COUNT

    def _searched(self, indexed: Indexed, number: int, **options: Any) -> str:
        """Search; return the plan if the ten nearest were found."""
        query = indexed.queries[number % len(indexed.queries)]
        hits = indexed.storage.episodes.similar_to(query, model=MODEL, **options)
        nearest = oracle.nearest(query[None], indexed.vectors)[0]
        return hits.plan if {indexed.numbers[hit.item.id] for hit in hits} == set(nearest) else "wrong"

    @pytest.mark.slow
    def test_lets_one_exact_scan_of_many_threads_run_at_a_time(self, unindexed, processor):
        plans: set[str] = set()

        def search() -> None:
            plans.add(self._searched(unindexed, 0))  # from now on, it is known to be long
            processor.most = 0
            with ThreadPoolExecutor(THREADS) as pool:
                plans.update(pool.map(lambda number: self._searched(unindexed, number), range(THREADS * SEARCHES)))

        self._build(unindexed, processor, search)
        assert plans == {"exact"}
        assert (processor.most, processor.scans) == (1, 1 + THREADS * SEARCHES)
        assert unindexed.recall() >= 0.97
        assert processor.scans == 1 + THREADS * SEARCHES  # with the index, there are no more

    def test_does_not_delay_transactions(self, unindexed, processor):
        def search() -> None:
            with unindexed.storage.transaction() as transaction:
                transaction.episodes.similar_to(unindexed.queries[0], model=MODEL)

        self._build(unindexed, processor, search)
        assert processor.scans == 0

    def test_tells_scans_of_different_filters_apart(self, unindexed, processor):
        indexes = unindexed.storage._context.memory

        def search() -> None:
            for options in ({}, {"outcome": "failure"}, {"min_similarity": 0.5}):
                unindexed.storage.episodes.similar_to(unindexed.queries[0], model=MODEL, **options)
            assert len(indexes.scan_gate._costs) == 3

        self._build(unindexed, processor, search)

    def test_leaves_the_gate_open_when_it_fails(self, unindexed, processor):
        def search() -> None:
            raise LookupError

        with pytest.raises(LookupError):
            self._build(unindexed, processor, search)
        assert not unindexed.storage._context.memory.scan_gate.is_closed


def test_the_gate_stays_closed_until_the_last_build_ends(gate):
    with gate.closed():
        with gate.closed():
            pass
        assert gate.is_closed
    assert not gate.is_closed


def test_the_gate_of_a_child_process_is_open(in_memory):
    indexes = in_memory.storage._context.memory
    with indexes.close_gate():
        assert indexes.scan_gate.is_closed
        indexes.after_fork_in_child()  # the thread that closed it is not in the child
        assert indexes.scan_gate is None
