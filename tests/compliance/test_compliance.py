"""The dialect passes what pysqlite passes of SQLAlchemy's compliance suite, except for exceptions.py."""

import pytest

from .comparison import Session, problems, run


@pytest.mark.slow
def test_libsql_passes_the_suite_wherever_pysqlite_does(tmp_path):
    comparison = run(tmp_path)
    assert len(comparison.pysqlite.passed) > 1000
    if comparison.problems:
        pytest.fail("\n".join(comparison.problems), pytrace=False)


def test_the_comparison_names_regressions_and_wrong_exceptions():
    pysqlite = Session({"A": "passed", "B": "passed", "C": "skipped: x", "D": "passed", "E": "passed"})
    libsql = Session({"A": "passed", "B": "no such table", "C": "no such table", "D": "error"})
    found = problems(pysqlite, libsql, {"A": "a reason", "C": "a reason", "D": "a reason"})
    assert found == [
        "B: no such table",
        "E: did not run",
        "A: is listed as one that cannot pass, and passes",
        "C: is listed, but pysqlite passes no such test",
    ]


def test_an_entry_of_the_list_may_be_for_several_tests():
    tests = ("one[a]", "one[b]", "two", "three", "four")
    pysqlite = Session(dict.fromkeys(tests, "passed"))
    libsql = Session(
        {"one[a]": "error", "one[b]": "error", "two": "skipped: y", "three": "skipped: n", "four": "passed"}
    )
    found = problems(pysqlite, libsql, {"one[*": "a reason", "skipped: y": "a reason", "skipped: z": "a reason"})
    assert found == ["three: skipped: n", "skipped: z: is listed, but pysqlite passes no such test"]
