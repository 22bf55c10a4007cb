"""`python -m tests.compliance`: run the suite on both databases and print the comparison."""

import sys
import tempfile
from pathlib import Path

from .comparison import problems, run

with tempfile.TemporaryDirectory() as directory:
    pysqlite, libsql = run(Path(directory))
print(f"pysqlite passes {len(pysqlite.passed)} of {len(pysqlite.outcomes)}, libSQL {len(libsql.passed)}")
found = problems(pysqlite, libsql)
for problem in found:
    print(problem)
sys.exit(bool(found))
