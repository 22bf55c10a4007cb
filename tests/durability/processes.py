"""Processes for tests: forked from a server that has imported what they need, and opened nothing."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

PROCESSES: ForkServerContext | SpawnContext = multiprocessing.get_context(
    "forkserver" if hasattr(os, "fork") else "spawn"
)
PROCESSES.set_forkserver_preload(
    ["alembic.command", "pydantic_settings", "tests.durability.work"]
)  # slow imports would spoil a race


def together(work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, timeout: float = 120) -> list[Any]:
    """Call `work(barrier, *arguments)` in a process for each, all at once; what they gave, or the first error."""
    calls = list(arguments)
    barrier = PROCESSES.Barrier(len(calls))
    pipes = [PROCESSES.Pipe(duplex=False) for _ in calls]
    children = [
        PROCESSES.Process(target=_report, args=(sender, work, barrier, *call))
        for (_, sender), call in zip(pipes, calls, strict=True)
    ]
    for child in children:
        child.start()
    for _, sender in pipes:
        sender.close()
    try:
        answers = [_answer(receiver, timeout) for receiver, _ in pipes]
    finally:
        for child in children:
            child.join(5)
            if child.exitcode is None:
                child.kill()
                child.join()
            child.close()
    failures = [failure for failure, _ in answers if failure]
    assert not failures, f"{len(failures)} of {len(answers)} processes failed; the first:\n{failures[0]}"
    return [result for _, result in answers]


def killed(work: Callable[..., Any], *arguments: Any, after: float, from_first_byte: bool = False) -> bytes:
    """Call `work(pipe, *arguments)` in a process, kill it after some seconds, and return what it wrote to the pipe."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    child = PROCESSES.Process(target=work, args=(sender, *arguments))
    child.start()
    sender.close()
    if from_first_byte:
        assert receiver.poll(60), "the process did not begin"
    child.join(after)
    assert child.exitcode is None, f"the process ended by itself: {child.exitcode}"
    child.kill()
    child.join()
    child.close()
    written = b""
    with receiver:
        while chunk := os.read(receiver.fileno(), 65536):
            written += chunk
    return written


def in_fork(work: Callable[[], object]) -> None:
    """Fork this process, call `work` in the child, and wait for it; AssertionError if it raised."""
    succeeds(forked(work))


def forked(work: Callable[[], object]) -> int:
    """Fork this process, call `work` in the child, and return the child's id at once."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:  # noqa: BLE001 - nothing of this process may return into pytest
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def succeeds(child: int) -> None:
    """Wait for a forked child; AssertionError if its work raised."""
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _answer(receiver: Any, timeout: float) -> tuple[str, Any]:
    try:
        with receiver:
            return receiver.recv() if receiver.poll(timeout) else (f"no answer in {timeout} s", None)
    except EOFError:
        return "the process died", None


def _report(sender: Any, work: Callable[..., Any], *arguments: Any) -> None:
    try:
        result = work(*arguments)
    except BaseException:  # noqa: BLE001 - the parent fails by it
        sender.send((traceback.format_exc(), None))
    else:
        sender.send(("", result))
