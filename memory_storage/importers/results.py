"""The status of a tool call, from its result: by structured signs, then by textual ones; ok if there is none.

Structured signs, in the result itself, in its `extra`, `metadata` or `additional_kwargs`, or in a string that is a JSON
object, in this order:

    is_error, isError                                true is an error, false is ok
    timed_out, timeout                               true is a timeout
    error                                            a string, object or true is an error
    returncode, return_code, exit_code, exitCode     0 is ok, any other number is an error
    status                                           failed, failure, error, errored: an error; timeout, timed_out: a
                                                     timeout; success, succeeded, ok, completed, complete, done: ok
                                                     (in a string that is JSON, only errors and timeouts count)
    success, ok                                      false is an error, true is ok

A sign with another value (`"returncode": null`, `"status": "in_progress"`) makes the status unknown, unless another
sign or the text decides. Textual signs:

    <returncode>N</returncode>, <exit_code>N</exit_code>        by the number
    ... exit code N, exited with code N, exit status N          by the number, as the complete first or last line
    Error: ..., ValueError: ..., Error 404, Error executing ... an error, at the beginning
    error: ..., fatal: ..., panic: ..., npm ERR! ...            an error, at the beginning
    Traceback (most recent call last): ... SomeError: ...       an error, at the beginning or at the end
    sh: ...: command not found, No such file or directory       an error, at the beginning

"Error rate: 0.0 %" is not a sign.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

Status = Literal["ok", "error", "timeout", "unknown"]

_LOOKED_AT = 1_000  # characters at each end of a string that are searched for textual signs
_NESTED = ("extra", "metadata", "additional_kwargs")
_CODES = ("returncode", "return_code", "exit_code", "exitCode")
_STATUSES: dict[str, Status] = {
    **dict.fromkeys(("failed", "failure", "error", "errored"), "error"),
    **dict.fromkeys(("timeout", "timed_out", "timedout"), "timeout"),
    **dict.fromkeys(("success", "succeeded", "ok", "completed", "complete", "done"), "ok"),
}
_MARKED_CODE = re.compile(r"\s*<(returncode|exit_code)>\s*(-?\d+)\s*</\1>")
_SAID_CODE = re.compile(
    r"\W*(?:[\w ]{0,60}?\b)?(?:exit(?:ed with)?|return) (?:code|status):? *(-?\d+)\W*", re.IGNORECASE
)
_ERROR = re.compile(
    r"""\s*(?:
        (?:\w+\.)*\w*(?:Error|Exception)(?:\[\w+\])?(?::|\s*$)      # ValueError: ..., java.io.IOException: ...
        | Error\ (?:\d+|calling|executing|running|invoking|occurred|while|in|at|during|processing|reading|writing
            |opening|loading|parsing|fetching|connecting|creating|finding|getting)\b
        | (?:error|ERROR|fatal|FATAL|panic)(?:\[\w+\])?:
        | npm\ ERR! | npm\ error\b
        | (?:/\S*/)?(?:ba|da|z|k)?sh:\ .*(?:not\ found|No\ such\ file\ or\ directory|Permission\ denied)
        | Traceback\ \(most\ recent\ call\ last\):
    )""",
    re.VERBOSE,
)
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):$", re.MULTILINE)
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:: .*)?")


def status_of(signs: Iterable[Mapping[str, Any]], text: str) -> Status:
    """Return the status of the call.

    Args:
        signs: the objects that may have a structured sign: the message of the result, and its part.
        text: the text of the result.
    """
    structured = _structured(_objects(signs, text))
    if structured in {"ok", "error", "timeout"}:
        return structured
    return _textual(text) or structured or "ok"


def _objects(signs: Iterable[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    objects: list[Mapping[str, Any]] = []
    for values in (*signs, _object_in(text)):
        objects += [values, *(values[name] for name in _NESTED if isinstance(values.get(name), dict))]
    return objects


def _object_in(text: str) -> Mapping[str, Any]:
    """Parse a string that is a JSON object. Its `status` counts only as an error: it may be that of an order."""
    try:
        parsed = json.loads(text) if text.lstrip().startswith("{") else {}
    except (ValueError, RecursionError):
        return {}
    status = parsed.get("status")
    is_sign = isinstance(status, str) and _STATUSES.get(status.lower()) in {"error", "timeout"}
    return parsed if is_sign else {name: value for name, value in parsed.items() if name != "status"}


def _structured(objects: list[Mapping[str, Any]]) -> Status | None:
    found: Status | None = None
    readers: tuple[Callable[[Mapping[str, Any]], Status | None], ...] = (
        partial(_by_bool, names=("is_error", "isError"), when_true="error", when_false="ok"),
        _by_timeout,
        _by_error,
        _by_code,
        _by_status,
        partial(_by_bool, names=("success", "ok"), when_true="ok", when_false="error"),
    )
    for read in readers:
        for values in objects:
            status = read(values)
            if status is not None and status != "unknown":
                return status
            found = found or status
    return found


def _by_timeout(values: Mapping[str, Any]) -> Status | None:
    return "timeout" if values.get("timed_out") is True or values.get("timeout") is True else None


def _by_error(values: Mapping[str, Any]) -> Status | None:
    error = values.get("error")
    if isinstance(error, str):
        return "error" if error.strip() else None
    return "error" if error is True or (isinstance(error, dict | list) and error) else None


def _by_code(values: Mapping[str, Any]) -> Status | None:
    for name in _CODES:
        if name in values:
            return _of_code(values[name])
    return None


def _of_code(code: object) -> Status:
    if isinstance(code, str):
        try:
            code = int(code)
        except ValueError:
            return "unknown"
    if isinstance(code, bool) or not isinstance(code, int | float):
        return "unknown"
    return "ok" if code == 0 else "error"


def _by_status(values: Mapping[str, Any]) -> Status | None:
    status = values.get("status")
    return _STATUSES.get(status.lower(), "unknown") if isinstance(status, str) else None


def _by_bool(
    values: Mapping[str, Any], names: Iterable[str], *, when_true: Status, when_false: Status
) -> Status | None:
    for name in names:
        if isinstance(values.get(name), bool):
            return when_true if values[name] else when_false
    return None


def _textual(text: str) -> Status | None:
    if marked := _MARKED_CODE.match(text):
        return _of_code(marked[2])
    first, last = text.lstrip()[:_LOOKED_AT].split("\n", 1)[0], text.rstrip()[-_LOOKED_AT:].rsplit("\n", 1)[-1]
    for line in (last, first):
        if said := _SAID_CODE.fullmatch(line):
            return _of_code(said[1])
    if _ERROR.match(text[:_LOOKED_AT]) or (_TRACEBACK.search(text) and _RAISED.fullmatch(last)):
        return "error"
    return None
