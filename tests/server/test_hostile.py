"""A hostile or broken server: each response ends in a typed error, in time and in bounded memory."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import chain
from typing import ClassVar

import pytest

import memory_storage as ms
from memory_storage import dbapi

from .hostile import (
    Pieces,
    as_json,
    bomb,
    chunked,
    endless,
    head,
    hostile,
    reply,
    result,
    value,
    whole,
    zipped,
)

LIMIT = 300_000
MOST_MEMORY = 5_000_000  # the buffers of sockets and of this test's server are in it
GOOD = as_json(reply(result()))
BOMB = bomb(30)
GZIP = "Content-Encoding: gzip"

Case = tuple[Callable[[], Pieces], type[dbapi.Error], str]
TOO_LARGE = dbapi.ResponseTooLargeError, "RESPONSE_LIMIT"
BROKEN = dbapi.LineError, "CONNECTION_LOST"

ENDLESS: dict[str, Case] = {
    "a huge length": (lambda: [head(f"Content-Length: {10**11}")], *TOO_LARGE),
    "a length beyond 64 bits": (lambda: [head(f"Content-Length: {10**30}")], *TOO_LARGE),
    "a huge length of an error": (lambda: [head(f"Content-Length: {10**30}", status="500 No")], *TOO_LARGE),
    "a huge length in gzip": (lambda: [head(f"Content-Length: {10**12}", GZIP)], *TOO_LARGE),
    "a negative length": (lambda: [head("Content-Length: -5"), b"x"], *BROKEN),
    "a length that is none": (lambda: [head("Content-Length: many"), b"x"], *BROKEN),
    "a length of a million digits": (lambda: [head("Content-Length: " + "9" * 60_000), b"x"], *BROKEN),
    "no length": (lambda: chain([head()], endless(b" ")), *BROKEN),
    "an error without length": (lambda: chain([head(status="500 No")], endless(b" ")), *TOO_LARGE),
    "headers without end": (lambda: chain([b"HTTP/1.1 200 OK\r\n"], endless(b"X: y\r\n")), *TOO_LARGE),
    "a header without end": (lambda: chain([b"HTTP/1.1 200 OK\r\nX: "], endless(b"y")), *TOO_LARGE),
    "a status without end": (lambda: endless(b"H"), *TOO_LARGE),
    "a hundred continues": (lambda: endless(head(status="100 Continue")), *TOO_LARGE),
    "a chunked body": (lambda: chunked(endless(b" ")), *TOO_LARGE),
    "chunks of one byte": (lambda: chain([head("Transfer-Encoding: chunked")], endless(b"1\r\n \r\n")), *TOO_LARGE),
    "a chunk's length without end": (lambda: chain([head("Transfer-Encoding: chunked")], endless(b"0")), *TOO_LARGE),
    "a chunk's extension": (lambda: chain([head("Transfer-Encoding: chunked"), b"1;"], endless(b"x")), *TOO_LARGE),
    "a negative chunk": (lambda: chain([head("Transfer-Encoding: chunked"), b"-5\r\n"], endless(b" ")), *TOO_LARGE),
    "trailers": (lambda: chain([head("Transfer-Encoding: chunked"), b"0\r\n"], endless(b"X: y\r\n")), *TOO_LARGE),
    "a bomb": (lambda: [whole(BOMB, GZIP)], *TOO_LARGE),
    "a bomb within gzip": (lambda: [whole(zipped(BOMB), "Content-Encoding: gzip, gzip")], *BROKEN),
    "two encodings": (lambda: [whole(zipped(BOMB), GZIP, GZIP)], *BROKEN),
    "an unknown encoding": (lambda: [whole(GOOD, "Content-Encoding: br")], *BROKEN),
    "members of gzip": (lambda: chain([head("Transfer-Encoding: chunked")], _chunks(endless(zipped(b"")))), *TOO_LARGE),
    "half of a gzip": (lambda: [whole(zipped(GOOD)[:-9], GZIP)], *BROKEN),
}


def _chunks(pieces: Pieces) -> Iterator[bytes]:
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)


def _refused(url: str, sql: str = "SELECT 1", **options: object) -> dbapi.Error:
    connection = dbapi.connect(url, **{"timeout": 20.0, "max_response_bytes": LIMIT, "auth_token": "t0ken", **options})
    connection.autocommit = True
    with pytest.raises(dbapi.Error) as caught:
        connection.execute(sql)
    connection.discard()
    return caught.value


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.slow
def test_a_response_without_end_is_refused_in_bounded_memory(name: str):
    answer, kind, code = ENDLESS[name]
    with hostile(answer) as server:
        tracemalloc.start()
        try:
            error = _refused(server.url)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (isinstance(error, kind), error.code, len(server.requests)) == (True, code, 1)
    assert peak < MOST_MEMORY
    if kind is dbapi.ResponseTooLargeError:
        assert (error.setting, error.limit == LIMIT) in {("max_response_bytes", True), ("", False)}
        assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_write_whose_response_has_no_end_may_be_stored(name: str):
    answer, _, code = ENDLESS[name]
    with hostile(answer) as server:
        error = _refused(server.url, "INSERT INTO t VALUES (1)")
        assert len(server.requests) == 1
    assert (type(error), error.code) == (dbapi.OutcomeUnknownError, code)


DRIPS = {
    "a header": lambda: chain([b"HTTP/1.1 200 OK\r\nX:"], repeat_of(b"y")),
    "continues": lambda: repeat_of(head(status="100 Continue")),
    "a body": lambda: chain([head("Content-Length: 100000")], repeat_of(b" ")),
    "chunks": lambda: chain([head("Transfer-Encoding: chunked")], repeat_of(b"1\r\n \r\n")),
    "gzip": lambda: chain([head("Content-Length: 100000", GZIP), b""], repeat_of(zipped(b""))),
}


def repeat_of(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


@pytest.mark.parametrize("name", DRIPS)
def test_a_response_that_drips_ends_at_the_timeout(name: str):
    def slowly() -> Iterator[bytes]:
        for piece in DRIPS[name]():
            yield piece
            server.wait(0.02)

    with hostile(slowly) as server:
        error = _refused(server.url, timeout=0.3)
        assert len(server.requests) == 1
    assert (isinstance(error, dbapi.LineError), error.code) == (True, "REQUEST_TIMEOUT")


def _too_large_for_one_answer() -> bytes:
    error = {"message": "too large", "code": "RESPONSE_TOO_LARGE"}
    return whole(as_json({"baton": None, "base_url": None, "results": [{"type": "error", "error": error}] * 2}))


BEGIN = b'{"type":"step_begin","step":0,"cols":[{"name":"x"}]}\n'
ROW = b'{"type":"row","row":[{"type":"integer","value":"1"}]}\n'
LINES: dict[str, tuple[Callable[[], Pieces], type[dbapi.Error], str]] = {
    "rows without end": (lambda: chain([b'{"baton":null}\n', BEGIN], endless(ROW)), *TOO_LARGE),
    "entries without end": (lambda: chain([b'{"baton":null}\n'], endless(b'{"type":"later"}\n')), *TOO_LARGE),
    "a line without end": (lambda: chain([b'{"baton":null}\n', BEGIN], endless(b" ")), *TOO_LARGE),
    "empty lines": (lambda: chain([b'{"baton":null}\n'], endless(b"\n")), dbapi.InternalError, "PROTOCOL"),
    "a row before its step": (lambda: [b'{"baton":null}\n', ROW], dbapi.InternalError, "PROTOCOL"),
    "another step": (lambda: [b'{"baton":null}\n', BEGIN.replace(b"0", b"-1")], dbapi.InternalError, "PROTOCOL"),
    "a later step": (lambda: [b'{"baton":null}\n', BEGIN.replace(b"0", b"1")], dbapi.InternalError, "PROTOCOL"),
    "a list": (lambda: [b"[]\n"], dbapi.InternalError, "PROTOCOL"),
    "a deep line": (lambda: [b'{"baton":null}\n', b"[" * 200_000 + b"\n"], dbapi.InternalError, "PROTOCOL"),
    "no end": (lambda: [b'{"baton":null}\n', BEGIN, ROW], dbapi.OperationalError, "CONNECTION_LOST"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_cursor_without_end_or_sense_is_refused(name: str):
    pieces, kind, code = LINES[name]
    with hostile(lambda: [_too_large_for_one_answer()], lambda: chunked(pieces())) as server:
        error = _refused(server.url)
        assert (isinstance(error, kind), error.code, len(server.requests)) == (True, code, 2)


WRONG: dict[str, object] = {
    "an integer beyond 64 bits": reply(value("integer", str(2**63))),
    "an integer of a thousand digits": reply(value("integer", "9" * 1_000)),
    "an integer that is a number": reply(value("integer", 1)),
    "an integer that is none": reply(value("integer", "one")),
    "an integer that is a fraction": reply(value("integer", "1.5")),
    "NaN": reply(value("float", float("nan"))),
    "infinity": reply(value("float", float("inf"))),
    "a float that is a string": reply(value("float", "nan")),
    "a float that is true": reply(value("float", True)),
    "a text value that is a number": reply(value("text", 7)),
    "a text value that is a list": reply(value("text", ["a"])),
    "a blob that is none": reply(value("blob", "\u00e9", "base64")),
    "a blob that is a list": reply(value("blob", ["a"], "base64")),
    "an unknown type": reply(value("tensor", 1)),
    "a type that is a list": reply(value(["integer"], "1")),
    "a row of too many values": reply(result(rows=[[{"type": "null"}, {"type": "null"}]])),
    "a row of too few values": reply(result(rows=[[]])),
    "a row that is none": reply(result(rows=[None])),
    "rows that are a mapping": reply(result(rows={})),
    "rows that are a string": reply(result(rows="rows")),
    "columns that are a number": reply(result(cols=1)),
    "columns that are a mapping": reply(result(cols={"name": "x"})),
    "columns of another kind": reply(result(cols=["x"])),
    "a column without name": reply(result(cols=[{}])),
    "a column's name that is a number": reply(result(cols=[{"name": 7}])),
    "a rowid that is a list": reply(result(last_insert_rowid=[1])),
    "a rowid beyond 64 bits": reply(result(last_insert_rowid="9" * 19)),
    "a rowid that is infinite": reply(result(last_insert_rowid=float("inf"))),
    "no result": reply("result"),
    "results of more steps": reply(result(), errors=(None, None)),
    "errors that are a string": reply(result(), errors="none"),
    "an error that is a string": reply(None, errors=("no",)),
    "results that are a mapping": reply(result(), results={}),
    "results that are null": reply(result(), results=None),
    "no results": {"baton": None},
    "a list": [],
    "a number": 7,
}
WRONG_WRITES: dict[str, object] = {
    "rows below zero": reply(result(cols=[], rows=[], affected_row_count=-1)),
    "rows that are a string": reply(result(cols=[], rows=[], affected_row_count="many")),
    "rows beyond 64 bits": reply(result(cols=[], rows=[], affected_row_count=2**64)),
    "half a row": reply(result(cols=[], rows=[], affected_row_count=0.5)),
    "no rows": reply(result(cols=[], rows=[], affected_row_count=None)),
}


def _with_index(index: object) -> dict[str, object]:
    message = reply(result(cols=[], rows=[], affected_row_count=1))
    message["results"][0]["response"]["result"]["replication_index"] = index
    return message


WRONG_WRITES |= {f"an index of {index!r}": _with_index(index) for index in ("x", -1, 1.5, [1], "9" * 30, True, {})}


@pytest.mark.parametrize("name", WRONG)
def test_a_read_whose_response_is_not_of_the_protocol_fails(name: str):
    with hostile(lambda: [whole(as_json(WRONG[name]))]) as server:
        error = _refused(server.url)
        assert (type(error), error.code, len(server.requests)) == (dbapi.InternalError, "PROTOCOL", 1)


@pytest.mark.parametrize("name", WRONG_WRITES)
def test_a_write_with_a_malformed_response_may_be_stored(name: str):
    with hostile(lambda: [whole(as_json(WRONG_WRITES[name]))]) as server:
        error = _refused(server.url, "INSERT INTO t VALUES (1)")
        assert (type(error), error.code) == (dbapi.OutcomeUnknownError, "COMMIT_UNKNOWN")


@pytest.mark.parametrize("body", [b"[" * 250_000, b'{"a":' * 50_000, b'[{"a":' * 40_000, b"\xff\xfe", b"{}x", b""])
def test_json_that_is_deep_or_none_is_not_of_the_protocol(body: bytes):
    with hostile(lambda: [whole(body)]) as server:
        error = _refused(server.url)
    assert (type(error), error.code) == (dbapi.InternalError, "PROTOCOL")
    assert error.__cause__ is None or len(str(error.__cause__)) < 200


def test_of_a_key_that_is_there_twice_the_last_one_counts():
    with hostile(lambda: [whole(GOOD.replace(b'{"baton"', b'{"results": 7, "baton"'))]) as server:
        connection = dbapi.connect(server.url)
        connection.autocommit = True
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
        connection.discard()


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary", "308 Permanent", "103 Early Hints", "101 Switching"])
def test_another_address_gets_no_request_and_no_token(status: str):
    with hostile(lambda: [whole(GOOD)]) as other:
        location = f"Location: http://localhost:{other.port}/v3/pipeline"
        with hostile(lambda: [whole(b"", location, status=status)]) as server:
            error = _refused(server.url)
            assert (type(error), error.code) == (dbapi.InternalError, "PROTOCOL")
            assert (len(server.requests), other.requests) == (1, [])


OPEN = {"autocommit": False, "baton": "b"}


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"base_url": "http://localhost:{port}"}, dbapi.OperationalError, "INSECURE"),
        ({"base_url": "http://127.0.0.1:{port}"}, dbapi.OperationalError, "INSECURE"),
        ({"base_url": "https://127.0.0.1:{port}"}, dbapi.OperationalError, "INSECURE"),
        ({"base_url": "https://example.com"}, dbapi.OperationalError, "INSECURE"),
        ({"base_url": 7}, dbapi.InternalError, "PROTOCOL"),
        ({"base_url": ["http://localhost:{port}"]}, dbapi.InternalError, "PROTOCOL"),
        ({"base_url": "http://localhost/" + "x" * 100_000}, dbapi.InternalError, "PROTOCOL"),
        ({"base_url": "http://localhost:{port}/\r\nX: y"}, dbapi.InternalError, "PROTOCOL"),
        ({"baton": 7}, dbapi.InternalError, "PROTOCOL"),
        ({"baton": {"a": 1}}, dbapi.InternalError, "PROTOCOL"),
        ({"baton": "b" * 100_000}, dbapi.InternalError, "PROTOCOL"),
    ],
    ids=lambda given: str(given)[:50] if isinstance(given, dict) else "",
)
def test_a_transaction_goes_on_at_no_other_address(changes: dict[str, object], kind: type[dbapi.Error], code: str):
    with hostile(lambda: [whole(GOOD)]) as other:
        spelled = {k: v.replace("{port}", str(other.port)) if isinstance(v, str) else v for k, v in changes.items()}
        message = reply(result(), **{**OPEN, **spelled})
        with hostile(lambda: [whole(as_json(message))]) as server:
            connection = dbapi.connect(server.url, auth_token="t0ken", timeout=5.0)
            with pytest.raises(dbapi.Error) as caught:
                connection.execute("SELECT 1")
            assert (type(caught.value), caught.value.code) == (kind, code)
            assert not connection.in_transaction
            connection.discard()
        assert other.requests == []
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("changes", [{"base_url": 7}, {"base_url": "https://example.com"}, {"baton": 7}])
def test_a_read_outside_a_transaction_needs_no_other_address(changes: dict[str, object]):
    with hostile(lambda: [whole(as_json(reply(result(), **{"baton": "b", **changes})))]) as server:
        connection = dbapi.connect(server.url)
        connection.autocommit = True
        assert [connection.execute("SELECT 1").fetchone() for _ in range(3)] == [(1,)] * 3
        connection.discard()


def test_a_text_of_a_server_is_shown_up_to_a_length():
    for answer in (
        whole(as_json(reply(None, errors=({"message": "m" * 100_000, "code": "c" * 100_000},)))),
        whole(as_json({"message": "m" * 100_000, "code": "c" * 100_000}), status="400 Bad Request"),
    ):
        with hostile(lambda answer=answer: [answer]) as server:
            error = _refused(server.url)
        assert len(str(error)) < 6_000
        assert "(100,000 characters)" in str(error)
        assert len(error.code) <= 100


@pytest.mark.parametrize("code", ["", "SQLITE_BUSY", "RESPONSE_TOO_LARGE"])
def test_a_token_that_a_server_repeats_is_not_shown(code: str):
    reported = {"message": "you sent t0ken", "code": code}
    step_error = whole(as_json(reply(None, errors=(reported,))))
    batch_error = whole(as_json({"baton": None, "results": [{"type": "error", "error": reported}] * 2}))
    in_cursor = [b'{"baton":null}\n', as_json({"type": "error", "error": reported}) + b"\n"]
    for answer in (step_error, batch_error):
        with hostile(lambda answer=answer: [answer], lambda: chunked(in_cursor)) as server:
            error = _refused(server.url, timeout=0.2)
        assert ("t0ken" in str(error), "you sent ***" in str(error)) == (False, True)


class TestAStorage:
    SETTINGS: ClassVar = {"max_response_bytes": LIMIT, "retry": {"initial_backoff": 0.01}, "auth_token": "t0ken"}

    def _refused(self, url: str, **settings: object) -> ms.MemoryStorageError:
        with pytest.raises(ms.MemoryStorageError) as caught:
            ms.MemoryStorage.open(ms.Settings(**{"database": url, **self.SETTINGS, **settings}))
        assert "t0ken" not in str(caught.value)
        return caught.value

    def test_tells_the_limit_and_its_setting_and_does_not_repeat(self):
        with hostile(lambda: [head(f"Content-Length: {10**12}")]) as server:
            error = self._refused(server.url)
            assert len(server.requests) == 1
        assert type(error) is ms.ResponseTooLargeError
        assert (error.code, error.limit, error.value) == ("RESPONSE_LIMIT", LIMIT, 10**12)
        assert (error.setting, error.host, error.port) == ("max_response_bytes", "127.0.0.1", server.port)
        assert "(setting: max_response_bytes)" in str(error)

    def test_tells_that_the_response_is_not_of_the_protocol(self):
        with hostile(lambda: [whole(b"<html>hello</html>")]) as server:
            error = self._refused(server.url)
            assert len(server.requests) == 1
        assert (type(error), error.code) == (ms.UnavailableError, "PROTOCOL")

    def test_refuses_a_host_that_is_none(self):
        with pytest.raises(ms.ConfigurationError, match="base_url_hosts: 'https://a'"):
            ms.Settings(database="libsql://example.com", base_url_hosts=["https://a"])

    def test_takes_hosts_from_the_environment(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("MEMORY_STORAGE_BASE_URL_HOSTS", '["A.example.com", "b.example.com:8443"]')
        settings = ms.Settings.from_environment(database="libsql://example.com")
        assert settings.base_url_hosts == ("a.example.com", "b.example.com:8443")
