"""The repository of logs: ordered records, which the store numbers."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

from memory_storage.dbapi import RowCountError, chunked
from memory_storage.errors import CommitUnknownError, ValidationError
from memory_storage.models import LogInfo, LogRecord, new_id
from memory_storage.monitoring import operation
from memory_storage.sql.documents import CHUNK_BYTES, OnCorrupt, encode, encode_value, report_corrupt
from memory_storage.sql.paging import PAGE_BYTES, check_limit, draining, iterate_pages
from memory_storage.sql.session import Repository, Row, retry_on_row_conflict
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import (
    check_on_corrupt,
    instance,
    limit_error,
    most_bytes,
    refuse_unstorable,
    size,
    to_list,
    too_large,
    whole,
)

from . import sql
from .rows import info_from_row, record_from_row

_LAST = 2**53


class LogRepository(Repository):
    """The logs of one namespace. A log exists while it has records."""

    # A method is named `list`: in this class the type is `builtins.list`.
    _operations = "logs"

    @operation
    def append(self, log: str, values: Iterable[Any], *, ids: Sequence[str] | None = None) -> builtins.list[int]:
        """Append records: all or none, in one round trip, in their order and without others between them.

        A record whose id is in the log already is left as it is, so that an append can be repeated.

        Args:
            log: The name of the log.
            values: Any JSON values.
            ids: An id for each value, unique in the log. By default the store makes them; a caller that repeats an
                append after an error of its own needs ids to not append twice.

        Returns:
            The number of each record in the log, of those that were there before too.

        Raises:
            ValidationError: A value is no JSON value or over a limit, or an id is given twice.
        """
        name, given = self._check_name("log", log), to_list(values, "values")
        names = self._check_ids(ids, len(given))
        if not given:
            return []
        rows = [self._row(f"values.{n}", one, names[n], name) for n, one in enumerate(given)]
        key = {"namespace": self._session.namespace, "log": name}
        now = to_micros(self._session.now())
        steps = [
            sql.APPEND.bind(now=now, rows=f"[{','.join(group)}]", **key)
            for group in chunked(rows, size, most_bytes=CHUNK_BYTES)
        ]
        # By their ids, which are the caller's or new: the response is as right if it is read again.
        steps.append(sql.NUMBERS.bind(ids=json.dumps(names, ensure_ascii=False), **key))
        numbers: dict[str, int] = dict(self._session.write(steps))
        return [numbers[one] for one in names]

    @operation
    def read(
        self,
        log: str,
        *,
        first: int = 1,
        last: int | None = None,
        latest: int | None = None,
        limit: int | None = None,
        on_corrupt: OnCorrupt = None,
    ) -> builtins.list[LogRecord]:
        """Return records of a log, in its order.

        Args:
            log: The name of the log.
            first: The lowest number.
            last: The highest number; None has no bound.
            latest: The number of records to return, those with the highest numbers; instead of `first` and `limit`.
            limit: The maximum number of records, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`), from `first` on.
            on_corrupt: Called with the error of each record that cannot be decoded and is left out; it does not count
                for `latest`. None raises the error.

        Returns:
            The records, the lowest number first.

        Raises:
            ValidationError: An argument is invalid.
        """
        check_on_corrupt(on_corrupt)
        key: dict[str, Any] = {"namespace": self._session.namespace, "log": self._check_name("log", log)}
        key["last"] = _LAST if last is None else whole("last", last)
        if latest is None:
            step = sql.RANGE.bind(first=whole("first", first), limit=check_limit(limit, self._session.limits), **key)
            return _decoded(self._session.read(step), on_corrupt)
        if limit is not None or first != 1:
            raise ValidationError("latest", "must be given alone, or with last", latest)
        return self._latest(key, check_limit(latest, self._session.limits), on_corrupt)

    def _latest(self, key: dict[str, Any], wanted: int, on_corrupt: OnCorrupt) -> builtins.list[LogRecord]:
        records: builtins.list[LogRecord] = []
        while len(records) < wanted:
            limit = wanted - len(records)
            rows = self._session.read(sql.LATEST.bind(limit=limit, **key))[::-1]
            records = _decoded(rows, on_corrupt) + records
            if len(rows) < limit:
                break
            key["last"] = rows[0][1] - 1
        return records

    @operation
    def iterate(
        self, log: str | None = None, *, first: int = 1, last: int | None = None, on_corrupt: OnCorrupt = None
    ) -> Iterator[LogRecord]:
        """Iterate over the records of a log, or of all logs by their names, in pages of 1,000 or about 4 MB.

        Args:
            log: The name of the log; None for all.
            first: The lowest number in a log that is named.
            last: The highest number; None has no bound.
            on_corrupt: As in `read`.

        Returns:
            The records.

        Raises:
            ValidationError: An argument is invalid.
        """
        check_on_corrupt(on_corrupt)
        most = self._session.limits.query_maximum
        # The engine sorts each BLOB after each text.
        name, last_log = ("", b"") if log is None else (self._check_name("log", log),) * 2
        bounds = {"last_log": last_log, "last": _LAST if last is None else whole("last", last)}

        def read(cursor: tuple[str, int, bool]) -> tuple[Iterator[LogRecord], tuple[str, int, bool] | None]:
            place = {"log": cursor[0], "first": cursor[1], "limit": most + 1, "page_bytes": PAGE_BYTES}
            step = sql.PAGE.bind(namespace=self._session.namespace, **place, **bounds)
            rows = self._session.read(step, shrinks=cursor[2])
            fitting = [row[:-2] for row in rows if row[0] is not None]
            rest = next((row[-2:] for row in rows if row[0] is None), None)
            more = None if rest is None else cast("tuple[str, int, bool]", (*rest, len(fitting) < most))
            return draining(_decoded(fitting, on_corrupt)), more

        yield from iterate_pages(read, (name, whole("first", first), False))

    @operation
    def pop(self, log: str) -> LogRecord | None:
        """Remove the last record of a log and return it; None if there is none. The next append takes its number.

        Two callers never get the same record.

        Raises:
            CommitUnknownError: The connection failed after the request was sent. If the code is "RESULT_LOST", one
                record was removed, and its content is lost with the response: a repetition would remove another one.
            CorruptDataError: The record cannot be decoded; it is removed.
        """
        key = {"namespace": self._session.namespace, "log": self._check_name("log", log)}
        rows = self._session.write([sql.POP.bind(**key)])
        if not rows:
            return None
        if not rows[0]:
            raise CommitUnknownError(
                "the response was lost: the last record of the log was removed, and its content is not known; do not "
                "repeat it, which would remove another one",
                code="RESULT_LOST",
            )
        return record_from_row(rows[0])

    @operation
    def clear(self, log: str) -> int:
        """Delete all records of a log, and return how many."""
        key = {"namespace": self._session.namespace, "log": self._check_name("log", log)}
        return len(self._session.write([sql.CLEAR.bind(**key)]))

    @operation
    def list(self, prefix: str = "", *, limit: int | None = None, offset: int = 0) -> builtins.list[LogInfo]:
        """Return the logs whose names begin with a text, in the order of their names.

        Args:
            prefix: What their names begin with.
            limit: The maximum number of logs, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            offset: How many logs are left out at the beginning.

        Returns:
            The logs, each with the number and the time of its last record.

        Raises:
            ValidationError: An argument is invalid.
        """
        lower = self._check_text("prefix", prefix)
        whole("offset", offset, least=0)
        values = {"lower": lower, "upper": _above(lower), "limit": check_limit(limit, self._session.limits)}
        rows = self._session.read(sql.LIST.bind(namespace=self._session.namespace, offset=offset, **values))
        return [info_from_row(row) for row in rows]

    @operation
    def count(self, log: str | None = None) -> int:
        """Count the records of a log, or of the namespace if none is given."""
        namespace = self._session.namespace
        if log is None:
            step = sql.COUNT_ALL.bind(namespace=namespace)
        else:
            step = sql.COUNT.bind(namespace=namespace, log=self._check_name("log", log))
        return int(self._session.read(step)[0][0])

    @operation
    def import_many(self, records: Sequence[LogRecord]) -> int:
        """Insert copies with their numbers and times. A record whose number or id is stored is not changed. Idempotent.

        Returns:
            The number of new records.

        Raises:
            ValidationError: A record is invalid or over a limit; the field names it.
        """
        rows = [self._import_row(f"records.{n}", one) for n, one in enumerate(to_list(records, "records"))]
        namespace = self._session.namespace

        def write(new: builtins.list[str]) -> int:
            groups = list(chunked(new, size, most_bytes=CHUNK_BYTES))
            if groups:
                steps = [sql.IMPORT.bind(len(one), namespace=namespace, rows=f"[{','.join(one)}]") for one in groups]
                self._session.write(steps)
            return len(new)

        def unknown(new: builtins.list[str], _: RowCountError) -> builtins.list[str]:
            known = self._session.read(sql.KNOWN.bind(namespace=namespace, rows=f"[{','.join(new)}]"))
            positions = {row[0] for row in known}
            return [row for position, row in enumerate(new) if position not in positions]

        return retry_on_row_conflict(write, rows, unknown, "importing these records")

    def _row(self, at: str, value: Any, record_id: str, log: str) -> str:
        document = encode_value(at, value)
        limits, most = self._session.limits, self._session.max_value_bytes
        if (bytes_ := sum(map(size, (document, record_id, log)))) > most_bytes(limits, most):
            raise too_large(at, bytes_, limits, most)
        return f"[{json.dumps(record_id, ensure_ascii=False)},{document}]"

    def _import_row(self, at: str, record: Any) -> str:
        instance(at, record, LogRecord, "LogRecord(log=..., number=1, value=...)")
        encode(LogRecord, record, at)
        log, record_id = self._check_name(f"{at}.log", record.log), record.id
        if record_id is not None:
            record_id = self._check_name(f"{at}.id", record_id)
        self._row(f"{at}.value", record.value, record_id or "", log)
        created_at = to_micros(record.created_at or self._session.now())
        start = json.dumps([log, record.number, record_id, created_at], ensure_ascii=False)
        return f"{start[:-1]},{encode_value(at, record.value)}]"

    def _check_ids(self, ids: Any, values: int) -> builtins.list[str]:
        if ids is None:
            return [str(new_id()) for _ in range(values)]
        if isinstance(ids, str | bytes):
            raise ValidationError("ids", "a sequence of ids", ids)
        names = [self._check_name(f"ids.{n}", one) for n, one in enumerate(to_list(ids, "ids"))]
        if len(names) != values:
            raise ValidationError("ids", f"one for each of the {values} values", len(names))
        if len(set(names)) != len(names):
            raise ValidationError("ids", "each id once", names)
        return names

    def _check_name(self, field: str, name: Any) -> str:
        if not self._check_text(field, name):
            raise ValidationError(field, "at least 1 character", name)
        return str(name)

    def _check_text(self, field: str, text: Any) -> str:
        if not isinstance(text, str):
            raise ValidationError(field, "must be a string", text)
        refuse_unstorable(field, text)
        if len(text) > (most := self._session.limits.key_length):
            raise limit_error(field, "characters", most, len(text), "key_length")
        return text


def _above(prefix: str) -> str | bytes:
    """Return what is above all texts that begin with this one."""
    shorter = prefix.rstrip("\U0010ffff")
    if not shorter:
        return b""  # the engine sorts each BLOB after each text
    following = ord(shorter[-1]) + 1
    return shorter[:-1] + chr(0xE000 if following == 0xD800 else following)


def _decoded(rows: Iterable[Row], on_corrupt: OnCorrupt) -> list[LogRecord]:
    records = (report_corrupt(partial(record_from_row, row), on_corrupt) for row in rows)
    return [record for record in records if record is not None]
