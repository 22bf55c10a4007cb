"""The benchmarks measure what they document. Speed is tested by `python -m benchmarks --check` only."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import time
from statistics import median

import pytest

from benchmarks import __main__ as command
from benchmarks import _peers, _workload, local, peers, rooms
from benchmarks._measure import interleaved, ratios
from benchmarks._peers import _processes
from benchmarks._report import Grid, Line, Report

SQLITE3 = next(peer for peer in _peers.PEERS if peer.name == "sqlite3")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return local.Files(tmp_path_factory.mktemp("benchmarks"), count=60)


def report(*lines):
    return Report("A title", list(lines), ["a note"])


def test_a_peer_whose_package_is_installed_in_part_is_left_out():
    def is_installed(*packages):
        return _peers.Peer("a peer", "ours", "", "", packages).is_installed

    assert is_installed("json", "json.decoder")
    assert not is_installed("json", "json.no_such_module")
    assert not is_installed("no_such_package", "no_such_package.part")


@pytest.mark.slow
@pytest.mark.parametrize("case", local.CASES, ids=lambda case: case.name)
def test_both_sides_of_a_case_read_or_store_the_same_rows(files, case):
    # The cases check that themselves, in the end.
    required, *_ = local.measured(case, files, rounds=1)
    assert required.at_least == case.required
    assert required.ratio > 0


def test_all_but_the_warm_appends_have_the_same_floor():
    assert {case.name for case in local.CASES if case.required != local.REQUIRED} == {"  ten in a row"}


@pytest.mark.slow
def test_sides_alternate_and_the_warm_up_round_is_not_counted():
    calls = []
    times = interleaved(
        lambda number: {"a": lambda: calls.append((number, "a")), "b": lambda: calls.append((number, "b"))}, 2
    )
    assert [name for _, name in calls] == ["a", "b", "b", "a", "a", "b"]
    assert [len(seconds) for seconds in times.values()] == [2, 2]


def test_a_ratio_is_the_median_of_the_rounds():
    assert ratios([1.0, 2.0, 9.0], [2.0, 2.0, 3.0]) == (1.0, 0.5, 3.0)


@pytest.mark.parametrize(
    ("ratio", "bounds", "holds"),
    [
        (0.5, {"at_least": 0.5}, True),
        (0.49, {"at_least": 0.5}, False),
        (1.3, {"at_most": 1.3}, True),
        (1.31, {"at_most": 1.3}, False),
        (0.01, {}, True),
    ],
)
def test_a_ratio_is_checked_against_its_bounds(ratio, bounds, holds):
    assert Line("what", ratio, ratio, ratio, **bounds).holds is holds


@pytest.mark.parametrize("name", command.names())
def test_a_benchmark_describes_what_it_measures(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.__doc__
    assert callable(module.run)


def test_to_check_fails_when_a_required_ratio_is_missed(capsys):
    missed = Line("save", 0.4, 0.3, 0.5, at_least=0.5)
    assert command.main(["local", "--check"], run=lambda name, short: report(missed)) == 1
    assert "save: 0.40, required >= 0.5" in capsys.readouterr().err


def test_without_check_a_missed_ratio_is_only_shown(capsys):
    missed = Line("save", 0.4, 0.3, 0.5, at_least=0.5)
    assert command.main(["local"], run=lambda name, short: report(missed)) == 0
    assert "MISSED" in capsys.readouterr().out


def test_markdown_has_the_tables_and_the_ratios(capsys):
    grid = Grid("A grid", ("call", "ours"), [("save", "1 ms")])
    lines = [Line("save", 0.4, 0.3, 0.5, "1 ms", at_least=0.5)]
    assert command.main(["local", "--markdown"], run=lambda name, short: Report("A title", lines, [], [grid])) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| call | ours |",
        "| --- | ---: |",
        "| save | 1 ms |",
        "",
        "| what | ratio | required | median times |",
        "| --- | ---: | ---: | ---: |",
        "| save | 0.40 | MISSED >= 0.5 | 1 ms |",
    ]


@pytest.mark.slow
def test_peers_are_compared_without_those_not_installed(monkeypatch):
    installed = [peer for peer in _peers.PEERS if peer.name in {"memory_storage", "sqlite3"}]
    absent = _peers.Peer("absent", "absent", "absent", "import absent", ("no_such_package",))
    monkeypatch.setattr(peers, "PEERS", (*installed, absent))
    report = peers.run(short=True)
    assert report.grids[0].columns == ("operation", "memory_storage", "sqlite3")
    assert all(line.name.endswith(": sqlite3") and line.ratio > 0 for line in report.lines)
    assert any("not installed, so not compared: absent" in note for note in report.notes)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs LD_PRELOAD and a C compiler")
def test_a_slow_sync_takes_at_least_its_time(tmp_path):
    with _processes.process(SQLITE3, tmp_path / "store", environment=_processes.slow_syncs(tmp_path)) as peer:
        peer.call("prepare 0 5")
        start = time.perf_counter()
        peer.call("save")
        assert time.perf_counter() - start >= 5 * _processes.SLOWEST_SYNC


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_save_by_raw_sql_syncs_once_and_a_get_never(tmp_path):
    assert _processes.syncs(SQLITE3, tmp_path, 5) in ({"save": 1.0, "get": 0.0}, None)  # None: it may not trace


def test_a_raw_driver_bounds_only_what_is_promised():
    results = peers.Results()
    for row in ("get, disk", "save, disk"):
        results.add(row, {"memory_storage": [1.0], "LangGraph": [1.0], "agno": [1.0], "sqlite3": [1.0]}, str)
    assert [(line.name, line.at_least) for line in results.lines] == [
        ("get, disk: LangGraph", 0.6),
        ("get, disk: agno", 1.0),
        ("get, disk: sqlite3", 1.0),
        ("save, disk: LangGraph", 1.0),
        ("save, disk: agno", 1.0),
        ("save, disk: sqlite3", None),
    ]


def test_a_short_comparison_with_peers_has_no_bounds():
    results = peers.Results(is_checked=False)
    results.add("get, disk", {"memory_storage": [1.0], "LangGraph": [0.1]}, str)
    assert results.lines[0].at_least is None


def test_a_trajectory_has_the_steps_of_one_transcript():
    trajectories = _workload.texts().trajectories
    assert [len(_workload.trajectory(number).steps) for number in range(5)] == [len(each) for each in trajectories[:5]]


def test_all_benchmarks_run_when_none_is_named(capsys):
    assert command.main(["--json", "--short"], run=lambda name, short: report(Line(name, 1.0, 1.0, 1.0))) == 0
    assert list(json.loads(capsys.readouterr().out)) == command.names()


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["nonsense"])
    assert "there are" in capsys.readouterr().err


def test_the_workload_is_the_same_every_time():
    assert _workload.episode(7) == _workload.episode(7)
    assert _workload.invented(20) == _workload.invented(20)


def test_made_up_texts_have_the_sizes_of_real_ones():
    sizes = [len(call.output) for call in _workload.invented().calls]
    assert 500 < median(sizes) < 800
    assert max(sizes) > 3000


def test_calls_enter_no_more_files_than_agreed():
    entered = rooms.measured()
    assert {name: files for name, files in entered.items() if len(files) > rooms.BOUNDS[name]} == {}
