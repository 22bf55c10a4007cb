"""Parses and checks the URLs of servers: encrypted, or on this machine."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

from ._errors import ProgrammingError
from ._resolver import is_ip_address

INSECURE = "INSECURE"

T = TypeVar("T")

_SCHEMES = {"libsql": True, "https": True, "wss": True, "http": False, "ws": False}
_SHAPE = "a server's URL is libsql://host[:port]"
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")  # RFC 1123
_AUTHORITY = re.compile(r"(\[[\da-f:.]+\]|[^][@:]+)(:\d*)?", re.ASCII | re.IGNORECASE)
PATH = re.compile(r"[\w.~%/-]*", re.ASCII)
LOCAL_URL = "libsql:///"  # followed by the path of a file


def redacted(url: T) -> T | str:
    """Return a URL with `***` for what may be a secret: a user, a password, unknown options.

    A URL that would be refused still is. Any other value is returned unchanged.
    """
    if not isinstance(url, str) or "://" not in url or url.startswith(LOCAL_URL):
        return url
    scheme, _, rest = url.partition("://")
    _, user, address = rest.rpartition("@")
    address, mark, options = address.partition("?")
    address, fragment, _ = address.partition("#")
    shown = options if options in {"", "tls=0", "tls=1"} else "***"
    return f"{scheme}://{user and '***@'}{address}{fragment}{mark}{shown}"


@dataclass(frozen=True)
class Origin:
    """A host, a port, and whether connections use TLS."""

    host: str
    port: int
    tls: bool = True

    def __post_init__(self) -> None:
        if not self.tls and not self.is_local:
            raise ProgrammingError(
                f"{self.host}: a connection without TLS is only for this machine (localhost, 127.0.0.1 or ::1)",
                INSECURE,
            )

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine, so that nothing passes a network."""
        if self.host == "localhost":
            return True
        return is_ip_address(self.host) and ipaddress.ip_address(self.host).is_loopback

    @property
    def address(self) -> str:
        """Host and port, as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def tls_name(self) -> str:
        """The host name in the server's certificate, which lacks the final dot of the DNS."""
        return self.host.rstrip(".")

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Return the origin of a URL. ProgrammingError if it is not a server's URL, or not encrypted."""
        parts = _split(url)
        if parts is None or parts.scheme not in _SCHEMES:
            raise ProgrammingError(_SHAPE, "BAD_URL")
        tls = _SCHEMES[parts.scheme]
        return cls(_checked_host(parts.hostname), _checked_port(parts.port, 443 if tls else 80), tls)


@dataclass(frozen=True)
class Server:
    """The address of a server: its origin, and the path of its API."""

    origin: Origin
    path: str = ""
    clients: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The clients of this server by their options; `Client.of` fills it."""

    @classmethod
    def parse(cls, url: str) -> Server:
        """Parse `libsql://host[:port][/path]` or an https URL. `?tls=0` is allowed for a server on this machine only.

        Raises:
            ProgrammingError: it is neither. Neither the message nor a frame has what may be a secret in the URL.
        """
        url = redacted(url)  # before anything can fail: a traceback may show this frame
        scheme = url.partition("://")[0].lower()
        if scheme not in _SCHEMES:
            raise ProgrammingError(f"the scheme {scheme[:20]!r} is unknown: use a path or libsql://", "BAD_URL")
        if not _SCHEMES[scheme]:
            raise ProgrammingError(_plain_advice(scheme, url), INSECURE)
        if "@" in url:
            raise ProgrammingError("a URL with a user or password in it is refused: pass auth_token", "BAD_URL")
        parts = _split(url)
        if parts is None:
            raise ProgrammingError(_SHAPE, "BAD_URL")
        return cls.at(parts.hostname, parts.port, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)))

    @classmethod
    def at(cls, host: str | None, port: int | None, path: str, options: dict[str, str]) -> Server:
        """Return the server for the parts of a URL. Raises as `parse`."""
        if set(options) - {"tls"}:  # the message does not name the option: it may be the token
            raise ProgrammingError("a server's URL has no option but tls; a token is passed as auth_token", "BAD_URL")
        tls = options.get("tls", "1")
        if tls not in {"0", "1"}:
            raise ProgrammingError("tls in the URL is 1, or 0 for a server on this machine", "BAD_URL")
        path = path.strip("/")
        if not PATH.fullmatch(path):
            raise ProgrammingError("the path in the URL has characters that no such path has", "BAD_URL")
        port = _checked_port(port, 443 if tls == "1" else 8080)
        return cls(Origin(_checked_host(host), port, tls == "1"), f"/{path}" if path else "")

    def __str__(self) -> str:
        return f"libsql://{self.origin.address}{self.path}{'' if self.origin.tls else '?tls=0'}"


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL, or None if it is invalid. The standard library's errors would quote the URL."""
    if not url.isprintable() or " " in url or "#" in url or "\\" in url:  # urlsplit drops some of these
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed on access
    except ValueError:
        return None
    return parts if _AUTHORITY.fullmatch(parts.netloc) else None


def checked_authority(text: object) -> str:
    """Return a normalized `host` or `host:port`. ProgrammingError if it is neither."""
    parts = _split(f"//{text}") if isinstance(text, str) else None
    if parts is None or parts.path or parts.query or parts.netloc != text:
        raise ProgrammingError(f"{text!r}: must be host or host:port", "BAD_URL")
    host = _checked_host(parts.hostname)
    shown = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{shown}:{_checked_port(parts.port, 0)}"


def _plain_advice(scheme: str, url: str) -> str:
    """Return the message for a URL without TLS: with the remedy, which on this machine is `?tls=0`."""
    parts = _split(url)
    host, port = (parts.hostname or "", parts.port) if parts is not None else ("", None)
    shown = f"[{host}]" if ":" in host else host
    shown += f":{port}" if port is not None else ""
    if not (host == "localhost" or (is_ip_address(host) and ipaddress.ip_address(host).is_loopback)):
        return f"{scheme}:// is not encrypted: use libsql://"
    path = parts.path.rstrip("/") if parts is not None else ""
    return f"{scheme}:// is not encrypted: use libsql://{shown}{path}?tls=0, which is for this machine only"


def _checked_host(host: str | None) -> str:
    host = (host or "").lower()
    if not (_NAME.fullmatch(host) or is_ip_address(host)):
        raise ProgrammingError(f"{_SHAPE}, and the host a name in ASCII, or an address", "BAD_URL")
    return host


def _checked_port(port: int | None, default: int) -> int:
    if port is not None and not 0 < port < 65_536:
        raise ProgrammingError("the port in the URL is not a number from 1 to 65535", "BAD_URL")
    return default if port is None else port
