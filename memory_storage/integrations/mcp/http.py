"""HTTP: the server as an ASGI application behind a bearer token, and the process that serves it on loopback."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import SecretStr

from memory_storage.environment import MCP_TOKEN
from memory_storage.errors import ConfigurationError, CredentialError, InsecureConnectionError

MAX_REQUEST_BYTES = 4 * 2**20
"""The most bytes of a request, and of a line over stdio."""

PATH = "/mcp"

_MIN_TOKEN = 16
_TOKEN = re.compile(r"[\x21-\x7e]+")
_GRACE_SECONDS = 5
_MAX_CONNECTIONS = 200  # above it, uvicorn answers 503
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class HttpOptions:
    """Where the server listens.

    Args:
        host: The address. Only loopback without a certificate.
        port: The port; 0 lets the system choose one.
        allowed_hosts: Names by which clients may call the server, next to those of loopback: the `Host` header.
        certificate: A file with the certificate chain in PEM, for TLS.
        key: The file with its private key.

    Raises:
        InsecureConnectionError: The address is not loopback, and there is no certificate.
        ConfigurationError: A certificate without its key, or a port that is none.
    """

    host: str = "127.0.0.1"
    port: int = 8745
    allowed_hosts: Sequence[str] = ()
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ConfigurationError(f"port: 0 to {2**16 - 1:,}; got {self.port}")
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError("TLS needs a certificate and its key: give both")
        if self.certificate is None and not _is_loopback(self.host):
            raise InsecureConnectionError(
                f"host: {self.host} is not loopback, and the token would travel unencrypted; nothing was opened; "
                "give a certificate and its key, or listen on 127.0.0.1 behind a proxy with TLS"
            )

    @property
    def scheme(self) -> str:
        """The scheme of the server's URL."""
        return "https" if self.certificate else "http"


def read_token(path: Path | None = None) -> SecretStr | None:
    """Return the token that clients have to send, or None if neither a file nor the environment has one.

    Args:
        path: A file that has it; by default the environment variable MEMORY_STORAGE_MCP_TOKEN.

    Returns:
        The token.

    Raises:
        ConfigurationError: The file cannot be read.
        CredentialError: The token is too short, or has characters that no header can carry.
    """
    if path is None:
        text = os.environ.get(MCP_TOKEN, "")
        return check_token(SecretStr(text), MCP_TOKEN) if text else None
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise ConfigurationError(f"the token file {path} cannot be read: {error.strerror or error}") from error
    return check_token(SecretStr(text), str(path))


def check_token(token: SecretStr, source: str = "token") -> SecretStr:
    """Return a token that is long enough, and that a header can carry.

    Args:
        token: The token.
        source: Where it is from, for the message.

    Returns:
        The token.

    Raises:
        CredentialError: It is shorter than 16 characters, or has others than printable ASCII without spaces.
    """
    text = token.get_secret_value()
    if len(text) < _MIN_TOKEN or not _TOKEN.fullmatch(text):
        raise CredentialError(
            f"{source}: a token has at least {_MIN_TOKEN} characters, of printable ASCII without spaces; "
            'make one: python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return token


def make_http_app(
    server: MCPServer[Any], token: SecretStr, *, allowed_hosts: Sequence[str] = _LOOPBACK_NAMES
) -> Application:
    """Return the ASGI application of a server; it answers 401 to each request without the token.

    Args:
        server: The server, of `make_server`.
        token: What clients send as `Authorization: Bearer ...`.
        allowed_hosts: The names in `Host` headers that are answered, and of origins of web pages, with any port. Others
            are refused, so that no page in a browser reaches the server by a name that it rebinds to loopback.

    Returns:
        The application; the path is `/mcp`. It keeps no state between requests.
    """
    check_token(token)
    hosts = [pattern for host in allowed_hosts for pattern in (host, f"{host}:*")]
    origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=True,
        stateless_http=True,
        max_request_body_size=MAX_REQUEST_BYTES,
        transport_security=TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins),
    )
    return _Guard(app, token)


class _Guard:
    """ASGI middleware that answers 401, or 405, before anything of a request's body is read."""

    def __init__(self, app: Application, token: SecretStr) -> None:
        self._app = app
        self._digest = sha256(token.get_secret_value().encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_authorized(scope):
            advice = "send the header Authorization: Bearer TOKEN, with the token that the server was started with"
            await _refuse(send, 401, "invalid_token", advice, (b"www-authenticate", b'Bearer realm="memory-storage"'))
        elif scope["type"] == "http" and scope["method"] != "POST":
            # Without sessions there is nothing to listen to: a GET would hold a connection for no message.
            await _refuse(send, 405, "method_not_allowed", "send messages by POST", (b"allow", b"POST"))
        elif scope["type"] in ("http", "lifespan"):
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_authorized(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            return False
        scheme, _, token = values[0].partition(b" ")
        # Digests have one length: the time of the comparison says nothing of the token, nor of its length.
        is_same = hmac.compare_digest(sha256(token.strip()).digest(), self._digest)
        return bool(scheme.lower() == b"bearer") and is_same


async def _refuse(send: Send, status: int, error: str, advice: str, header: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error": error, "error_description": advice}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), header]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def run_http(
    server: MCPServer[Any],
    token: SecretStr,
    options: HttpOptions = HttpOptions(),
    *,
    on_ready: Callable[[str], object] = lambda _: None,
) -> None:
    """Serve over HTTP until SIGTERM or Ctrl-C. Requests in progress are answered first.

    Args:
        server: The server, of `make_server`.
        token: What clients send as `Authorization: Bearer ...`.
        options: Where it listens.
        on_ready: Called with the URL when connections are accepted.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
        ConfigurationError: The address is in use or is none of this machine, or the certificate cannot be read.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    hosts = [*_LOOPBACK_NAMES, *options.allowed_hosts]
    config = uvicorn.Config(
        make_http_app(server, token, allowed_hosts=hosts),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
    )
    # With the protocol, asyncio sets TCP_NODELAY: without, an answer waits 40 ms for the client's acknowledgement.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        try:
            if os.name == "posix":  # on Windows it would let another process take the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((options.host, options.port))
            listener.listen(128)
            config.load()
        except OSError as error:
            raise ConfigurationError(f"{options.host}:{options.port}: {error.strerror or error}") from error
        host = f"[{options.host}]" if family == socket.AF_INET6 else options.host
        url = f"{options.scheme}://{host}:{listener.getsockname()[1]}{PATH}"
        with _sigterm_ignored():
            asyncio.run(_serve(uvicorn.Server(config), listener, lambda: on_ready(url)))


@contextmanager
def _sigterm_ignored() -> Iterator[None]:
    """Ignore SIGTERM outside of uvicorn's own handling.

    It sends itself each signal again when it has shut down: SIGTERM would end the process before the caller closes the
    storage.
    """
    if threading.current_thread() is not threading.main_thread():  # which has no signals; nor has uvicorn there
        yield
        return
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


async def _serve(server: uvicorn.Server, listener: socket.socket, on_ready: Callable[[], object]) -> None:
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        on_ready()
    await serving
