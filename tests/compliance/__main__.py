"""`python -m tests.compliance`: run the suite on all databases and print the comparison."""

import sys
import tempfile
from pathlib import Path

from .comparison import run

with tempfile.TemporaryDirectory() as directory:
    found = run(Path(directory))
print(f"Of {len(found.pysqlite.outcomes)} tests pysqlite passes {len(found.pysqlite.passed)}", end=", ")
print(f"libSQL {len(found.file.passed)} on a file and {len(found.server.passed)} on a server")
for problem in found.problems:
    print(problem)
sys.exit(bool(found.problems))
