"""Benchmarks of the package, as ratios: `python -m benchmarks`.

Each module without a leading underscore is a benchmark of that name. Its `run(*, short)` returns a `Report`, and the
first line of its docstring says what it measures.
"""
