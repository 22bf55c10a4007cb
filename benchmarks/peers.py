"""The package against other libraries that keep an agent's memory in local files: the same episodes, in the same run.

Every library gets the same episodes in the form its own users give it, made before the clock starts, and opens its
files with its own defaults. The raw drivers, with two plain tables, are the baselines: what any library adds to them
is the cost of its features. The libraries are optional: those that are not installed are left out.
"""

from __future__ import annotations

import gc
import importlib.util
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median

from . import _vectors, _workload, imports
from ._measure import Times, Work, in_turn, interleaved, ratios
from ._peers import OURS, OUTCOME, PAGE, PEERS, Peer, Record, Store, VectorStore
from ._peers._processes import SLOWEST_SYNC, Process, process, slow_syncs, syncs
from ._report import Grid, Line, Report

_MEMORY = Path("/dev/shm")  # a file system in memory, on Linux

_REQUIRED: dict[tuple[str, str], float] = {
    ("save, disk", "LangGraph"): 1.0,
    ("save, memory", "LangGraph"): 0.5,
    ("save, slow sync", "LangGraph"): 2.0,
    ("get, disk", "LangGraph"): 0.6,
    ("get, memory", "LangGraph"): 0.6,
    ("get, disk", "sqlite3"): 1.0,
    ("get, memory", "sqlite3"): 1.0,
    ("page of 50, disk", "LangGraph"): 1.5,
    ("page of 50, memory", "LangGraph"): 1.5,
}
"""The bounds of ratios; every other ratio to a library is at least 1, and none is required to a raw driver."""

_NOTES = (
    "ratio: the peer's time / ours of the same round, the median of the rounds; 2.0 is twice as fast. "
    "Of sizes likewise.",
    "disk: the directory of temporary files; memory: a file system in memory. All files are in the cache.",
    "page: the newest 50 episodes with every step decoded; Chroma and mem0 have no order. get: every step decoded. "
    "'steps not read': the same call of ours, whose steps are decoded at their first access.",
    "open: a new object on an existing file, in a process that has imported the library, and its first get. "
    "import: processor time in a new interpreter. installed: the distribution and all its dependencies, without .pyc.",
    "syncs: calls of fsync and fdatasync by strace, the mean of 50 calls, with the checkpoints among them.",
)


@dataclass(frozen=True)
class Operation:
    """A call that is compared on both file systems: the method of a store, and how its arguments are made."""

    name: str
    method: str
    rounds: int
    short_rounds: int
    calls: int
    arguments: Callable[[Store, range, int], Sequence[object]] | None = None


def _keys(_: Store, numbers: range, stored: int) -> list[str]:
    return [str(_workload.episode_id(number % stored)) for number in numbers]


def _words(_: Store, numbers: range, stored: int) -> list[str]:
    # The longest word of the task: one that all search for as it is, without syntax.
    words = (_workload.trajectory(number % stored).task_description.split() for number in numbers)
    return [max((word for word in some if word.isalpha()), key=len) for some in words]


def _records(store: Store, numbers: range, stored: int = 0) -> list[Record]:
    """Return the records of new episodes, after those that are stored before the first round."""
    return [store.record(_workload.trajectory(stored + number)) for number in numbers]


_STORED, _SHORT_STORED = 200, 60
_READS = (
    Operation("get", "get", 60, 4, 20, _keys),
    Operation("get, steps not read", "get_lazily", 60, 4, 20, _keys),
    Operation("page of 50", "page", 30, 3, 1),
    Operation("page of 50, steps not read", "page_lazily", 30, 3, 1),
    Operation("page of 50 with an outcome", "page_by_outcome", 30, 3, 1),
    Operation("search for a word, 10 results", "search", 30, 3, 2, _words),
)
_SAVE = Operation("save", "save", 30, 3, 5, _records)
_SIZE = "file, per episode"
_OPEN_ROUNDS, _VECTOR_ROUNDS, _IMPORT_ROUNDS, _SLOW_ROUNDS, _TRACED = 10, 40, 3, 20, 50


@dataclass
class Results:
    """The cells of the table, by row and peer, and the ratios."""

    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_checked: bool = True

    def add(
        self,
        row: str,
        figures: Mapping[str, Sequence[float]],
        text: Callable[[float], str],
        *,
        is_compared: bool = True,
    ) -> None:
        """Add the median of each peer to a row, and the ratios to ours."""
        self.cells[row] = {name: text(median(each)) for name, each in figures.items()}
        for peer in PEERS:
            if is_compared and peer.name in figures and OURS.name in figures and peer is not OURS:
                theirs, ours = figures[peer.name], figures[OURS.name]
                detail = f"{peer.name} {text(median(theirs))}, ours {text(median(ours))}"
                required = _REQUIRED.get((row, peer.name), None if peer.is_baseline else 1.0)
                bound = required if self.is_checked else None
                self.lines.append(Line(f"{row}: {peer.name}", *ratios(theirs, ours), detail, at_least=bound))

    def grid(self, peers: Sequence[Peer]) -> Grid:
        """Return the table: a column for each peer, and a dash for what it does not have."""
        names = [peer.name for peer in peers]
        rows = [(row, *(cells.get(name, "-") for name in names)) for row, cells in self.cells.items()]
        return Grid("Medians", ("operation", *names), rows)


def run(*, short: bool) -> Report:
    """Measure all peers that are installed.

    Args:
        short: measure with less data on one file system, without processes of their own and without bounds, which hold
            only in longer runs.
    """
    peers = [peer for peer in PEERS if peer.is_installed]
    results = Results(is_checked=not short)
    with ExitStack() as stack:
        parents = {"disk": None, **({"memory": _MEMORY} if _MEMORY.is_dir() else {})}
        places = {
            name: Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent))) for name, parent in parents.items()
        }
        fastest = list(places)[-1]
        for place in [fastest] if short else places:
            _measure_stores(results, peers, places[place], place, short=short)
        if not short:
            _measure_slow_syncs(results, peers, places[fastest])
            _count_syncs(results, peers, places[fastest])
            _measure_imports(results, peers)
        _measure_vectors(results, peers, places[fastest], short=short)
    _measure_installations(results, peers)
    missing = [peer.name for peer in PEERS if not peer.is_installed]
    remedy = f"not installed, so not compared: {', '.join(missing)}; `pip install 'memory-storage[bench]'`."
    notes = [_workload.texts().source, *_NOTES, *([remedy] if missing else []), *results.notes]
    return Report("Ours against peers", results.lines, notes, [results.grid(peers)])


def _measure_stores(results: Results, peers: Sequence[Peer], directory: Path, place: str, *, short: bool) -> None:
    """Fill a store of each peer, and measure reads, saves, the size of the files, and opening."""
    folders = {peer: _new_folder(directory, f"{peer.name}-{place}") for peer in peers}
    stored = _SHORT_STORED if short else _STORED
    saved = stored
    with _open_stores(folders) as stores, _frozen_modules():
        for store in stores.values():
            for record in _records(store, range(stored)):
                store.save(record)
            _check_contents(store, stored)
        for operation in (*_READS, _SAVE):
            supporting = {name: store for name, store in stores.items() if store.supports(operation.method)}
            rounds = operation.short_rounds if short else operation.rounds
            times, processor = _clocked(supporting, operation, rounds, stored)
            row = f"{operation.name}, {place}"
            results.add(row, times, _duration)
            if operation.name in {"get", "save"}:
                results.add(f"{row}: processor", processor, _duration, is_compared=False)
        saved += (rounds + 1) * _SAVE.calls
        descriptions = [f"{peer.name}{_version(peer)}: {stores[peer.name].note}" for peer in peers]
        levels = [store.durability() for store in stores.values()]
    if _SIZE not in results.cells:  # the first place: they are the same in the second
        results.notes += [f"{note}; {level}." for note, level in zip(descriptions, levels, strict=True)]
        sizes = {peer.name: [_size(folder) / saved] for peer, folder in folders.items()}
        results.add(_SIZE, sizes, lambda size: f"{size / 1e3:.1f} KB")
    _measure_opening(results, folders, place, 2 if short else _OPEN_ROUNDS)


def _check_contents(store: Store, stored: int) -> None:
    """Check that the store returns all episodes with their steps, so that all peers read the same."""
    episodes = [_workload.trajectory(number) for number in range(stored)]
    same = sum(episode.outcome is not None and episode.outcome.kind == OUTCOME for episode in episodes)
    assert [store.get(str(episode.id)) for episode in episodes[:10]] == [
        len(episode.steps) for episode in episodes[:10]
    ]
    assert not store.supports("page") or store.page() == min(PAGE, stored)
    assert not store.supports("page_by_outcome") or store.page_by_outcome() == min(PAGE, same)
    assert not store.supports("search") or store.search(*_words(store, range(1), stored)) > 0


def _clocked(stores: Mapping[str, Store], operation: Operation, rounds: int, stored: int) -> tuple[Times, Times]:
    """Return the seconds of a call, and its processor time in all threads, in each round."""
    processor: Times = {name: [] for name in stores}

    def work(name: str, call: Callable[..., object], arguments: Sequence[tuple[object, ...]]) -> list[object]:
        start = time.process_time()
        values = [call(*each) for each in arguments]
        processor[name].append((time.process_time() - start) / operation.calls)
        return values

    def prepare(number: int) -> dict[str, Work]:
        numbers = range(number * operation.calls, (number + 1) * operation.calls)
        works: dict[str, Work] = {}
        for name, store in stores.items():
            made = operation.arguments(store, numbers, stored) if operation.arguments else None
            arguments = [()] * operation.calls if made is None else [(each,) for each in made]
            works[name] = _bound(work, name, getattr(store, operation.method), arguments)
        return works

    times = interleaved(prepare, rounds)
    per_call = {name: [seconds / operation.calls for seconds in each] for name, each in times.items()}
    return per_call, {name: each[1:] for name, each in processor.items()}


def _measure_opening(results: Results, folders: Mapping[Peer, Path], place: str, rounds: int) -> None:
    key = str(_workload.episode_id(3))
    times: Times = {peer.name: [] for peer in folders}
    for number in range(rounds + 1):
        for peer in in_turn(list(folders), number):
            start = time.perf_counter()
            store = peer.open_store(folders[peer])
            store.get(key)
            seconds = time.perf_counter() - start
            store.close()
            if number:
                times[peer.name].append(seconds)
    results.add(f"open and first get, {place}", times, _duration)


def _measure_vectors(results: Results, peers: Sequence[Peer], directory: Path, *, short: bool) -> None:
    """Search the same vectors by the same queries, and compare what is found with numpy's exact product."""
    data = _vectors.load().first(500 if short else 4_000)
    rounds = 3 if short else _VECTOR_ROUNDS
    nearest = data.nearest(10)
    with ExitStack() as stack, _frozen_modules():
        stores: dict[str, VectorStore] = {}
        for peer in peers:
            store = peer.open_vectors(_new_folder(directory, f"{peer.name}-vectors"), data.base)
            if store is not None:
                stack.callback(store.close)
                stores[peer.name] = store

        def prepare(number: int) -> dict[str, Work]:
            query = data.queries[number]
            return {name: _bound(store.similar, query) for name, store in stores.items()}

        times = interleaved(prepare, rounds)
        row = f"10 most similar of {len(data.base):,} vectors"
        results.add(row, times, _duration)
        methods = {}
        for name, store in stores.items():
            some = range(min(20, len(nearest)))
            recall = sum(len(nearest[n] & set(store.similar(data.queries[n]))) for n in some) / len(some) / 10
            methods[name] = f"{store.method}, {recall:.2f}"
        results.cells["  method, recall@10"] = methods
    results.notes.append(
        f"vectors: {data.source}, the first {len(data.base):,}; recall of the ten nearest, of 20 queries. Ours returns "
        "checked episodes, LangGraph and mem0 return documents, Chroma and libsql only ids."
    )
    if "LangGraph" in {peer.name for peer in peers} - stores.keys():
        results.notes.append(
            "LangGraph's search by vector needs a Python that can load SQLite's extensions; this one cannot."
        )


def _measure_slow_syncs(results: Results, peers: Sequence[Peer], directory: Path) -> None:
    """Save in processes whose syncs take longer, as on a slow disk or one that is far away."""
    environment = slow_syncs(directory)
    if environment is None:
        results.notes.append("slow sync: left out; it needs Linux and a C compiler (`cc`).")
        return
    with ExitStack() as stack:
        processes = {
            peer.name: stack.enter_context(process(peer, directory / f"{peer.name}-slow", environment=environment))
            for peer in peers
        }

        def prepare(number: int) -> dict[str, Work]:
            for each in processes.values():
                each.call(f"prepare {number * _SAVE.calls} {_SAVE.calls}")
            return {name: _bound(Process.call, each, "save") for name, each in processes.items()}

        times = interleaved(prepare, _SLOW_ROUNDS)
    per_call = {name: [seconds / _SAVE.calls for seconds in each] for name, each in times.items()}
    results.add("save, slow sync", per_call, _duration)
    results.notes.append(
        f"slow sync: each fsync and fdatasync takes at least {_duration(SLOWEST_SYNC)}, by a library loaded before "
        "that of C; each peer in a process of its own."
    )


def _count_syncs(results: Results, peers: Sequence[Peer], directory: Path) -> None:
    counts = {peer.name: syncs(peer, _new_folder(directory, f"{peer.name}-traced"), _TRACED) for peer in peers}
    for operation in ("save", "get"):
        known = {name: [count[operation]] for name, count in counts.items() if count is not None}
        results.add(f"{operation}: syncs", known, lambda count: f"{count:.2g}", is_compared=False)
    if None in counts.values():
        results.notes.append("syncs: not counted where there is a dash; it needs strace, and leave to trace processes.")


def _measure_imports(results: Results, peers: Sequence[Peer]) -> None:
    costs: Times = {peer.name: [] for peer in peers}
    for number in range(_IMPORT_ROUNDS + 1):
        for peer in in_turn(peers, number):
            seconds = imports.cost(peer.statement)
            if number:  # the first compiles the files
                costs[peer.name].append(seconds)
    results.add("import", costs, _duration)


def _measure_installations(results: Results, peers: Sequence[Peer]) -> None:
    if importlib.util.find_spec("packaging") is None:
        results.notes.append("installed: left out; it needs the distribution packaging.")
        return
    from ._peers._installation import installed_bytes

    sizes = {peer.name: [float(installed_bytes(peer.distribution))] for peer in peers if _version(peer)}
    results.add("installed", sizes, lambda size: f"{size / 1e6:.0f} MB")


def _version(peer: Peer) -> str:
    """Return the version of a peer's distribution with a space before it; nothing for a part of Python."""
    try:
        return f" {metadata.version(peer.distribution.partition('[')[0])}" if peer.distribution else ""
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return ""


@contextmanager
def _open_stores(folders: Mapping[Peer, Path]) -> Iterator[dict[str, Store]]:
    with ExitStack() as stack:
        stores = {}
        for peer, folder in folders.items():
            stores[peer.name] = peer.open_store(folder)
            stack.callback(stores[peer.name].close)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", DeprecationWarning)  # of what the peers use
        yield stores


@contextmanager
def _frozen_modules() -> Iterator[None]:
    """Keep collections from the modules of all peers: a process has those of one."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _bound(call: Callable[..., object], *arguments: object) -> Work:
    return lambda: call(*arguments)


def _new_folder(directory: Path, name: str) -> Path:
    folder = directory / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.{1 if seconds < 0.1 else 0}f} ms"
