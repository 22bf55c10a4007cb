"""The proxy's TLS: trusted authorities are accepted, and others are not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
import urllib3
from urllib3.exceptions import ProtocolError

from memory_storage.testing import Sqld
from tests.raising import raises
from tests.server import tls
from tests.server.raw import client, eventually


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> str:
    return str(tls.authority_file(authority, tmp_path))


def test_a_good_certificate_is_taken_and_requests_are_counted(server: Sqld, authority: trustme.CA, trusted: str):
    with tls.tls_terminator(server.port, tls.good(authority)) as front:
        with client(front.port, ca_certs=trusted) as sql:
            assert sql.run("SELECT 1") == [["1"]]
            assert sql.run("SELECT hex(zeroblob(500000))") == [["0" * 1_000_000]]
        assert (front.connections, front.round_trips) == (1, 2)
        eventually(lambda: front.open_connections == 0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (tls.for_another_host, "mismatch|doesn't match"),
        (tls.expired, "expired"),
        (lambda _: tls.self_signed(), "self.signed"),
        (lambda _: tls.from_another_authority(), "unable to get local issuer|self.signed"),
    ],
    ids=["another host", "expired", "self-signed", "another authority"],
)
def test_a_bad_certificate_is_refused(
    server: Sqld,
    authority: trustme.CA,
    trusted: str,
    bad: Callable[[trustme.CA], trustme.LeafCert],
    reason: str,
):
    with tls.tls_terminator(server.port, bad(authority)) as front, client(front.port, ca_certs=trusted) as sql:
        with pytest.raises(urllib3.exceptions.SSLError, match=reason):
            sql.run("SELECT 1")
        assert front.round_trips == 0
        eventually(lambda: front.open_connections == 0)


def test_an_old_version_of_tls_is_refused(server: Sqld, authority: trustme.CA, trusted: str):
    context = ssl.create_default_context(cafile=trusted)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with (
        tls.tls_terminator(server.port, tls.good(authority), maximum=ssl.TLSVersion.TLSv1_2) as front,
        client(front.port, ssl_context=context) as sql,
        pytest.raises(urllib3.exceptions.SSLError, match=r"(?i)version"),
    ):
        sql.run("SELECT 1")


def test_a_client_that_speaks_no_tls_gets_nothing(server: Sqld, authority: trustme.CA):
    with (
        tls.tls_terminator(server.port, tls.good(authority)) as front,
        client(front.port) as sql,
        pytest.raises(ProtocolError),
    ):
        sql.run("SELECT 1")


def test_faults_work_behind_tls_too(server: Sqld, authority: trustme.CA, trusted: str):
    with tls.tls_terminator(server.port, tls.good(authority)) as front, client(front.port, ca_certs=trusted) as sql:
        front.cut_reply_after(0)
        with raises(ProtocolError):
            sql.run("CREATE TABLE t (x)")
        assert sql.run("SELECT count(*) FROM t") == [["0"]]


def test_a_missing_handshake_does_not_block_it(server: Sqld, authority: trustme.CA):
    with tls.tls_terminator(server.port, tls.good(authority)) as front:
        silent = socket.create_connection(("127.0.0.1", front.port))
        eventually(lambda: front.open_connections == 1)
    silent.close()
