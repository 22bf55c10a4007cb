"""A Hrana stream: requests with batons, and what to believe when an answer is missing. Knows no transactions' insides.

A stream is what the server calls a connection. A baton is good for one request, and its answer has the next one; so a
request that has a baton is done at most once, however often it is sent.
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
_JUST_USED = 0.1  # seconds between two requests
_ASSUMED_LIFETIME = 5.0  # seconds; the server lets a stream expire after ten
_CLOSE_TIMEOUT = 2.0  # seconds to tell the server that a stream is not needed any more
_BATON_LENGTH = 10_000  # characters; sqld's have some fifty
_EXPIRED_MARKERS = ("STREAM_EXPIRED", "baton", "Stream for this")  # what the server says of a stream it does not have
_TOO_LARGE = "RESPONSE_TOO_LARGE"
_BY_STATUS = {403: "FORBIDDEN", 404: "NO_SUCH_DATABASE", 429: "SERVER_BUSY"}


@dataclass(frozen=True)
class RequestEffect:
    """What it would mean to send a request twice, or not to know whether it was done."""

    reads_only: bool
    commits: bool

    @property
    def may_store(self) -> bool:
        """Whether it may leave something behind that was not there."""
        return self.commits and not self.reads_only


def malformed_response(error: Exception, effect: RequestEffect) -> Error:
    """What to raise for an answer that is not of the protocol."""
    why = f"the server's answer is not of the protocol ({type(error).__name__})"
    return _outcome_unknown(why) if effect.may_store else InternalError(why, "PROTOCOL")


_NO_EFFECT = RequestEffect(reads_only=True, commits=False)


class _StreamState(NamedTuple):
    baton: str
    origin: Origin  # the server may ask for the rest of a stream elsewhere (spec: "base_url")
    path: str
    in_transaction: bool


class Stream:
    """At most one stream at the server at a time; it is opened by the first request, and closed by `CLOSE`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._channel = Channel(client)
        self._state: _StreamState | None = None
        self.deadline: float | None = None
        """A moment by which requests have to be over, if that is before their own timeout."""
        self._used_at = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether the server has a stream for us."""
        return self._state is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open in it, as of the last answer."""
        return self._state is not None and self._state.in_transaction

    def was_just_used(self) -> bool:
        """Whether it was just used, so that it is worth to keep it open. One that may have expired is forgotten."""
        if self._may_have_expired():
            self._state = None
        return time.monotonic() - self._used_at < _JUST_USED

    def expires_soon(self) -> bool:
        """Whether a transaction is open in it, and had no request for so long that the server may soon end it."""
        return self.in_transaction and time.monotonic() - self._used_at > _ASSUMED_LIFETIME

    def _may_have_expired(self) -> bool:
        return not self.in_transaction and time.monotonic() - self._used_at > _ASSUMED_LIFETIME

    def exchange(self, batch: Json, after: Json, effect: RequestEffect) -> Json:
        """Send a batch with the request after it, and give back the batch's outcome (spec: "StreamResult").

        StreamExpired if the stream that was kept is not there any more, and nothing was done.
        """
        return self._send([{"type": "batch", "batch": batch}, after], effect)[0]

    def read_large(self, batch: Json) -> Json:
        """Run a reading batch whose result is too large for one answer, and give back its result."""
        deadline = self.new_deadline()
        state, self._state = self._state, None
        body = _dump({"baton": state and state.baton, "batch": batch})
        origin, path = self._endpoint(state)
        with self._channel.lines(origin, f"{path}/v3/cursor", body, deadline) as (status, lines):
            if status == 404:  # it has just served this database by the other way
                self._state = state
                raise DataError(
                    "the result is too large, and the server has no cursors under this URL: read less", _TOO_LARGE
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
        """Close the stream, and undo what is open in it. If the server cannot be told, it does so by itself, later."""
        if self._may_have_expired():
            self._state = None
        if self._state is not None:
            limit, self.deadline = self.deadline, time.monotonic() + _CLOSE_TIMEOUT
            try:
                self._send([CLOSE], _NO_EFFECT)
            except (Error, *MALFORMED_RESPONSE) as error:
                _log.info("a stream could not be closed, and will expire: %s", error)
            finally:
                self._state, self.deadline = None, limit

    def disconnect(self) -> None:
        """Close the line, and say nothing to the server."""
        self._channel.close()
        self._state = None

    def _send(self, requests: list[Json], effect: RequestEffect) -> list[Json]:
        state, self._state = self._state, None  # until the answer has the next baton
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
                replication.is_primary = bool(step.get("rows_written"))  # a replica hands writes on, and counts none
        replication.advance(result.get("replication_index"))

    def _send_waiting_for_replica(
        self, state: _StreamState | None, requests: list[Json], effect: RequestEffect
    ) -> ServerResponse:
        index = self._client.replication.index
        if not (state and state.in_transaction) and effect.reads_only and index and requests[0]["type"] == "batch":
            batch = {**requests[0]["batch"], "replication_index": index}
            waiting = [{**requests[0], "batch": batch}, *requests[1:]]
            try:
                # A primary does not wait for the index; but what is behind one address may change.
                limit = math.inf if self._client.replication.is_primary else _WAIT_FOR_REPLICA
                return self._send_with_retry(state, waiting, effect, self.new_deadline(limit))
            except (RequestNotSent, ResponseMissing) as error:
                if error.code == "REQUEST_TIMEOUT":
                    self._client.replication.reset()
                if error.code != "REQUEST_TIMEOUT" or limit == math.inf:
                    raise
                state = None  # that stream still waits
        return self._send_with_retry(state, requests, effect, self.new_deadline())

    def _send_with_retry(
        self, state: _StreamState | None, requests: list[Json], effect: RequestEffect, deadline: Deadline
    ) -> ServerResponse:
        """The answer to a request; it is sent again where that can do nothing twice."""
        body = _dump({"baton": state and state.baton, "requests": requests})
        try:
            return self._send_once(state, body, deadline)
        except ResponseMissing as error:
            # Over a new line, who asked is the one to say whether to ask again: nobody may be there.
            if error.code != "CONNECTION_LOST" or not (state or effect.reads_only) or not self._channel.was_reused:
                raise self._missing_response_error(error, effect) from error
        return self._resend(state, body, deadline, effect)

    def _send_once(self, state: _StreamState | None, body: bytes, deadline: Deadline) -> ServerResponse:
        """The answer, over a new line where the old one was cut before. ResponseMissing, or what was before it."""
        try:
            try:
                return self._post_authorized(state, body, deadline)
            except RequestNotSent as error:
                if error.code != "CONNECTION_FAILED" or not self._channel.was_reused:
                    raise
            return self._post_authorized(state, body, deadline)
        except ResponseMissing:
            raise
        except OperationalError:  # it was not sent, or there is no token for it: the stream is as it was
            self._state = state
            raise

    def _resend(
        self, state: _StreamState | None, body: bytes, deadline: Deadline, effect: RequestEffect
    ) -> ServerResponse:
        try:
            response = self._post_authorized(state, body, deadline)
        except OperationalError as error:
            raise self._missing_response_error(error, effect) from error
        if response.status != 200 and state and effect.may_store:  # that says nothing of the first time it was sent
            raise _outcome_unknown("the line broke, and the server has no answer to it any more")
        return response

    def _post_authorized(self, state: _StreamState | None, body: bytes, deadline: Deadline) -> ServerResponse:
        origin, path = self._endpoint(state)
        credentials = self._client.credentials
        generation = credentials.ensure_token()
        response = self._channel.post(origin, f"{path}/v3/pipeline", body, deadline)
        if response.status == 401 and credentials.refresh(generation):  # 401 is said before anything is done
            response = self._channel.post(origin, f"{path}/v3/pipeline", body, deadline)
        return response

    def _status_error(self, response: ServerResponse, state: _StreamState | None, effect: RequestEffect) -> Error:
        """The error for a status. Any but 401 ends the stream, and its transaction."""
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
        """The deadline of what begins now, which may take `seconds` at most."""
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
            return None  # what was asked is done; the stream is not needed
        return _StreamState(baton, origin, path, in_transaction)

    def _roll_back(self, baton: object) -> None:
        """Close a stream that will not be followed elsewhere: until it expires, its transaction holds the lock."""
        with suppress(InternalError):
            self._state = _StreamState(_checked_baton(baton), *self._endpoint(None), in_transaction=True)
            self._used_at = time.monotonic()
            self.abandon()


class StreamExpired(OperationalError):  # noqa: N818 - for the transport alone
    """The server has no such stream any more, and no transaction was open in it: nothing was done, or lost."""


def _checked_baton(baton: object) -> str:
    """InternalError unless it is a text that can be sent back."""
    if not isinstance(baton, str) or len(baton) > _BATON_LENGTH:
        raise InternalError(f"the server's baton is no text of at most {_BATON_LENGTH:,} characters", "PROTOCOL")
    return baton


def _outcome_unknown(why: str, code: str = "") -> OutcomeUnknownError:
    return OutcomeUnknownError(f"it may be stored, or not: {why}", code or "COMMIT_UNKNOWN")


def _error_text_and_code(body: bytes) -> tuple[str, str]:
    """The text and the code in the body of a refusal, which is JSON of one of two shapes, or plain text."""
    text = body.decode("utf-8", "replace")
    try:
        found = parse_json(body)
        text, code = str(found.get("message") or found["error"]), str(found.get("code") or "")[:100]
    except MALFORMED_RESPONSE:
        code = ""
    return truncate(text, 500), code


def _collect(entries: Iterator[Json], steps: int) -> Json:
    """A batch's result from the entries of a cursor (spec: "Cursor"). OperationalError if it breaks off."""
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
    raise OperationalError("the answer broke off", "CONNECTION_LOST")


def _step_index(entry: Json, steps: int) -> int:
    place = unsigned(entry["step"])
    if place >= steps:
        raise ValueError("the result of a step that was not sent")
    return place


def _dump(message: Json) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
