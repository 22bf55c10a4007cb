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
from ._hrana_messages import CLOSE, GET_AUTOCOMMIT, Json, shortened, transaction_lost
from ._http import Answer, Channel, Deadline, NoAnswer, NotSent
from ._json import GARBLED, parsed, typed, unsigned

_log = logging.getLogger(__name__)

_WAIT_FOR_REPLICA = 2.0  # seconds
_IN_DEMAND = 0.1  # seconds between two requests
_USABLE = 5.0  # seconds; the server lets a stream expire after ten
_COURTESY = 2.0  # seconds to tell the server that a stream is not needed any more
_BATON_LENGTH = 10_000  # characters; sqld's have some fifty
_GONE = ("STREAM_EXPIRED", "baton", "Stream for this")  # what the server says of a stream it does not have
_LARGE = "RESPONSE_TOO_LARGE"
_BY_STATUS = {403: "FORBIDDEN", 404: "NO_SUCH_DATABASE", 429: "SERVER_BUSY"}


@dataclass(frozen=True)
class Risk:
    """What it would mean to send a request twice, or not to know whether it was done."""

    reads_only: bool
    commits: bool

    @property
    def writes_for_good(self) -> bool:
        """Whether it may leave something behind that was not there."""
        return self.commits and not self.reads_only


def garbled(error: Exception, risk: Risk) -> Error:
    """What to raise for an answer that is not of the protocol."""
    why = f"the server's answer is not of the protocol ({type(error).__name__})"
    return _unknown(why) if risk.writes_for_good else InternalError(why, "PROTOCOL")


_HARMLESS = Risk(reads_only=True, commits=False)


class _Open(NamedTuple):
    baton: str
    origin: Origin  # the server may ask for the rest of a stream elsewhere (spec: "base_url")
    path: str
    in_transaction: bool


class Stream:
    """At most one stream at the server at a time; it is opened by the first request, and closed by `CLOSE`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._channel = Channel(client)
        self._open: _Open | None = None
        self.deadline: float | None = None
        """A moment by which requests have to be over, if that is before their own timeout."""
        self._used_at = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether the server has a stream for us."""
        return self._open is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open in it, as of the last answer."""
        return self._open is not None and self._open.in_transaction

    def is_in_demand(self) -> bool:
        """Whether it was just used, so that it is worth to keep it open. One that may have expired is forgotten."""
        if self._may_have_expired():
            self._open = None
        return time.monotonic() - self._used_at < _IN_DEMAND

    def expires_soon(self) -> bool:
        """Whether a transaction is open in it, and had no request for so long that the server may soon end it."""
        return self.in_transaction and time.monotonic() - self._used_at > _USABLE

    def _may_have_expired(self) -> bool:
        return not self.in_transaction and time.monotonic() - self._used_at > _USABLE

    def exchange(self, batch: Json, after: Json, risk: Risk) -> Json:
        """Send a batch with the request after it, and give back the batch's outcome (spec: "StreamResult").

        StreamGone if the stream that was kept is not there any more, and nothing was done.
        """
        return self._send([{"type": "batch", "batch": batch}, after], risk)[0]

    def read_large(self, batch: Json) -> Json:
        """Run a reading batch whose result is too large for one answer, and give back its result."""
        deadline = self.new_deadline()
        opened, self._open = self._open, None
        body = _dump({"baton": opened and opened.baton, "batch": batch})
        origin, path = self._place(opened)
        with self._channel.lines(origin, f"{path}/v3/cursor", body, deadline) as (status, lines):
            if status == 404:  # it has just served this database by the other way
                self._open = opened
                raise DataError(
                    "the result is too large, and the server has no cursors under this URL: read less", _LARGE
                )
            if status != 200:
                raise self._refusal(Answer(status, b"".join(lines)))
            first = typed(parsed(next(lines, b"")), dict)
            result = _collect(map(parsed, lines), len(batch["steps"]))
        self._open = self._next(first, in_transaction=opened is not None and opened.in_transaction)
        if self.in_transaction:
            self._send([GET_AUTOCOMMIT], _HARMLESS)
        else:
            self.abandon()
        return result

    def abandon(self) -> None:
        """Close the stream, and undo what is open in it. If the server cannot be told, it does so by itself, later."""
        if self._may_have_expired():
            self._open = None
        if self._open is not None:
            limit, self.deadline = self.deadline, time.monotonic() + _COURTESY
            try:
                self._send([CLOSE], _HARMLESS)
            except (Error, *GARBLED) as error:
                _log.info("a stream could not be closed, and will expire: %s", error)
            finally:
                self._open, self.deadline = None, limit

    def disconnect(self) -> None:
        """Close the line, and say nothing to the server."""
        self._channel.close()
        self._open = None

    def _send(self, requests: list[Json], risk: Risk) -> list[Json]:
        opened, self._open = self._open, None  # until the answer has the next baton
        answer = self._posted(opened, requests, risk)
        if answer.status != 200:
            raise self._explained(answer, opened, risk)
        reply = typed(parsed(answer.body), dict)
        in_transaction = False
        for result in reply["results"]:
            response = result.get("response") or {}
            in_transaction = not response.get("is_autocommit", True) or in_transaction
            if response.get("type") == "batch" and not risk.reads_only:
                self._learn(response["result"])
        self._open = self._next(reply, in_transaction=in_transaction)
        self._used_at = time.monotonic()
        results: list[Json] = reply["results"]
        return results

    def _learn(self, result: Json) -> None:
        seen = self._client.seen
        for step in result["step_results"]:
            if step and step.get("affected_row_count"):
                seen.is_primary = bool(step.get("rows_written"))  # a replica hands writes on, and counts none
        seen.saw(result.get("replication_index"))

    def _posted(self, opened: _Open | None, requests: list[Json], risk: Risk) -> Answer:
        index = self._client.seen.index
        if not (opened and opened.in_transaction) and risk.reads_only and index and requests[0]["type"] == "batch":
            batch = {**requests[0]["batch"], "replication_index": index}
            waiting = [{**requests[0], "batch": batch}, *requests[1:]]
            try:
                # A primary does not wait for the index; but what is behind one address may change.
                limit = math.inf if self._client.seen.is_primary else _WAIT_FOR_REPLICA
                return self._delivered(opened, waiting, risk, self.new_deadline(limit))
            except (NotSent, NoAnswer) as error:
                if error.code == "REQUEST_TIMEOUT":
                    self._client.seen.forget()
                if error.code != "REQUEST_TIMEOUT" or limit == math.inf:
                    raise
                opened = None  # that stream still waits
        return self._delivered(opened, requests, risk, self.new_deadline())

    def _delivered(self, opened: _Open | None, requests: list[Json], risk: Risk, deadline: Deadline) -> Answer:
        """The answer to a request; it is sent again where that can do nothing twice."""
        body = _dump({"baton": opened and opened.baton, "requests": requests})
        try:
            return self._sent(opened, body, deadline)
        except NoAnswer as error:
            # Over a new line, who asked is the one to say whether to ask again: nobody may be there.
            if error.code != "CONNECTION_LOST" or not (opened or risk.reads_only) or not self._channel.was_kept:
                raise self._unanswered(error, risk) from error
        return self._again(opened, body, deadline, risk)

    def _sent(self, opened: _Open | None, body: bytes, deadline: Deadline) -> Answer:
        """The answer, over a new line where the old one was cut before. Raises NoAnswer, or what was before it."""
        try:
            try:
                return self._authorized(opened, body, deadline)
            except NotSent as error:
                if error.code != "CONNECTION_FAILED" or not self._channel.was_kept:
                    raise
            return self._authorized(opened, body, deadline)
        except NoAnswer:
            raise
        except OperationalError:  # it was not sent, or there is no token for it: the stream is as it was
            self._open = opened
            raise

    def _again(self, opened: _Open | None, body: bytes, deadline: Deadline, risk: Risk) -> Answer:
        try:
            answer = self._authorized(opened, body, deadline)
        except OperationalError as error:
            raise self._unanswered(error, risk) from error
        if answer.status != 200 and opened and risk.writes_for_good:  # that says nothing of the first time it was sent
            raise _unknown("the line broke, and the server has no answer to it any more")
        return answer

    def _authorized(self, opened: _Open | None, body: bytes, deadline: Deadline) -> Answer:
        origin, path = self._place(opened)
        credentials = self._client.credentials
        generation = credentials.ready()
        answer = self._channel.post(origin, f"{path}/v3/pipeline", body, deadline)
        if answer.status == 401 and credentials.renew(generation):  # 401 is said before anything is done
            answer = self._channel.post(origin, f"{path}/v3/pipeline", body, deadline)
        return answer

    def _explained(self, answer: Answer, opened: _Open | None, risk: Risk) -> Error:
        """The error for a status. Any but 401 ends the stream, and its transaction."""
        refusal = self._refusal(answer)
        if answer.status == 401:
            self._open = opened
        elif answer.status == 400 and opened and any(word in str(refusal) + refusal.code for word in _GONE):
            return transaction_lost() if opened.in_transaction else StreamGone(str(refusal))
        elif answer.status >= 500 and risk.writes_for_good:
            return _unknown(str(refusal))
        return refusal

    def _unanswered(self, error: OperationalError, risk: Risk) -> Error:
        return _unknown(str(error), error.code) if risk.writes_for_good else error

    def _refusal(self, answer: Answer) -> Error:
        text, code = _explanation(self._client.credentials.redact(answer.body))
        text = f"{self._client.server.origin.host}: {text}"
        if answer.status == 401:
            return OperationalError(text, "TOKEN_EXPIRED" if "expired" in text else "UNAUTHORIZED")
        if answer.status in _BY_STATUS:
            return OperationalError(text, _BY_STATUS[answer.status])
        if answer.status < 500:
            return InternalError(f"{text} (HTTP status {answer.status})", code or "PROTOCOL")
        return OperationalError(f"{text} (HTTP status {answer.status})", "SERVER_ERROR")

    def new_deadline(self, seconds: float = math.inf) -> Deadline:
        """The deadline of what begins now, which may take `seconds` at most."""
        left = math.inf if self.deadline is None else self.deadline - time.monotonic()
        return Deadline(min(seconds, self._client.limits.timeout, left))

    def _place(self, opened: _Open | None) -> tuple[Origin, str]:
        server = self._client.server
        return (opened.origin, opened.path) if opened else (server.origin, server.path)

    def _next(self, reply: Json, *, in_transaction: bool) -> _Open | None:
        baton = reply.get("baton")
        if baton is None:
            return None
        try:
            baton = _checked_baton(baton)
            origin, path = self._client.directed(reply.get("base_url"))
        except Error:
            if in_transaction:
                self._roll_back(baton)
                raise
            return None  # what was asked is done; the stream is not needed
        return _Open(baton, origin, path, in_transaction)

    def _roll_back(self, baton: object) -> None:
        """Close a stream that will not be followed elsewhere: until it expires, its transaction holds the lock."""
        with suppress(InternalError):
            self._open = _Open(_checked_baton(baton), *self._place(None), in_transaction=True)
            self._used_at = time.monotonic()
            self.abandon()


class StreamGone(OperationalError):  # noqa: N818 - for the transport alone
    """The server has no such stream any more, and no transaction was open in it: nothing was done, or lost."""


def _checked_baton(baton: object) -> str:
    """InternalError unless it is a text that can be sent back."""
    if not isinstance(baton, str) or len(baton) > _BATON_LENGTH:
        raise InternalError(f"the server's baton is no text of at most {_BATON_LENGTH:,} characters", "PROTOCOL")
    return baton


def _unknown(why: str, code: str = "") -> OutcomeUnknownError:
    return OutcomeUnknownError(f"it may be stored, or not: {why}", code or "COMMIT_UNKNOWN")


def _explanation(body: bytes) -> tuple[str, str]:
    """The text and the code in the body of a refusal, which is JSON of one of two shapes, or plain text."""
    text = body.decode("utf-8", "replace")
    try:
        found = parsed(body)
        text, code = str(found.get("message") or found["error"]), str(found.get("code") or "")[:100]
    except GARBLED:
        code = ""
    return shortened(text, 500), code


def _collect(entries: Iterator[Json], steps: int) -> Json:
    """A batch's result from the entries of a cursor (spec: "Cursor"). OperationalError if it breaks off."""
    results: list[Json | None] = [None] * steps
    errors: list[Json | None] = [None] * steps
    current: Json = {}
    for entry in entries:
        match entry["type"]:
            case "step_begin":
                current = results[_place(entry, steps)] = {"cols": entry["cols"], "rows": [], "affected_row_count": 0}
            case "row":
                current["rows"].append(entry["row"])
            case "step_end":
                current.update(entry, rows=current["rows"])
            case "step_error":
                errors[_place(entry, steps)] = entry["error"]
            case "error":
                error = entry["error"]
                raise OperationalError(shortened(str(error.get("message"))), str(error.get("code") or "")[:100])
            case "replication_index":
                return {"step_results": results, "step_errors": errors}
    raise OperationalError("the answer broke off", "CONNECTION_LOST")


def _place(entry: Json, steps: int) -> int:
    place = unsigned(entry["step"])
    if place >= steps:
        raise ValueError("the result of a step that was not sent")
    return place


def _dump(message: Json) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
