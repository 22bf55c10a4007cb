"""Runs the suite on both databases, each in a process of its own, and says where libSQL falls behind pysqlite."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from .exceptions import CANNOT_PASS

HERE = Path(__file__).resolve().parent
DATABASES = ("pysqlite", "libsql")

# The order is the suite's own, and so are its warnings.
_OPTIONS = ["-p", "tests.compliance.plugin", *(f"-pno:{name}" for name in ("randomly", "cacheprovider", "warnings"))]


@dataclass(frozen=True)
class Session:
    """What one run of the suite gave: of each test "passed", "skipped", or the first line of what went wrong."""

    outcomes: Mapping[str, str]

    @property
    def passed(self) -> set[str]:
        return {test for test, outcome in self.outcomes.items() if outcome == "passed"}


def run(directory: Path) -> tuple[Session, Session]:
    """Both sessions, at the same time, with their database files in `directory`; pysqlite's is the first."""
    started = [(name, _start(name, directory / name)) for name in DATABASES]
    pysqlite, libsql = (_finish(process, directory / name) for name, process in started)
    return pysqlite, libsql


def problems(pysqlite: Session, libsql: Session, cannot_pass: Mapping[str, str] = CANNOT_PASS) -> list[str]:
    """One line for each test that should have passed on libSQL, and for each that was not expected to and did."""
    behind = pysqlite.passed - libsql.passed
    return [
        *(f"{test}: {libsql.outcomes.get(test, 'did not run')}" for test in sorted(behind - cannot_pass.keys())),
        *(
            f"{test}: is listed as one that cannot pass, and passes"
            for test in sorted(cannot_pass.keys() & libsql.passed)
        ),
        *(f"{test}: is listed, but pysqlite does not pass it" for test in sorted(cannot_pass.keys() - pysqlite.passed)),
    ]


def _start(database: str, directory: Path) -> subprocess.Popen[bytes]:
    directory.mkdir()
    command = [sys.executable, "-m", "pytest", "-c", HERE / "setup.cfg", *_OPTIONS]
    command += ["--db", database, "--junit-xml", "report.xml", HERE / "suite.py"]
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
            return "skipped"
    return "passed"
