"""The command `demo`: record four actions on this machine as an episode, and find it again."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from memory_storage._formatting import counted
from memory_storage.models import (
    Episode,
    PartialSuccess,
    Step,
    StepError,
    StepOk,
    StepResult,
    StepTimeout,
    Success,
    TaskContext,
    TaskType,
    utc_now,
)
from memory_storage.storage import MemoryStorage

from .app import app
from .database import open_or_create
from .options import AsJson, Database, Namespace
from .output import say, write_json
from .query import show_steps

_TIMEOUT = 10.0
_SHOWN_NAMES = 10


class _Action(NamedTuple):
    tool: str
    action: str
    parameters: dict[str, str | list[str]]
    do: Callable[[], StepResult]


@app.command()
def demo(database: Database = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """Run four small actions on this machine, record them as an episode, and find it again.

    Without --database, the episode is stored in a new temporary file, which is kept.
    """
    path = database or str(Path(tempfile.mkdtemp(prefix="memory-storage-")) / "demo.db")
    with open_or_create(path, namespace) as storage:
        episode = record(storage)
        found = storage.episodes.query(text="python version", tags_all=["demo"])
    if as_json:
        write_json({"database": path, "episode": episode, "found": [one.id for one in found]})
    else:
        _show_recording(path, episode, found=len(found))


def record(storage: MemoryStorage) -> Episode:
    """Run the actions, append each as a step when it is done, and complete the episode with the outcome."""
    task = "Look around: which Python is this, what is here, and how does a failure look?"
    context = TaskContext(domain="demo", language="python")
    started = storage.episodes.save(
        Episode(task_description=task, task_type=TaskType.ANALYSIS, context=context, tags=["demo"])
    )
    steps = [storage.episodes.append_step(started.id, _run_action(action)) for action in _actions()]
    failed = [step.action for step in steps if not isinstance(step.result, StepOk)]
    completed = [step.action for step in steps if isinstance(step.result, StepOk)]
    verdict = f"{len(completed)} of {counted(len(steps), 'action')} worked"
    outcome = (
        PartialSuccess(verdict=verdict, completed=completed, failed=failed) if failed else Success(verdict=verdict)
    )
    return storage.episodes.complete(started.id, outcome, reward=len(completed) / len(steps))


def _actions() -> list[_Action]:
    here, source = Path.cwd(), Path(__file__)
    version, missing = [sys.executable, "--version"], [sys.executable, "no-such-script.py"]
    return [
        _Action("shell", "ask for the python version", {"command": version}, lambda: _run(version)),
        _Action("files", "list the current directory", {"path": str(here)}, lambda: _list(here)),
        _Action(
            "files",
            "count the lines of this demo",
            {"path": str(source)},
            lambda: StepOk(output=counted(len(source.read_bytes().splitlines()), "line")),
        ),
        _Action("shell", "run a script that is not there", {"command": missing}, lambda: _run(missing)),
    ]


def _run_action(action: _Action) -> Step:
    started_at, began = utc_now(), time.perf_counter()
    try:
        result = action.do()
    except OSError as error:
        result = StepError(message=str(error))
    latency = round((time.perf_counter() - began) * 1000)
    return Step(
        tool=action.tool,
        action=action.action,
        parameters=dict(action.parameters),
        started_at=started_at,
        result=result,
        latency_ms=latency,
    )


def _run(command: list[str]) -> StepResult:
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, without a shell
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return StepTimeout()
    if done.returncode:
        return StepError(message=f"exit code {done.returncode}: {done.stderr.strip()}")
    return StepOk(output=done.stdout.strip() or done.stderr.strip())


def _list(path: Path) -> StepResult:
    names = sorted(entry.name.encode(errors="replace").decode() for entry in path.iterdir())
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return StepOk(output=f"{counted(len(names), 'entry', 'entries')}: {', '.join(names[:_SHOWN_NAMES])}{more}")


def _show_recording(path: str, episode: Episode, *, found: int) -> None:
    say(f"Recorded as episode {episode.id}:\n")
    show_steps(episode.steps)
    if episode.outcome and episode.reward:
        say(f"\nThe episode was completed as {episode.outcome.kind} with reward {episode.reward.total:g}.")
    hits = counted(found, "episode")
    say(f'A query for the words "python version" and the tag "demo" returned {hits}.')
    say(f"The database is {path}. To look at it:\n")
    say(f"  {_command()} show {episode.id} --database {shlex.quote(path)}")
    say(f"  {_command()} query --tag demo --database {shlex.quote(path)}")


def _command() -> str:
    """Return how to call this program: its name, or its path if the name is not on PATH."""
    return "memory-storage" if shutil.which("memory-storage") else shlex.quote(sys.argv[0])
