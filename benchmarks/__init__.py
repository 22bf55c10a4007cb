"""What the package costs, as ratios: `python -m benchmarks`.

A module here whose name has no underscore in front is a benchmark, and runs by that name. It has `run(*, short)`, which
gives a `Report`, and the first line of its docstring says what it measures.
"""
