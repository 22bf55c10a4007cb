"""The cost of `import memory_storage`, against `import sqlalchemy, pydantic`, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from ._measure import in_turn, ratios
from ._report import Line, Report, milliseconds

ALLOWED = 1.3
OURS = "import memory_storage"
USED = "import memory_storage; memory_storage.MemoryStorage"
THEIRS = "import sqlalchemy, pydantic"

_UNWANTED = ("alembic", "typer", "rich", "numpy")
_NOTES = (
    "ratio: processor time of the import in a fresh interpreter, ours / theirs, the median of the rounds.",
    f"ours: `{OURS}`, and with the first use of MemoryStorage; theirs: `{THEIRS}`. The interpreter's own start is "
    "not counted; compiled files are on disk.",
)


def run(*, short: bool) -> Report:
    """Measure in fresh interpreters, in turns."""
    ours, used, theirs = costs(5 if short else 25)
    lines = [_line(OURS, ours, theirs, at_most=ALLOWED), _line(f"  {USED.rpartition('; ')[2]}, used", used, theirs)]
    loaded = loaded_by(USED)
    found = [name for name in _UNWANTED if name in loaded] or ["none"]
    note = f"modules: {len(loaded_by(OURS))}, when used {len(loaded)}; of {', '.join(_UNWANTED)}: {', '.join(found)}"
    return Report("Import", lines, [note, *_NOTES])


def costs(rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of our import, of ours with its first use, and of theirs, after one warm-up round."""
    codes = [OURS, USED, THEIRS]
    each: dict[str, list[float]] = {code: [] for code in codes}
    for number in range(rounds + 1):
        for code in in_turn(codes, number):
            each[code].append(cost(code))
    return each[OURS][1:], each[USED][1:], each[THEIRS][1:]


def cost(code: str) -> float:
    """Return the processor time of the code in a new interpreter, which other load hardly affects."""
    return float(fresh(f"import time; start = time.process_time()\n{code}\nprint(time.process_time() - start)"))


def loaded_by(code: str) -> set[str]:
    """Return the names of all modules that are loaded after the code, including those of the interpreter."""
    return set(fresh(f"{code}\nimport sys\nprint(*sys.modules)").split())


def fresh(code: str, *arguments: str) -> str:
    """Return what the code prints in a new interpreter."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _line(name: str, ours: list[float], theirs: list[float], at_most: float | None = None) -> Line:
    detail = f"ours {milliseconds(median(ours))}, theirs {milliseconds(median(theirs))}"
    return Line(name, *ratios(ours, theirs), detail, at_most=at_most)
