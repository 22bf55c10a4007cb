"""Runs the suite on each database in its own process, and lists where libSQL is behind pysqlite."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from memory_storage.testing import Sqld

from .exceptions import CANNOT_PASS_ON_A_FILE, CANNOT_PASS_ON_A_SERVER

HERE = Path(__file__).resolve().parent

# The order is the suite's own, and so are its warnings.
_OPTIONS = ["-p", "tests.compliance.plugin", *(f"-pno:{name}" for name in ("randomly", "cacheprovider", "warnings"))]


@dataclass(frozen=True)
class Session:
    """What one run of the suite gave: of each test "passed", "skipped: why", or the first line of what went wrong."""

    outcomes: Mapping[str, str]

    @property
    def passed(self) -> set[str]:
        return {test for test, outcome in self.outcomes.items() if outcome == "passed"}


@dataclass(frozen=True)
class Comparison:
    """The three sessions."""

    pysqlite: Session
    file: Session
    server: Session

    @property
    def problems(self) -> list[str]:
        return [
            *(f"file: {one}" for one in problems(self.pysqlite, self.file, CANNOT_PASS_ON_A_FILE)),
            *(f"server: {one}" for one in problems(self.pysqlite, self.server, CANNOT_PASS_ON_A_SERVER)),
        ]


def run(directory: Path) -> Comparison:
    """All of them at the same time, with their database files in `directory`."""
    with Sqld(directory=directory / "sqld") as server:
        databases = {"pysqlite": ["--db", "pysqlite"], "file": ["--db", "libsql"], "server": ["--dburi", server.url]}
        started = {name: _start(directory / name, options) for name, options in databases.items()}
        return Comparison(**{name: _finish(process, directory / name) for name, process in started.items()})


def problems(pysqlite: Session, libsql: Session, cannot_pass: Mapping[str, str]) -> list[str]:
    """One line for each test that should have passed on libSQL, and for each that was not expected to and did."""
    behind = pysqlite.passed - libsql.passed
    listed = {name: {test for test in pysqlite.passed if _is_named(test, name, libsql)} for name in cannot_pass}
    expected = set[str]().union(*listed.values())
    return [
        *(f"{test}: {libsql.outcomes.get(test, 'did not run')}" for test in sorted(behind - expected)),
        *(f"{test}: is listed as one that cannot pass, and passes" for test in sorted(expected & libsql.passed)),
        *(f"{name}: is listed, but pysqlite passes no such test" for name in sorted(listed) if not listed[name]),
    ]


def _is_named(test: str, name: str, session: Session) -> bool:
    """Whether an entry of the list is about this test: its name, the start of it with a "*", or why it was skipped."""
    if name.startswith("skipped: "):
        return session.outcomes.get(test) == name
    return test == name or (name.endswith("*") and test.startswith(name[:-1]))


def _start(directory: Path, database: list[str]) -> subprocess.Popen[bytes]:
    directory.mkdir()
    command = [sys.executable, "-m", "pytest", "-c", HERE / "setup.cfg", *_OPTIONS]
    command += [*database, "--junit-xml", "report.xml", HERE / "suite.py"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    environment["PYTHONPATH"] = str(HERE.parents[1])
    with open(directory / "output.txt", "wb") as output:
        return subprocess.Popen(command, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _finish(process: subprocess.Popen[bytes], directory: Path) -> Session:
    if process.wait(timeout=300) not in {0, 1}:  # 1: some tests failed
        raise RuntimeError(f"the session in {directory.name} broke:\n{(directory / 'output.txt').read_text()[-3000:]}")
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(directory / "report.xml").iter("testcase"):
        outcome = _outcome(case)
        outcomes[_name(case)] = outcome if outcome != "passed" else outcomes.get(_name(case), outcome)
    return Session(outcomes)


def _name(case: ElementTree.Element) -> str:
    # "tests.compliance.suite.RowFetchTest_sqlite+libsql_3_45_1" -> "RowFetchTest"
    cls = case.attrib["classname"].rpartition("suite.")[2].partition("_sqlite+")[0]
    return f"{cls}::{case.attrib['name']}"


def _outcome(case: ElementTree.Element) -> str:
    for child in case:
        if child.tag in {"failure", "error"}:
            return child.get("message", child.tag).partition("\n")[0]
        if child.tag == "skipped":
            return f"skipped: {child.get('message', '').rpartition(' : ')[2]}"
    return "passed"
