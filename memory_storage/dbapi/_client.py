"""The state that all connections to one server share: limits, credentials, TLS context, and replication state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ._address import INSECURE, PATH, Origin, Server, checked_authority
from ._credentials import Credentials, ForkSafeLock
from ._errors import InternalError, OperationalError, ProgrammingError
from ._json import unsigned
from ._write_limiter import CONCURRENT_WRITES, WriteLimiter

if TYPE_CHECKING:
    import ssl

_URL_LENGTH = 2_000
RESPONSE_BYTES = 100_000_000
"""The largest response, in bytes. sqld sends up to 10 MB of values at once, which JSON may encode six times as long."""


class ReplicationState:
    """The highest replication index seen by this client; reads on a replica wait for it (read-your-writes).

    The wait is limited: after a crash of the primary the index starts again at a lower number, which the replica would
    never reach.
    """

    def __init__(self) -> None:
        self._index: int | None = None
        self.is_primary = False
        """Whether the server is known to execute its writes itself, so that its reads need no wait."""
        self._lock = ForkSafeLock()

    @property
    def index(self) -> str | None:
        """The index as the protocol encodes it; None if none is known."""
        return None if self._index is None else str(self._index)

    def advance(self, index: object) -> None:
        """Take over the index of a response, if it is higher."""
        if index is None:
            return
        number = unsigned(index)
        if self._index is None or number > self._index:
            with self._lock:  # another thread may have advanced it since
                self._index = max(number, self._index or 0)

    def reset(self) -> None:
        """Forget the index: reads wait for nothing until the next response with one."""
        self._index = None


@dataclass(frozen=True)
class Limits:
    """Limits for a server's responses, and for what is sent to it.

    Attributes:
        ca_file: A PEM file of the authorities to trust instead of the system's.
        timeout: Seconds for one request with its response.
        response_bytes: The largest response, decompressed.
        base_url_hosts: Further addresses to which a server may redirect the rest of a stream, and the token with it:
            `host`, with the port of the server's own address, or `host:port`.
        concurrent_writes: How many writes may be in flight at a time.
    """

    ca_file: str | None = None
    timeout: float = 30.0
    response_bytes: int = RESPONSE_BYTES
    base_url_hosts: frozenset[str] = frozenset()
    concurrent_writes: int = CONCURRENT_WRITES

    @classmethod
    def checked(
        cls,
        ca_file: str | None,
        timeout: float,
        response_bytes: int,
        base_url_hosts: Iterable[str],
        concurrent_writes: int = CONCURRENT_WRITES,
    ) -> Limits:
        """Return the limits. ProgrammingError if a host is none, or no write could ever be sent."""
        if concurrent_writes < 1:
            raise ProgrammingError(f"max_concurrent_writes must be at least 1, not {concurrent_writes!r}")
        # Each character of a string would be taken for a host.
        hosts = (base_url_hosts,) if isinstance(base_url_hosts, str) else base_url_hosts
        return cls(ca_file, timeout, response_bytes, frozenset(map(checked_authority, hosts)), concurrent_writes)


@dataclass(frozen=True)
class Client:
    """A server and the state that all connections to it share."""

    server: Server
    credentials: Credentials
    limits: Limits
    connect_timeout: float = 10.0
    replication: ReplicationState = field(default_factory=ReplicationState, compare=False)
    writes: WriteLimiter = field(default_factory=WriteLimiter, compare=False)

    @classmethod
    def of(cls, server: Server, credentials: Credentials, limits: Limits) -> Client:
        """Return the client of a server: the same one for the same options."""
        # setdefault() is atomic: two threads that open connections at once get one client.
        new = cls(server, credentials, limits, writes=WriteLimiter(limits.concurrent_writes))
        client: Client = server.clients.setdefault((credentials, limits), new)
        return client

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The TLS context: certificates are verified by `ca_file` or the system's authorities; TLS 1.2 at least."""
        import ssl  # not needed for a server on this machine

        try:
            context = ssl.create_default_context(cafile=self.limits.ca_file)
        except (OSError, ssl.SSLError) as error:
            problem = f"the CA file {self.limits.ca_file!r} is not a PEM file of certificates: {error}"
            raise OperationalError(problem, "BAD_CA") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The transport speaks HTTP/1.1 only.
        context.set_alpn_protocols(["http/1.1"])
        return context

    def redirect_target(self, url: object) -> tuple[Origin, str]:
        """Return the origin and the path for the rest of a stream (spec: "base_url").

        The requests carry the token. So only the server's own scheme, host and port are accepted, and hosts that the
        caller trusts; a redirect never turns TLS off.

        Args:
            url: `base_url` of a response; None or "" for the server's own address.

        Raises:
            InternalError: it is not the URL of a server.
            OperationalError: the address is not trusted.
        """
        origin, path = self.server.origin, self.server.path
        if url is None or url == "":
            return origin, path
        target, below = _base_url(url)
        if origin.tls and not target.tls:
            raise OperationalError("the server redirects the stream to an address without TLS: refused", INSECURE)
        if target != origin and not self._is_trusted(target):
            refused = f"the server redirects to {target.address}: refused, the token is for {origin.address} alone"
            raise OperationalError(f"{refused} (setting: base_url_hosts)", INSECURE)
        return target, below or path

    def _is_trusted(self, target: Origin) -> bool:
        hosts = self.limits.base_url_hosts
        return target.address in hosts or (target.host in hosts and target.port == self.server.origin.port)


def tls_failure_reason(error: ssl.SSLError) -> str:
    """Return why there is no TLS connection, and the remedy."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        why, advice = error.verify_message, _ADVICE.get(error.verify_code, "the server needs another certificate")
        return f"{why}: {advice}"
    return f"{error.reason or error}: the server does not offer TLS 1.2 or later on this port"


_TRUST = "if it is to be trusted, name the file of its authority (setting: tls_ca_file; of the driver: ca_file)"
_ADVICE = {  # by OpenSSL's X509_V_ERR_*
    10: "the server's certificate has to be renewed",
    18: _TRUST,
    19: _TRUST,
    20: _TRUST,
    21: _TRUST,
    62: "the certificate is another host's: check the URL",
    64: "the certificate is another address's: check the URL",
}


def _base_url(url: object) -> tuple[Origin, str]:
    """Return the origin and the path of a server's base_url."""
    try:
        if isinstance(url, str) and len(url) <= _URL_LENGTH and PATH.fullmatch(path := urlsplit(url).path):
            return Origin.parse(url), path.rstrip("/")
    except ProgrammingError as error:
        if error.code == INSECURE:
            raise
    except ValueError:  # of urlsplit
        pass
    raise InternalError("the server's base_url is no URL of a server", "PROTOCOL")
