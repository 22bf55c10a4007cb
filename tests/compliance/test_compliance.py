"""The dialect keeps up with pysqlite in SQLAlchemy's compliance suite, but for what exceptions.py lists."""

import pytest

from .comparison import Session, problems, run


def test_libsql_passes_the_suite_wherever_pysqlite_does(tmp_path):
    pysqlite, libsql = run(tmp_path)
    assert len(pysqlite.passed) > 1000
    found = problems(pysqlite, libsql)
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_the_comparison_names_what_fell_behind_and_what_is_listed_wrongly():
    pysqlite = Session({"A": "passed", "B": "passed", "C": "skipped", "D": "passed", "E": "passed"})
    libsql = Session({"A": "passed", "B": "no such table", "C": "no such table", "D": "error"})
    found = problems(pysqlite, libsql, {"A": "a reason", "C": "a reason", "D": "a reason"})
    assert found == [
        "B: no such table",
        "E: did not run",
        "A: is listed as one that cannot pass, and passes",
        "C: is listed, but pysqlite does not pass it",
    ]
