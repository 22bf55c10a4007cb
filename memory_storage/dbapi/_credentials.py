"""The token of a server: its source, its expiry, and its redaction from logs and errors.

Expiry is checked before each request. This machine's clock may be wrong, and only the server's clock decides. So the
clock is read once, when a token is new, and its lifetime is measured by the monotonic clock: setting this machine's
clock while a token is in use neither ends nor extends it.

A traceback may show the locals of its frames, so no frame that raises has a local that holds a token.
"""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Protocol

from ._errors import OperationalError, forget_frames
from ._fork import register_after_fork

_SHORTEST_SECRET = 4  # characters


def utc_now() -> datetime:
    """Return the time by this machine's clock."""
    return datetime.now(timezone.utc)


class Secret(Protocol):
    """A string that its repr does not show, like pydantic's SecretStr."""

    def get_secret_value(self) -> str:
        """Return the string."""
        ...


TokenProvider = Callable[[], str | Secret]
Token = str | Secret | TokenProvider


class Credentials:
    """The current token. A provider is called for the first one, and again when the server rejects it."""

    def __init__(
        self,
        token: Token | None = None,
        *,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = token if callable(token) else None
        self._token = None if callable(token) else _plain_text(token) or None
        self._key = id(token) if callable(token) else self._token  # not every provider has a hash
        self._now, self._clock = now, clock
        self._inspected_token: str | None = None  # the token whose expiry is known
        self._expires_at = math.inf  # of the monotonic clock
        self._refresh_lock = ForkSafeLock()

    @classmethod
    def of(cls, token: Token | Credentials | None) -> Credentials:
        """Return credentials for a token or a provider; credentials are returned unchanged."""
        return token if isinstance(token, Credentials) else cls(token)

    # Each connection of an engine wraps the token again: equal credentials lead all of them to one client.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def check(self) -> None:
        """Raise OperationalError for a malformed or expired token. Calls no provider."""
        if self._token is not None and self._is_expired():
            over, now = expires_at(self._token), self._now().isoformat(timespec="seconds")
            expired = f"by this machine's clock ({now}) the auth token expired at {over and over.isoformat()}"
            raise OperationalError(expired, "TOKEN_EXPIRED")

    def ensure_token(self) -> int:
        """Get a token from the provider unless there is one that has not expired. Raises as `check`.

        Returns:
            The generation of the token, for `refresh`.
        """
        if self._token is None or (self._provider is not None and self._is_expired()):
            self.refresh(self.generation)
        else:
            self.check()
        return self.generation

    def _is_expired(self) -> bool:
        """Return whether the current token has expired. OperationalError if it is malformed."""
        if self._inspected_token is not self._token:
            self._read_expiry()
        return self._clock() >= self._expires_at

    def _read_expiry(self) -> None:
        if self._token is None or not is_well_formed(self._token):
            raise OperationalError(
                "the auth token is malformed: it contains characters that no token may contain", "BAD_TOKEN"
            )
        over = expires_at(self._token)
        self._expires_at = math.inf if over is None else self._clock() + (over - self._now()).total_seconds()
        self._inspected_token = self._token

    def header(self) -> dict[str, str]:
        """Return the header for a request. Do not bind it to a name: a traceback may show that."""
        self.ensure_token()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def redact(self, body: bytes) -> bytes:
        """Return a response body with the token replaced by `***`."""
        return body.replace(self._secret.encode(), b"***") if self._secret else body

    def redact_error(self, error: Exception) -> None:
        """Replace the token in an error's message: a server may echo what it received."""
        if self._secret and error.args and isinstance(error.args[0], str):
            error.args = (error.args[0].replace(self._secret, "***"), *error.args[1:])

    @property
    def _secret(self) -> str:
        """The token; "" if it is so short that it occurs in other words. Do not bind it to a name."""
        return self._token if self._token and len(self._token) >= _SHORTEST_SECRET else ""

    @property
    def generation(self) -> int:
        """Identifies the current token without revealing it."""
        return hash(self._token)

    def refresh(self, rejected_generation: int) -> bool:
        """Get a new token from the provider, unless another thread has done so already.

        Args:
            rejected_generation: The generation of the token that the server rejected.

        Returns:
            Whether there is another token now.

        Raises:
            OperationalError: the provider failed, or returned no valid token. The next request calls it again.
        """
        if self._provider is None:
            return False
        with self._refresh_lock:  # other threads wait for the new token
            if rejected_generation == self.generation:
                self._token = self._token_from_provider()
                self._read_expiry()
        return rejected_generation != self.generation

    def _token_from_provider(self) -> str:
        # The token stays inside of `Credentials`, whose repr does not show it: this frame may be in a traceback.
        fresh = Credentials(
            self._call_provider(), now=self._now, clock=self._clock
        )  # it shows nothing, so that it may be a local
        if fresh._token is None:
            raise OperationalError("the token provider returned no token", "BAD_TOKEN")
        fresh.check()
        return fresh._token

    def _call_provider(self) -> str | Secret | None:
        try:
            token = self._provider and self._provider()
        except Exception as error:
            forget_frames(error)  # its message may contain a token too, so that only its class is named
            raise OperationalError(f"the token provider failed: {type(error).__name__}", "BAD_TOKEN") from error
        return None if callable(token) else token


class ForkSafeLock:
    """A lock that is released in a forked child: its holder is a thread of the parent process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        register_after_fork(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Release the lock."""
        self._lock = threading.Lock()


def is_well_formed(token: object) -> bool:
    """Return whether a token consists of printable ASCII without spaces."""
    return isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token


def expires_at(token: str) -> datetime | None:
    """Return the expiry of a JSON Web Token (RFC 7519, "exp"); None if it has none, or is another kind of token."""
    try:
        payload = token.split(".")[1]  # its base64 lacks the padding
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return datetime.fromtimestamp(claims["exp"], timezone.utc)
    # Whatever the text is, only the server decides whether it is a token.
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, OSError, RecursionError):
        return None


def _plain_text(token: str | Secret | None) -> str | None:
    return token if token is None or not hasattr(token, "get_secret_value") else token.get_secret_value()
