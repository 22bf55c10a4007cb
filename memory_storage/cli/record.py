"""The commands `record`: a shell command as an episode, or an episode step by step from a script."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import typer
from typer.core import TyperGroup

from memory_storage.errors import ConfigurationError, MemoryStorageError, ValidationError
from memory_storage.models import (
    Abstained,
    Episode,
    Failure,
    Outcome,
    PartialSuccess,
    Step,
    StepError,
    StepOk,
    StepResult,
    StepTimeout,
    Success,
    TaskContext,
)
from memory_storage.models.display import shortened
from memory_storage.sql.validation import replace_unstorable
from memory_storage.storage import MemoryStorage

from . import exit_codes
from .app import app
from .completion import complete_domain, complete_language, complete_tag, complete_task_type, complete_tool
from .database import open_existing, open_or_create
from .ids import EpisodeId, resolve_id
from .options import AsJson, Database, Namespace, pairs
from .output import WholeStream, say, talk, write_json
from .running import Run, run_command

_STDIN = "-"
_ACTION = 1_000  # characters of a command in the action of its step; its parameters have all of it

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="The description of the task.")]
TaskType = Annotated[str, typer.Option(help="A type like debugging or testing.", autocompletion=complete_task_type)]
Domain = Annotated[str, typer.Option(help="The domain of the context.", autocompletion=complete_domain)]
Language = Annotated[str | None, typer.Option(help="The language of the context.", autocompletion=complete_language)]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; repeat it.", autocompletion=complete_tag)]
Metadata = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Metadata; repeat it.")]


class _RecordGroup(TyperGroup):
    """Reads `record TASK -- COMMAND` as `record run TASK -- COMMAND`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the name of the command if the first argument is none: it is a task."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            if "--" not in args:
                ctx.fail(f"no command follows the task {args[0]!r}: write -- before it, like: -- pytest -q")
            args = ["run", *args]
        return super().parse_args(ctx, args)


record = typer.Typer(
    cls=_RecordGroup,
    help="Record a shell command as an episode: record TASK -- COMMAND. Or, from a script: start, step and complete.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(record, name="record")


@record.command()
def run(
    task: TaskArgument,
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="The program and its arguments, without a shell.")
    ],
    task_type: TaskType = "other",
    domain: Domain = "general",
    language: Language = None,
    tag: Tags = None,
    metadata: Metadata = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Run a command, record it as an episode of one step, and exit with its exit code.

    The output appears as usual, and is stored. Of an output over `limits.step_bytes`, the step has the beginning and
    the end, and its metadata say how many bytes are left out. With --json, the output goes to stderr, and the episode
    to stdout.
    """
    with open_or_create(database, namespace) as storage:
        episode = storage.episodes.save(_episode(task, task_type, domain, language, tag, metadata))
        limit = storage.settings.limits.step_bytes
        out, err = (cast("BinaryIO", WholeStream(stream.buffer)) for stream in (sys.stdout, sys.stderr))
        finished = run_command(command, limit, stdout=err if as_json else out, stderr=err)
        try:
            episode = _store(storage, episode, command, finished)
        except MemoryStorageError as error:
            talk(f"error: the command exited with {finished.exit_code}, but was not recorded: {error}")
            raise typer.Exit(finished.exit_code or exit_codes.code_of(error)) from error
    if as_json:
        write_json(episode.model_dump(mode="json"))
    else:
        talk(f"recorded as episode {episode.id}")
    raise typer.Exit(finished.exit_code)


@record.command()
def start(
    task: TaskArgument,
    task_type: TaskType = "other",
    domain: Domain = "general",
    language: Language = None,
    tag: Tags = None,
    metadata: Metadata = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Save a new episode, and print its id for `record step` and `record complete`."""
    with open_or_create(database, namespace) as storage:
        episode = storage.episodes.save(_episode(task, task_type, domain, language, tag, metadata))
    if as_json:
        write_json({"id": episode.id})
    else:
        say(str(episode.id))


@record.command()
def step(
    episode_id: EpisodeId,
    tool: Annotated[str, typer.Option(help="The name of the tool.", autocompletion=complete_tool)],
    action: Annotated[str, typer.Option(help="What was done with it.")] = "",
    parameters: Annotated[str, typer.Option(metavar="JSON", help="The arguments, a JSON object.")] = "{}",
    output: Annotated[str | None, typer.Option(help="The result; - reads it from stdin.")] = None,
    error: Annotated[str | None, typer.Option(help="The message of a step that failed; - reads it from stdin.")] = None,
    timeout: Annotated[bool, typer.Option("--timeout", help="The tool did not respond in time.")] = False,
    latency_ms: Annotated[int, typer.Option(help="The duration in milliseconds.")] = 0,
    tokens: Annotated[int | None, typer.Option(help="Tokens of the language model.")] = None,
    metadata: Metadata = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Append a step to an episode, and print its number. Without a result, the step counts as running."""
    new = Step(
        tool=tool,
        action=action,
        parameters=_json_object("--parameters", parameters),
        result=_result(output, error, timeout=timeout),
        latency_ms=latency_ms,
        tokens_used=tokens,
        metadata=pairs("metadata", metadata or []),
    )
    with open_existing(database, namespace) as storage:
        stored = storage.episodes.append_step(resolve_id(storage, episode_id), new)
    if as_json:
        write_json({"id": stored.id, "step_number": stored.step_number})
    else:
        say(str(stored.step_number))


@record.command()
def complete(
    episode_id: EpisodeId,
    success: Annotated[str | None, typer.Option(metavar="VERDICT", help="The task succeeded.")] = None,
    partial: Annotated[str | None, typer.Option(metavar="VERDICT", help="A part of the task succeeded.")] = None,
    failure: Annotated[str | None, typer.Option(metavar="REASON", help="The task failed.")] = None,
    abstained: Annotated[str | None, typer.Option(metavar="REASON", help="The agent decided to stop.")] = None,
    reward: Annotated[float | None, typer.Option(help="The total reward.")] = None,
    recalled: Annotated[
        str | None, typer.Option(metavar="ID", help="The ID that `recall --keep` printed for the task.")
    ] = None,
    used: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A recalled record that was of use; repeat it for several, none is not known."),
    ] = None,
    rating: Annotated[int | None, typer.Option(help="How much the recall helped, from 1 to 5.")] = None,
    database: Database = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Record the outcome of an episode: exactly one of --success, --partial, --failure and --abstained."""
    outcomes: list[Outcome] = [
        *([] if success is None else [Success(verdict=success)]),
        *([] if partial is None else [PartialSuccess(verdict=partial)]),
        *([] if failure is None else [Failure(reason=failure)]),
        *([] if abstained is None else [Abstained(reason=abstained)]),
    ]
    if len(outcomes) != 1:
        raise ConfigurationError("give exactly one of --success, --partial, --failure and --abstained")
    with open_existing(database, namespace) as storage:
        episode = storage.episodes.complete(
            resolve_id(storage, episode_id),
            outcomes[0],
            reward=reward,
            recalled=recalled,
            used=used or None,
            rating=rating,
        )
    if as_json:
        write_json({"id": episode.id, "outcome": outcomes[0].kind})
    else:
        say(f"completed {episode.id}: {outcomes[0].kind}")


def _episode(
    task: str, task_type: str, domain: str, language: str | None, tag: list[str] | None, metadata: list[str] | None
) -> Episode:
    values: dict[str, Any] = {"task_type": task_type}  # the model checks it
    return Episode(
        task_description=task,
        **values,
        context=TaskContext(domain=domain, language=language),
        tags=tag or [],
        metadata=pairs("metadata", metadata or []),
    )


def _store(storage: MemoryStorage, episode: Episode, command: list[str], finished: Run) -> Episode:
    """Append the step and complete the episode, both or neither."""
    recorded = Step(
        tool=replace_unstorable(Path(command[0]).name),
        action=shortened(replace_unstorable(finished.command), _ACTION),
        parameters=replace_unstorable({"command": command, "directory": str(Path.cwd())}),
        started_at=finished.started_at,
        result=finished.result,
        latency_ms=finished.latency_ms,
        metadata=finished.metadata,
    )
    with storage.transaction() as tx:
        tx.episodes.append_step(episode.id, recorded)
        tx.episodes.complete(episode.id, finished.outcome)
    return storage.episodes.get(episode.id)


def _result(output: str | None, error: str | None, *, timeout: bool) -> StepResult | None:
    results: list[StepResult] = [
        *([] if output is None else [StepOk(output=_text(output))]),
        *([] if error is None else [StepError(message=_text(error))]),
        *([StepTimeout()] if timeout else []),
    ]
    if len(results) > 1:
        raise ConfigurationError("give at most one of --output, --error and --timeout")
    return results[0] if results else None


def _text(value: str) -> str:
    """Return the text, or that of stdin for `-`."""
    return sys.stdin.buffer.read().decode(errors="replace") if value == _STDIN else value


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValidationError(option, "a JSON object", text)
    return value
