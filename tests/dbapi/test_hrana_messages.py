"""Messages of the protocol, and deadlines: without a server."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace

import pytest

from memory_storage import dbapi
from memory_storage.dbapi import Credentials
from memory_storage.dbapi._address import Origin, Server
from memory_storage.dbapi._client import Client, Limits
from memory_storage.dbapi._hrana_messages import BatchMessage
from memory_storage.dbapi._hrana_stream import _collect
from memory_storage.dbapi._http import Channel, Deadline
from memory_storage.dbapi._response_body import lines
from memory_storage.dbapi._sql import parse

BEGIN = {"type": "step_begin", "step": 0, "cols": [{"name": "x"}]}
ROW = {"type": "row", "row": [{"type": "integer", "value": "1"}]}
END = {"type": "step_end", "affected_row_count": 0, "last_insert_rowid": None}
LAST = {"type": "replication_index", "replication_index": "7"}


def test_a_skipped_step_without_an_error_is_a_lost_transaction():
    message = BatchMessage(in_transaction=True)
    message.add_statement(1, parse("SELECT 1"), (), None)
    with pytest.raises(dbapi.OperationalError) as caught:
        message.results({"step_results": [None], "step_errors": [None]})
    assert caught.value.code == "TRANSACTION_LOST"


def test_to_undo_is_to_go_back_to_the_savepoint_and_to_close_it():
    message = BatchMessage(in_transaction=True)
    message.rollback_to_savepoint()
    steps = message.as_json()["steps"]
    assert [step["stmt"]["sql"] for step in steps] == ["ROLLBACK TO batch", "RELEASE batch"]


def test_the_entries_of_a_cursor_are_collected():
    assert _collect([BEGIN, ROW, ROW, {"type": "of a later version"}, END, LAST], 1) == {
        "step_results": [{"cols": [{"name": "x"}], "rows": [ROW["row"]] * 2, **END}],
        "step_errors": [None],
    }
    failed = {"type": "step_error", "step": 1, "error": {"message": "no"}}
    assert _collect([BEGIN, END, failed, LAST], 2)["step_errors"] == [None, {"message": "no"}]


def test_a_cursor_that_fails_or_breaks_off_is_an_error():
    with pytest.raises(dbapi.OperationalError, match="enough") as caught:
        _collect([BEGIN, {"type": "error", "error": {"message": "enough", "code": "ENOUGH"}}], 1)
    assert caught.value.code == "ENOUGH"
    with pytest.raises(dbapi.OperationalError, match="truncated") as caught:
        _collect([BEGIN, ROW], 1)
    assert caught.value.code == "CONNECTION_LOST"


def _client(url: str, *hosts: str) -> Client:
    return Client.of(Server.parse(url), Credentials(), Limits(base_url_hosts=frozenset(hosts)))


class TestABaseUrl:
    def test_that_is_none_is_the_address_of_the_server(self):
        for url in (None, ""):
            assert _client("libsql://example.com/db").redirect_target(url) == (
                Origin.parse("https://example.com"),
                "/db",
            )

    def test_may_name_another_path_of_the_server(self):
        redirect_target = _client("libsql://example.com/db").redirect_target("https://EXAMPLE.com:443/below/")
        assert redirect_target == (Origin.parse("https://example.com"), "/below")

    @pytest.mark.parametrize(
        "url", ["https://other.example.com/", "https://example.com:8443", "https://example.com.", "https://192.0.2.1"]
    )
    def test_of_another_host_or_port_is_refused(self, url: str):
        client = _client("libsql://example.com", "third.example.com", "other.example.com:1", "example.com:8444")
        with pytest.raises(dbapi.OperationalError, match=r"for example\.com:443 alone \(setting: base_url") as caught:
            client.redirect_target(url)
        assert caught.value.code == "INSECURE"

    @pytest.mark.parametrize(
        "url", ["https://a.example.com", "https://b.example.com:8443/x", "https://[2001:db8::1]:9"]
    )
    def test_of_a_trusted_host_is_followed(self, url: str):
        limits = Limits.checked(None, 1.0, 1, ["A.example.com", "b.example.com:8443", "[2001:db8::1]:9"])
        client = Client.of(Server.parse("libsql://example.com"), Credentials(), limits)
        assert client.redirect_target(url)[0] == Origin.parse(url)

    def test_never_leads_from_tls_to_no_tls(self):
        with pytest.raises(dbapi.OperationalError, match="without TLS") as caught:
            _client("libsql://example.com", "127.0.0.1:8080").redirect_target("http://127.0.0.1:8080")
        assert caught.value.code == "INSECURE"

    @pytest.mark.parametrize(
        "url",
        [7, True, [], {}, "nonsense", "https://", "https://[", "https://example.com/\u00e9", "https://e/" + "x" * 2000],
    )
    def test_that_is_no_url_is_not_of_the_protocol(self, url: object):
        with pytest.raises(dbapi.InternalError, match="base_url") as caught:
            _client("libsql://example.com").redirect_target(url)
        assert caught.value.code == "PROTOCOL"

    @pytest.mark.parametrize("host", ["https://a.example.com", "a b", "", "a/b", "a:99999", "u@a", 7])
    def test_host_that_is_none_is_refused(self, host: object):
        with pytest.raises(dbapi.ProgrammingError) as caught:
            dbapi.connect("libsql://example.com", base_url_hosts=[host])
        assert caught.value.code == "BAD_URL"


@pytest.mark.parametrize("tls", ["2", "yes", ""])
def test_tls_in_a_url_is_one_or_zero(tls):
    with pytest.raises(dbapi.ProgrammingError, match="tls in the URL is 1, or 0") as caught:
        Server.at("127.0.0.1", None, "", {"tls": tls})
    assert caught.value.code == "BAD_URL"


@pytest.mark.parametrize("text", [b"", b"one", b"one\n", b"one\ntwo\n\nthree", b"\n" * 3, b"x" * 200_000 + b"\ny"])
@pytest.mark.parametrize("most", [1, 3, 65536])
def test_the_lines_of_an_answer_are_those_of_its_text(text, most):
    source = io.BytesIO(text)
    response = SimpleNamespace(
        read1=lambda size: source.read1(min(size, most)),
        length=None,
        headers=SimpleNamespace(get_all=lambda _, one: one),
    )
    found = list(lines(response, 1_000_000))
    assert found == [line.removesuffix(b"\n") for line in text.splitlines(keepends=True)]


def test_a_partially_sent_request_is_detected():
    def refuse(_: bytes) -> None:
        raise BrokenPipeError

    credentials = SimpleNamespace(header=dict)
    server = Server.at("127.0.0.1", 1, "", {"tls": "0"})
    channel = Channel(SimpleNamespace(credentials=credentials, server=server, limits=Limits()))
    assert channel._send(SimpleNamespace(sendall=lambda _: None), "/v3/pipeline", b"{}")
    assert not channel._send(SimpleNamespace(sendall=refuse), "/v3/pipeline", b"{}")


def test_a_deadline_that_has_passed_leaves_nothing():
    deadline = Deadline(0.02)
    assert 0 < deadline.left() <= 0.02
    assert deadline.allows(0.001)
    assert not deadline.allows(1.0)
    time.sleep(0.03)
    assert deadline.remaining() == 0.0
    with pytest.raises(TimeoutError):
        deadline.left()
