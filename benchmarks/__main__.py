"""The command that runs benchmarks and prints their reports."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from memory_storage.models import IndexPreset

from ._report import Report, as_json, as_markdown, show

_OPTIONS = {"data": "retrieval", "vectors": "retrieval", "preset": "retrieval", "plot": "learning"}
"""Of which benchmark an option is."""


def names() -> list[str]:
    """Return the names of all benchmarks."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in found if not module.name.startswith("_"))


def run(name: str, *, short: bool, **options: Path | int | str) -> Report:
    """Run one benchmark."""
    report: Report = importlib.import_module(f"{__package__}.{name}").run(short=short, **options)
    return report


def main(arguments: Sequence[str] | None = None, *, run: Callable[..., Report] = run) -> int:
    """Run the named benchmarks, or all. Returns 1 if `--check` is given and a ratio is out of its bounds, else 0."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    options = {name: getattr(asked, name) for name in _OPTIONS if getattr(asked, name)}
    for name in options:
        if asked.benchmark != [_OPTIONS[name]]:
            parser.error(f"--{name} is only for the benchmark {_OPTIONS[name]}")
    reports = {name: run(name, short=asked.short, **options) for name in asked.benchmark or names()}
    if asked.json:
        print(json.dumps({name: as_json(report) for name, report in reports.items()}, indent=2))
    elif asked.markdown:
        print("\n\n".join(as_markdown(report) for report in reports.values()))
    else:
        for report in reports.values():
            show(report)
    missed = [line.describe() for report in reports.values() for line in report.lines if not line.holds]
    if asked.check and missed:
        print("out of bounds: " + "; ".join(missed), file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure and print ratios.")
    help_names = f"{', '.join(names())}; default: all"
    # Not choices=: before Python 3.12 it rejects the empty list.
    parser.add_argument("benchmark", nargs="*", type=_name, help=help_names)
    parser.add_argument("--short", action="store_true", help="fewer rounds and less data: about two minutes for all")
    parser.add_argument("--data", type=Path, help="retrieval: use the vectors of this .npy or .npz file")
    parser.add_argument(
        "--vectors", type=int, help="retrieval: measure the in-process index with this number of vectors"
    )
    parser.add_argument(
        "--preset",
        choices=get_args(IndexPreset),
        help="retrieval: measure only this preset of the index in the file",
    )
    parser.add_argument("--plot", type=Path, help="learning: write the curves to this file, as SVG")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a ratio is out of its bounds")
    return parser


def _name(given: str) -> str:
    if given not in names():
        raise argparse.ArgumentTypeError(f"no benchmark {given!r}; there are {', '.join(names())}")
    return given


if __name__ == "__main__":
    sys.exit(main())
