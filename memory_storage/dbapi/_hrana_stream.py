"""A Hrana stream: requests with batons, when to send one again, and how to classify a missing response.

A stream is what the server calls a connection. A baton is valid for one request, and its response has the next one. So
the server executes a request with a baton at most once, however often it is sent.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from ._address import Origin
from ._client import Client
from ._errors import DataError, Error, InternalError, OperationalError, OutcomeUnknownError
from ._hrana_messages import CLOSE, GET_AUTOCOMMIT, Json, transaction_lost, truncate
from ._http import Channel, Deadline, RequestNotSent, ResponseMissing, ServerResponse
from ._json import MALFORMED_RESPONSE, expect, parse_json, unsigned

_log = logging.getLogger(__name__)

_WAIT_FOR_REPLICA = 2.0  # seconds
_JUST_USED = 0.1  # seconds since the last request
_ASSUMED_LIFETIME = 5.0  # seconds without a request; the server expires a stream after ten
_CLOSE_TIMEOUT = 2.0  # seconds for the request that closes a stream
_BATON_LENGTH = 10_000  # characters; sqld's have about fifty
_EXPIRED_MARKERS = ("STREAM_EXPIRED", "baton", "Stream for this")  # in the server's error for an unknown stream
_TOO_LARGE = "RESPONSE_TOO_LARGE"
_BY_STATUS = {403: "FORBIDDEN", 404: "NO_SUCH_DATABASE", 429: "SERVER_BUSY"}


@dataclass(frozen=True)
class RequestEffect:
    """The effect of a request: whether it may be sent twice, and whether a missing response matters."""

    reads_only: bool
    commits: bool

    @property
    def may_store(self) -> bool:
        """Whether it may commit changes."""
        return self.commits and not self.reads_only


def malformed_response(error: Exception, effect: RequestEffect) -> Error:
    """Return the error for a response that violates the protocol."""
    why = f"the server's response violates the protocol ({type(error).__name__})"
    return _outcome_unknown(why) if effect.may_store else InternalError(why, "PROTOCOL")


_NO_EFFECT = RequestEffect(reads_only=True, commits=False)


class _StreamState(NamedTuple):
    baton: str
    origin: Origin  # the server may redirect the rest of a stream (spec: "base_url")
    path: str
    in_transaction: bool


class Stream:
    """At most one stream at the server at a time. The first request opens it, and `CLOSE` closes it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._channel = Channel(client)
        self._state: _StreamState | None = None
        self.deadline: float | None = None
        """When requests have to end (of `time.monotonic`), if that is before their own timeout."""
        self._used_at = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether the server has an open stream for this connection."""
        return self._state is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open in the stream, as of the last response."""
        return self._state is not None and self._state.in_transaction

    def was_just_used(self) -> bool:
        """Return whether the stream was just used, and is worth keeping open. Forgets one that may have expired."""
        if self._may_have_expired():
            self._state = None
        return time.monotonic() - self._used_at < _JUST_USED

    def expires_soon(self) -> bool:
        """Return whether a transaction is open that the server may soon end, since it had no request for long."""
        return self.in_transaction and time.monotonic() - self._used_at > _ASSUMED_LIFETIME

    def _may_have_expired(self) -> bool:
        return not self.in_transaction and time.monotonic() - self._used_at > _ASSUMED_LIFETIME

    def exchange(self, batch: Json, after: Json, effect: RequestEffect) -> Json:
        """Send a batch and one more request, and return the batch's outcome (spec: "StreamResult").

        Args:
            batch: The batch.
            after: The request that follows it: CLOSE or GET_AUTOCOMMIT.
            effect: The effect of the batch.

        Raises:
            StreamExpired: the stream that was kept open is gone; nothing was executed.
        """
        return self._send([{"type": "batch", "batch": batch}, after], effect)[0]

    def read_large(self, batch: Json) -> Json:
        """Run a reading batch whose result is too large for one response, and return its result."""
        deadline = self.new_deadline()
        state, self._state = self._state, None
        body = _dump({"baton": state and state.baton, "batch": batch})
        origin, path = self._endpoint(state)
        with self._channel.lines(origin, f"{path}/v3/cursor", body, deadline) as (status, lines):
            if status == 404:  # the server has the database, as the request before showed, but no cursors
                self._state = state
                raise DataError(
                    "the result is too large for one response, and the server offers no cursors under this URL: read "
                    "fewer rows at a time",
                    _TOO_LARGE,
                )
            if status != 200:
                raise self._error_from_body(ServerResponse(status, b"".join(lines)))
            first = expect(parse_json(next(lines, b"")), dict)
            result = _collect(map(parse_json, lines), len(batch["steps"]))
        self._state = self._next_state(first, in_transaction=state is not None and state.in_transaction)
        if self.in_transaction:
            self._send([GET_AUTOCOMMIT], _NO_EFFECT)
        else:
            self.abandon()
        return result

    def abandon(self) -> None:
        """Close the stream, which rolls its transaction back. An unreachable server does so when the stream expires."""
        if self._may_have_expired():
            self._state = None
        if self._state is not None:
            limit, self.deadline = self.deadline, time.monotonic() + _CLOSE_TIMEOUT
            try:
                self._send([CLOSE], _NO_EFFECT)
            except (Error, *MALFORMED_RESPONSE) as error:
                _log.info("cannot close a stream; the server will expire it: %s", error)
            finally:
                self._state, self.deadline = None, limit

    def disconnect(self) -> None:
        """Close the connection without a request to the server."""
        self._channel.close()
        self._state = None

    def _send(self, requests: list[Json], effect: RequestEffect) -> list[Json]:
        state, self._state = self._state, None  # the baton is used up; the response has the next one
        response = self._send_waiting_for_replica(state, requests, effect)
        if response.status != 200:
            raise self._status_error(response, state, effect)
        reply = expect(parse_json(response.body), dict)
        in_transaction = False
        for result in reply["results"]:
            answer = result.get("response") or {}
            in_transaction = not answer.get("is_autocommit", True) or in_transaction
            if answer.get("type") == "batch" and not effect.reads_only:
                self._update_replication(answer["result"])
        self._state = self._next_state(reply, in_transaction=in_transaction)
        self._used_at = time.monotonic()
        results: list[Json] = reply["results"]
        return results

    def _update_replication(self, result: Json) -> None:
        replication = self._client.replication
        for step in result["step_results"]:
            if step and step.get("affected_row_count"):
                replication.is_primary = bool(
                    step.get("rows_written")
                )  # a replica forwards writes, and counts none itself
        replication.advance(result.get("replication_index"))

    def _send_waiting_for_replica(
        self, state: _StreamState | None, requests: list[Json], effect: RequestEffect
    ) -> ServerResponse:
        index = self._client.replication.index
        if not (state and state.in_transaction) and effect.reads_only and index and requests[0]["type"] == "batch":
            batch = {**requests[0]["batch"], "replication_index": index}
            waiting = [{**requests[0], "batch": batch}, *requests[1:]]
            try:
                # A primary does not wait for the index; but another server may take over the address.
                limit = math.inf if self._client.replication.is_primary else _WAIT_FOR_REPLICA
                return self._send_with_retry(state, waiting, effect, self.new_deadline(limit))
            except (RequestNotSent, ResponseMissing) as error:
                if error.code == "REQUEST_TIMEOUT":
                    self._client.replication.reset()
                if error.code != "REQUEST_TIMEOUT" or limit == math.inf:
                    raise
                state = None  # the old stream still waits for the index
        return self._send_with_retry(state, requests, effect, self.new_deadline())

    def _send_with_retry(
        self, state: _StreamState | None, requests: list[Json], effect: RequestEffect, deadline: Deadline
    ) -> ServerResponse:
        """Return the response to a request. Sends it again where it cannot take effect twice."""
        body = _dump({"baton": state and state.baton, "requests": requests})
        try:
            return self._send_once(state, body, deadline)
        except ResponseMissing as error:
            # Only a reused connection may have been closed by the server while idle. After a failure on a new one
            # the server is likely to be down, and the caller's retry policy decides.
            if error.code != "CONNECTION_LOST" or not (state or effect.reads_only) or not self._channel.was_reused:
                raise self._missing_response_error(error, effect) from error
        return self._resend(state, body, deadline, effect)

    def _send_once(self, state: _StreamState | None, body: bytes, deadline: Deadline) -> ServerResponse:
        """Send a request, over a new connection if the reused one was cut before it was sent.

        Raises:
            ResponseMissing: the request was sent, and may have been executed.
            OperationalError: the request was not sent; the stream is unchanged.
        """
        try:
            try:
                return self._post_authorized(state, body, deadline)
            except RequestNotSent as error:
                if error.code != "CONNECTION_FAILED" or not self._channel.was_reused:
                    raise
            return self._post_authorized(state, body, deadline)
        except ResponseMissing:
            raise
        except OperationalError:  # the request was not sent, so the baton is still valid
            self._state = state
            raise

    def _resend(
        self, state: _StreamState | None, body: bytes, deadline: Deadline, effect: RequestEffect
    ) -> ServerResponse:
        try:
            response = self._post_authorized(state, body, deadline)
        except OperationalError as error:
            raise self._missing_response_error(error, effect) from error
        if response.status != 200 and state and effect.may_store:  # this error is of the second time alone
            raise _outcome_unknown("the connection broke, and the server does not repeat its response")
        return response

    def _post_authorized(self, state: _StreamState | None, body: bytes, deadline: Deadline) -> ServerResponse:
        origin, path = self._endpoint(state)
        credentials = self._client.credentials
        generation = credentials.ensure_token()
        response = self._channel.post(origin, f"{path}/v3/pipeline", body, deadline)
        if response.status == 401 and credentials.refresh(generation):  # with 401 the server has executed nothing
            response = self._channel.post(origin, f"{path}/v3/pipeline", body, deadline)
        return response

    def _status_error(self, response: ServerResponse, state: _StreamState | None, effect: RequestEffect) -> Error:
        """Return the error for a status. Any but 401 ends the stream and its transaction."""
        refusal = self._error_from_body(response)
        if response.status == 401:
            self._state = state
        elif response.status == 400 and state and any(word in str(refusal) + refusal.code for word in _EXPIRED_MARKERS):
            return transaction_lost() if state.in_transaction else StreamExpired(str(refusal))
        elif response.status >= 500 and effect.may_store:
            return _outcome_unknown(str(refusal))
        return refusal

    def _missing_response_error(self, error: OperationalError, effect: RequestEffect) -> Error:
        return _outcome_unknown(str(error), error.code) if effect.may_store else error

    def _error_from_body(self, response: ServerResponse) -> Error:
        text, code = _error_text_and_code(self._client.credentials.redact(response.body))
        text = f"{self._client.server.origin.host}: {text}"
        if response.status == 401:
            return OperationalError(text, "TOKEN_EXPIRED" if "expired" in text else "UNAUTHORIZED")
        if response.status in _BY_STATUS:
            return OperationalError(text, _BY_STATUS[response.status])
        if response.status < 500:
            return InternalError(f"{text} (HTTP status {response.status})", code or "PROTOCOL")
        return OperationalError(f"{text} (HTTP status {response.status})", "SERVER_ERROR")

    def new_deadline(self, seconds: float = math.inf) -> Deadline:
        """Return a deadline: at most `seconds`, the timeout of requests, and what is left until `deadline`."""
        left = math.inf if self.deadline is None else self.deadline - time.monotonic()
        return Deadline(min(seconds, self._client.limits.timeout, left))

    def _endpoint(self, state: _StreamState | None) -> tuple[Origin, str]:
        server = self._client.server
        return (state.origin, state.path) if state else (server.origin, server.path)

    def _next_state(self, reply: Json, *, in_transaction: bool) -> _StreamState | None:
        baton = reply.get("baton")
        if baton is None:
            return None
        try:
            baton = _checked_baton(baton)
            origin, path = self._client.redirect_target(reply.get("base_url"))
        except Error:
            if in_transaction:
                self._roll_back(baton)
                raise
            return None  # the request was executed, and no transaction needs the stream
        return _StreamState(baton, origin, path, in_transaction)

    def _roll_back(self, baton: object) -> None:
        """Close a stream whose redirect is refused: until it expires, its transaction would hold the write lock."""
        with suppress(InternalError):
            self._state = _StreamState(_checked_baton(baton), *self._endpoint(None), in_transaction=True)
            self._used_at = time.monotonic()
            self.abandon()


class StreamExpired(OperationalError):  # noqa: N818 - for the transport alone
    """The server has expired the stream, in which no transaction was open: nothing was executed, or lost."""


def _checked_baton(baton: object) -> str:
    """Return the baton. InternalError unless it is a string that can be sent in the next request."""
    if not isinstance(baton, str) or len(baton) > _BATON_LENGTH:
        raise InternalError(f"the server's baton is not a string of at most {_BATON_LENGTH:,} characters", "PROTOCOL")
    return baton


def _outcome_unknown(why: str, code: str = "") -> OutcomeUnknownError:
    return OutcomeUnknownError(f"it may be stored, or not: {why}", code or "COMMIT_UNKNOWN")


def _error_text_and_code(body: bytes) -> tuple[str, str]:
    """Return the message and the code of an error response: JSON of one of two shapes, or plain text."""
    text = body.decode("utf-8", "replace")
    try:
        found = parse_json(body)
        text, code = str(found.get("message") or found["error"]), str(found.get("code") or "")[:100]
    except MALFORMED_RESPONSE:
        code = ""
    return truncate(text, 500), code


def _collect(entries: Iterator[Json], steps: int) -> Json:
    """Return a batch's result from the entries of a cursor (spec: "Cursor"). OperationalError if they are truncated."""
    results: list[Json | None] = [None] * steps
    errors: list[Json | None] = [None] * steps
    current: Json = {}
    for entry in entries:
        match entry["type"]:
            case "step_begin":
                current = results[_step_index(entry, steps)] = {
                    "cols": entry["cols"],
                    "rows": [],
                    "affected_row_count": 0,
                }
            case "row":
                current["rows"].append(entry["row"])
            case "step_end":
                current.update(entry, rows=current["rows"])
            case "step_error":
                errors[_step_index(entry, steps)] = entry["error"]
            case "error":
                error = entry["error"]
                raise OperationalError(truncate(str(error.get("message"))), str(error.get("code") or "")[:100])
            case "replication_index":
                return {"step_results": results, "step_errors": errors}
    raise OperationalError("the response was truncated", "CONNECTION_LOST")


def _step_index(entry: Json, steps: int) -> int:
    place = unsigned(entry["step"])
    if place >= steps:
        raise ValueError("the result of a step that was not sent")
    return place


def _dump(message: Json) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
