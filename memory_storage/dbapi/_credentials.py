"""The token of a server: where it comes from, and when it is over. It is shown to nobody.

Whether a token has expired is looked at before each request. This machine's clock may be wrong, and the server's alone
decides; so the clock is read once, when a token is new, and its time is counted from there by the monotonic clock: to
set this machine's clock while a token is in use neither ends nor prolongs it.

A traceback may show the locals of its frames, so here no frame that raises has a local that holds a token.
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
    """This machine's clock."""
    return datetime.now(timezone.utc)


class Secret(Protocol):
    """A text that does not show itself, like pydantic's SecretStr."""

    def get_secret_value(self) -> str: ...


TokenProvider = Callable[[], str | Secret]
Token = str | Secret | TokenProvider


class Credentials:
    """The token that is in force. A provider is asked for the first one, and again when the server refuses that."""

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
        self._inspected_token: str | None = None  # the token whose end is known
        self._expires_at = math.inf  # of the monotonic clock
        self._refresh_lock = ForkSafeLock()

    @classmethod
    def of(cls, token: Token | Credentials | None) -> Credentials:
        """These credentials, or those that a token or a provider makes."""
        return token if isinstance(token, Credentials) else cls(token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def check(self) -> None:
        """OperationalError if there is a token that cannot work: malformed, or over. Asks nobody."""
        if self._token is not None and self._is_expired():
            over, now = expires_at(self._token), self._now().isoformat(timespec="seconds")
            expired = f"by this machine's clock ({now}) the auth token expired at {over and over.isoformat()}"
            raise OperationalError(expired, "TOKEN_EXPIRED")

    def ensure_token(self) -> int:
        """See that there is a token that may work, and say which generation. Raises as `check`.

        Asks a provider for another token in place of an expired one.
        """
        if self._token is None or (self._provider is not None and self._is_expired()):
            self.refresh(self.generation)
        else:
            self.check()
        return self.generation

    def _is_expired(self) -> bool:
        """Whether the token in force is over. OperationalError if it is malformed."""
        if self._inspected_token is not self._token:
            self._read_expiry()
        return self._clock() >= self._expires_at

    def _read_expiry(self) -> None:
        if self._token is None or not is_well_formed(self._token):
            raise OperationalError("the auth token is malformed: it has characters that no token has", "BAD_TOKEN")
        over = expires_at(self._token)
        self._expires_at = math.inf if over is None else self._clock() + (over - self._now()).total_seconds()
        self._inspected_token = self._token

    def header(self) -> dict[str, str]:
        """What goes with a request. Do not bind it to a name."""
        self.ensure_token()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def redact(self, body: bytes) -> bytes:
        """What came from outside, without the token."""
        return body.replace(self._secret.encode(), b"***") if self._secret else body

    def redact_error(self, error: Exception) -> None:
        """Take the token out of an error's text: a server may repeat what it was sent."""
        if self._secret and error.args and isinstance(error.args[0], str):
            error.args = (error.args[0].replace(self._secret, "***"), *error.args[1:])

    @property
    def _secret(self) -> str:
        """The token; "" if it is so short that it is a part of other words, which would be cut. Do not bind it."""
        return self._token if self._token and len(self._token) >= _SHORTEST_SECRET else ""

    @property
    def generation(self) -> int:
        """Stands for the token in force."""
        return hash(self._token)

    def refresh(self, rejected_generation: int) -> bool:
        """Get another token than the `refused` generation, unless another thread just has. Whether there is one.

        Raises OperationalError where the provider has none that can work; it is asked again by the next request.
        """
        if self._provider is None:
            return False
        with self._refresh_lock:  # whoever needs the new token has to wait for it
            if rejected_generation == self.generation:
                self._token = self._token_from_provider()
                self._read_expiry()
        return rejected_generation != self.generation

    def _token_from_provider(self) -> str:
        fresh = Credentials(
            self._call_provider(), now=self._now, clock=self._clock
        )  # it shows nothing, so that it may be a local
        if fresh._token is None:
            raise OperationalError("the token provider gave no token", "BAD_TOKEN")
        fresh.check()
        return fresh._token

    def _call_provider(self) -> str | Secret | None:
        try:
            token = self._provider and self._provider()
        except Exception as error:
            forget_frames(error)
            raise OperationalError(f"the token provider failed: {type(error).__name__}", "BAD_TOKEN") from error
        return None if callable(token) else token


class ForkSafeLock:
    """A lock, which is free again in a child process: the thread that had it is not there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        register_after_fork(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Free it."""
        self._lock = threading.Lock()


def is_well_formed(token: object) -> bool:
    """Whether it has only characters that a token may have."""
    return isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token


def expires_at(token: str) -> datetime | None:
    """When a JSON Web Token is over (RFC 7519, "exp"); None where it does not say, or is another kind of token."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return datetime.fromtimestamp(claims["exp"], timezone.utc)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, OSError, RecursionError):
        return None


def _plain_text(token: str | Secret | None) -> str | None:
    return token if token is None or not hasattr(token, "get_secret_value") else token.get_secret_value()
