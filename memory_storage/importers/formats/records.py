"""Conversion of records one by one, and of messages or events that belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from memory_storage.errors import ValidationError

from ..json_records import Record
from ..run import ImportProblem, Item


def converted(records: Iterable[Record], convert: Callable[[Record], Iterable[Item]]) -> Iterator[Item]:
    """Yield the runs of each record, or why it cannot be read.

    Args:
        records: the records.
        convert: returns the runs of a record; raises ValidationError if it is invalid.
    """
    for record in records:
        if record.problem:
            yield ImportProblem(record.line, record.problem)
            continue
        try:
            yield from list(convert(record))
        except ValidationError as error:
            yield ImportProblem(record.line, str(error))
        except RecursionError:
            yield ImportProblem(record.line, "the record is nested too deeply")


def grouped(records: Iterable[Record], is_item: Callable[[dict[str, Any]], bool]) -> Iterator[Record | list[Record]]:
    """Yield the records, with the consecutive items of one array, or of a file of lines, as a list.

    Args:
        records: the records.
        is_item: returns whether a record is an item, and not a run of its own.
    """
    group: list[Record] = []
    for record in records:
        belongs = not record.problem and is_item(record.content)
        if group and not record.problem and not (belongs and record.array == group[0].array):
            yield group
            group = []
        if belongs:
            group.append(record)
        else:
            yield record
    if group:
        yield group
