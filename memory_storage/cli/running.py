"""Run a command, pass its output on, and keep as much of it as a step may have."""

from __future__ import annotations

import codecs
import json
import shlex
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, BinaryIO

from memory_storage.models import Failure, Outcome, StepError, StepOk, StepResult, Success, utc_now
from memory_storage.models.display import shortened
from memory_storage.sql.validation import replace_unstorable

_CHUNK = 65_536
_LAST_LINE = 1_000  # characters of it in the outcome
_RESERVED = 2_000  # bytes of a step's result that are not output
_NOT_FOUND, _NOT_EXECUTABLE, _SIGNAL = 127, 126, 128  # as a shell has them


@dataclass(frozen=True)
class Run:
    """A command that has ended.

    Attributes:
        exit_code: as a shell gives it: 128 and the number of the signal that ended the command; 127 or 126 if it could
            not be started.
        started_at: when it started.
        latency_ms: how long it ran.
        output: what it wrote to stdout and stderr, line by line in the order of arrival.
        metadata: the exit code, and what is left out of the output or replaced in it.
        command: the command as one would type it.
    """

    exit_code: int
    started_at: datetime
    latency_ms: int
    output: str
    metadata: dict[str, Any]
    command: str

    @property
    def result(self) -> StepResult:
        """The result of its step."""
        if self.exit_code == 0:
            return StepOk(output=self.output)
        return StepError(message=f"exit code {self.exit_code}\n{self.output}".rstrip())

    @property
    def outcome(self) -> Outcome:
        """The outcome of its episode."""
        if self.exit_code == 0:
            return Success(verdict=replace_unstorable(f"exit code 0: {self.command}"))
        last = next((line for line in reversed(self.output.splitlines()) if line.strip()), "")
        details = shortened(last, _LAST_LINE) or None
        reason = replace_unstorable(f"exit code {self.exit_code}: {self.command}")
        return Failure(reason=reason, error_details=details)


class _Output:
    """The beginning and the end of an output, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self._head_limit, self._tail_limit = limit // 4, limit - limit // 4
        self._head, self._tail = bytearray(), deque[bytes]()
        self._tail_bytes = 0
        self._lock = threading.Lock()
        self.total = 0

    def add(self, data: bytes) -> None:
        with self._lock:
            self.total += len(data)
            room = self._head_limit - len(self._head)
            self._head += data[:room]
            if rest := data[room:]:
                self._tail.append(rest)
                self._tail_bytes += len(rest)
            while self._tail and self._tail_bytes - len(self._tail[0]) >= self._tail_limit:
                self._tail_bytes -= len(self._tail.popleft())

    def within(self, limit: int) -> tuple[str, dict[str, Any]]:
        """Return the output as text of at most `limit` bytes of JSON, and what it lacks."""
        head, tail = bytes(self._head), b"".join(self._tail)
        if self.total > len(head) + len(tail):
            head, tail = _without_half_characters(head, tail)
        notes: dict[str, Any] = {"output_bytes": self.total}
        # Escapes and replacements take more bytes than what they stand for: shorten until it fits.
        while True:
            omitted = self.total - len(head) - len(tail)
            mark = f"\n[... {omitted:,} bytes left out ...]\n" if omitted else ""
            text = head.decode(errors="replace") + mark + tail.decode(errors="replace")
            stored = replace_unstorable(text)
            if (size := len(json.dumps(stored, ensure_ascii=False).encode())) <= limit:
                break
            keep = 0.95 * limit / size
            head, tail = head[: int(len(head) * keep)], tail[len(tail) - int(len(tail) * keep) :]
            head, tail = _without_half_characters(head, tail)
        if omitted:
            notes["output_bytes_left_out"] = omitted
        if "\N{REPLACEMENT CHARACTER}" in stored:
            notes["output_has_replacements"] = True
        return stored, notes


def _without_half_characters(head: bytes, tail: bytes) -> tuple[bytes, bytes]:
    """Return both without a character of UTF-8 of which they have a part only."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(head)
    half = len(decoder.getstate()[0])
    rest = next((index for index, byte in enumerate(tail[:3]) if byte & 0b1100_0000 != 0b1000_0000), min(len(tail), 3))
    return head[: len(head) - half], tail[rest:]


def run_command(command: list[str], step_bytes: int, *, stdout: BinaryIO, stderr: BinaryIO) -> Run:
    """Run a command; its output is passed on as it arrives.

    Args:
        command: the program and its arguments.
        step_bytes: the limit of a step's result, in bytes of JSON.
        stdout: where what the command writes to stdout is passed on to.
        stderr: where what it writes to stderr is passed on to.

    Returns:
        The run. A command that cannot be started, or that is interrupted, is one that failed.
    """
    output = _Output(step_bytes)
    started_at, began = utc_now(), time.perf_counter()
    try:
        code = _run(command, output, stdout, stderr)
    except OSError as error:
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        message = f"{command[0]}: {error.strerror}\n".encode(errors="replace")
        stderr.write(message)
        stderr.flush()
        output.add(message)
    latency = round((time.perf_counter() - began) * 1000)
    text, notes = output.within(step_bytes - _RESERVED)
    return Run(code, started_at, latency, text, {"exit_code": code, **notes}, shlex.join(command))


def _run(command: list[str], output: _Output, stdout: BinaryIO, stderr: BinaryIO) -> int:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:  # noqa: S603 - what the user typed
        threads = [
            threading.Thread(target=_pass_on, args=(source, target, output), daemon=True)
            for source, target in ((process.stdout, stdout), (process.stderr, stderr))
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or process.poll() is None:
            try:
                process.wait()
                for thread in threads:
                    thread.join()
            except KeyboardInterrupt:
                continue  # the terminal sends it to the command too, which ends in its own way
    return process.returncode if process.returncode >= 0 else _SIGNAL - process.returncode


def _pass_on(source: IO[bytes] | None, target: BinaryIO, output: _Output) -> None:
    """Copy a stream to another at once, and to the output by whole lines, so that no line of the other stream cuts one
    in two. If the reader of the target has closed it, only to the output.
    """
    is_open, begun = True, bytearray()
    while source is not None and (data := source.read(_CHUNK)):
        whole = len(data) if len(begun) > _CHUNK else data.rfind(b"\n") + 1
        if whole:
            output.add(bytes(begun) + data[:whole])
            begun.clear()
        begun += data[whole:]
        if is_open:
            try:
                target.write(data)
                target.flush()
            except (OSError, ValueError):
                is_open = False
    output.add(bytes(begun))
