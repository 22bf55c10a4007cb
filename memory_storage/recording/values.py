"""Conversion of what an agent passes, returns and raises into what an episode stores."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from pydantic_core import to_json, to_jsonable_python

from memory_storage._formatting import counted
from memory_storage.models import Abstained, Failure, Outcome, StepError, StepOk, StepResult, StepTimeout
from memory_storage.models.model import JsonObject
from memory_storage.settings import Limits
from memory_storage.sql.validation import replace_unstorable

_log = logging.getLogger("memory_storage.recording")

NOT_STORED = "not_stored"
"""The key in a step's metadata that names what was replaced, each with its size in bytes of JSON."""

_MARGIN = 200  # bytes of JSON around a text in a step's result
_HEAD_LENGTH = 10_000  # characters that are stored of a text that is too large
_REASON_LENGTH = 2_000  # characters
_TRACEBACK_HEAD, _TRACEBACK_TAIL = 4_000, 16_000  # characters: the last frames are worth most
_MAX_INT = 2**63

Redact = Callable[[str], str]


@dataclass
class Capture:
    """Converts the values of one step or episode.

    Attributes:
        limits: the limits of the storage.
        redact: returns what is stored instead of a text; None to store it unchanged.
        not_stored: what was replaced because it was too large or not JSON, with its bytes of JSON, or 0.
    """

    limits: Limits
    redact: Redact | None = None
    not_stored: JsonObject = field(default_factory=dict)

    def metadata(self, metadata: Mapping[str, Any] | None = None) -> JsonObject:
        """Return a step's metadata with the names of what was replaced."""
        stored = self.json_object("metadata", metadata or {})
        return {**stored, NOT_STORED: self.not_stored} if self.not_stored else stored

    def json_object(self, name: str, values: Mapping[str, Any]) -> JsonObject:
        """Return the values as JSON; the largest are replaced by a marker until all fit into `limits.step_bytes`."""
        stored = {
            str(replace_unstorable(str(key))): self._json(f"{name}.{key}", value) for key, value in values.items()
        }
        room = self.limits.step_bytes - _MARGIN
        if len(to_json(stored)) <= room:
            return stored
        sizes = {key: len(to_json(value)) for key, value in stored.items()}
        for key in sorted(sizes, key=lambda key: -sizes[key]):
            self.not_stored[f"{name}.{key}"] = sizes[key]
            stored[key] = f"(not stored: {counted(sizes[key], 'byte')} of JSON)"
            if len(to_json(stored)) <= room:
                return stored
        self.not_stored = {name: sum(sizes.values())}
        return {}

    def text(self, name: str, value: object) -> str:
        """Return a result as text: a string unchanged, else as JSON. Of one that is too large, the beginning."""
        if value is None:
            return ""
        stored = self._json(name, value)
        text = stored if isinstance(stored, str) else to_json(stored).decode()
        size = len(to_json(text))
        if size <= self.limits.step_bytes - _MARGIN:
            return text
        self.not_stored[name] = size
        return f"{text[:_HEAD_LENGTH]}... (not stored completely: {counted(len(text), 'character')})"

    def result(self, output: object, error: str | BaseException | None) -> StepResult:
        """Return the result of a tool: a timeout for a TimeoutError, an error for any other one, else its output."""
        if error is None:
            return StepOk(output=self.text("output", output))
        if isinstance(error, TimeoutError):
            return StepTimeout()
        text = self.text("error", error_text(error) if isinstance(error, BaseException) else error)
        return StepError(message=text)

    def ending(self, error: BaseException, last_step: int) -> Outcome:
        """Return the outcome of a run that an exception has ended.

        Args:
            error: The exception: an interruption (KeyboardInterrupt, SystemExit, a cancelled task) is no failure.
            last_step: The number of the last step; 0 if there is none.
        """
        reason = self._clean(cut_reason(error_text(error)))
        if not isinstance(error, Exception):
            return Abstained(reason=reason, stopped_at_step=last_step - 1 if last_step else None)
        return Failure(reason=reason, error_details=self._clean(cut_traceback(_traceback(error))))

    def _json(self, name: str, value: object) -> Any:
        try:
            plain = to_jsonable_python(value, fallback=_type_name, bytes_mode="base64")
            return self._clean(plain)
        except Exception as error:  # noqa: BLE001 - a cycle, a depth that nothing reads, or a caller's own serializer
            self.not_stored[name] = 0
            return f"(not stored: {_type_name(value)} is not JSON, {type(error).__name__})"

    def _clean(self, value: Any) -> Any:
        """Return the value with its texts redacted, and without characters or numbers that cannot be stored."""
        if isinstance(value, str):
            return replace_unstorable(self._redacted(value))
        if isinstance(value, dict):
            return {replace_unstorable(key): self._clean(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._clean(inner) for inner in value]
        is_number = not isinstance(value, float) or isfinite(value)
        is_small = not isinstance(value, int) or -_MAX_INT <= value < _MAX_INT
        return value if is_number and is_small else str(value)

    def _redacted(self, text: str) -> str:
        if self.redact is None:
            return text
        try:
            return str(self.redact(text))
        except Exception as error:  # noqa: BLE001 - a caller's function: nothing that it did not return is stored
            return f"(not stored: redact raised {type(error).__name__})"


def error_text(error: BaseException) -> str:
    """Return the class of an exception and its message, in one text."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a caller's class
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _traceback(error: BaseException) -> str:
    """Return the traceback: files, lines and source, and no values of variables."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - a caller's class
        return ""


def cut_reason(text: str) -> str:
    """Return the beginning of a reason: about 2,000 characters."""
    return _cut(text, _REASON_LENGTH, 0)


def cut_traceback(text: str) -> str:
    """Return the begin and the end of a traceback: about 20,000 characters."""
    return _cut(text, _TRACEBACK_HEAD, _TRACEBACK_TAIL)


def fitting_task(text: str, length: int) -> str:
    """Return a task of at most `length` characters that can be stored; a longer one ends with how many it has."""
    text = str(replace_unstorable(text))
    if len(text) <= length:
        return text
    marker = f"... ({len(text):,} characters)"
    return f"{text[: max(0, length - len(marker))]}{marker}"[:length]


def _cut(text: str, head: int, tail: int) -> str:
    left_out = len(text) - head - tail
    if left_out <= 0:
        return text
    return f"{text[:head]}... ({counted(left_out, 'character')} not stored) ...{text[len(text) - tail :]}"


def _type_name(value: object) -> str:
    return f"<{type(value).__qualname__}>"


def note_failure(what: str, problem: Exception, error: BaseException | None = None) -> None:
    """Log that something was not stored, and add it to the notes of the caller's exception.

    Args:
        what: What was not stored.
        problem: Why.
        error: The caller's exception, which is raised further.
    """
    _log.warning("%s: %s: %s", what, type(problem).__name__, problem)
    if error is not None and hasattr(error, "add_note"):  # since Python 3.11
        error.add_note(f"{what}: {type(problem).__name__}: {problem}")
