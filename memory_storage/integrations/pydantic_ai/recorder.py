"""One run of an agent: what is recalled for it, and the episode that it is recorded as."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from time import perf_counter
from typing import Any

from pydantic_ai import DeferredToolRequests, RunContext, RunTimedOut, ToolReturn
from pydantic_ai.messages import ModelMessage, ModelRequest, TextContent, UserContent, UserPromptPart

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.models import Abstained, Outcome, Recall, Success, TaskContext, TaskType
from memory_storage.models.model import JsonObject
from memory_storage.recall import RecallRequest
from memory_storage.recording import Run
from memory_storage.recording.run import set_current_run
from memory_storage.recording.values import Capture, Redact, fitting_task, note_failure
from memory_storage.storage import MemoryStorage

SOURCE = "pydantic-ai"


@dataclass(frozen=True)
class MemoryOptions:
    """The options of an EpisodicMemory, validated; see there."""

    k: int
    budget_tokens: int
    count_tokens: Callable[[str], int] | None
    task_type: TaskType | str
    context: TaskContext | None
    tags: Sequence[str]
    redact: Redact | None
    namespace_of: Callable[[RunContext[Any]], str | None] | None

    def recall(self, storage: MemoryStorage, task: str) -> Recall:
        """Return what the memory has about a task, also if nothing is recalled before a run."""
        budget = self.budget_tokens or RecallRequest.budget_tokens
        return storage.recall(task, k=self.k, budget_tokens=budget, count_tokens=self.count_tokens)

    def record(self, storage: MemoryStorage, task: str, metadata: Mapping[str, Any] | None = None) -> Run:
        """Return a run of a task; nothing is stored before it is saved."""
        return storage.record(
            task,
            task_type=self.task_type,
            context=self.context,
            tags=self.tags,
            metadata=metadata,
            redact=self.redact,
        )


class RunRecorder:
    """Recalls for one run of an agent, and records it. An error of the storage is logged, and not raised.

    Attributes:
        options: the options of the capability.
        storage: the storage in the namespace of the run; None if `namespace_of` failed.
        recalled: the Markdown of the recall; "" if there is none.
    """

    def __init__(self, storage: AsyncMemoryStorage, options: MemoryOptions, context: RunContext[Any]) -> None:
        self._calls, self.options = storage._calls, options
        self.storage: MemoryStorage | None = None
        self.recalled = ""
        self._recall: Recall | None = None
        self._run: Run | None = None
        self._open_steps: list[PendingStep] = []
        try:
            namespace = options.namespace_of(context) if options.namespace_of is not None else None
            sync = storage._storage
            self.storage = sync if namespace is None else sync.in_namespace(namespace)
        except Exception as problem:  # noqa: BLE001 - a caller's function must not break the run
            note_failure("a run has no namespace, and is not recorded", problem)

    async def read(self, work: Callable[[RunRecorder, MemoryStorage], str]) -> str:
        """Return what `work` reads in the namespace of the run, which a thread runs."""
        if self.storage is None:
            return ""
        return await self._calls.run(partial(work, self, self.storage))

    async def begin(self, context: RunContext[Any]) -> None:
        """Recall for the prompt, save the episode, and make it the current run of this task."""
        if self.storage is None:
            return
        prompt = user_text(context)
        name = context.agent.name if context.agent is not None else None
        facts = {
            "source": SOURCE,
            "agent": name,
            "conversation": context.conversation_id,
            "run_id": context.run_id,
        }
        metadata: JsonObject = {key: value for key, value in facts.items() if value}
        await self._calls.run(partial(self._begin, self.storage, prompt, name or "agent", metadata))
        if self._run is not None:
            set_current_run(self._run)  # the framework hands it to the tasks of the run

    async def end(self, context: RunContext[Any], output: object = None, error: BaseException | None = None) -> None:
        """Complete the episode, also in a task that is cancelled.

        Args:
            context: The context of the run.
            output: What the run returns.
            error: What has ended it, instead.
        """
        run, self._run = self._run, None
        if run is None:
            return
        time_left = context.remaining_time()
        if isinstance(error, CancelledError) and time_left is not None and time_left <= 0:
            # The framework raises it later: a capability observes the cancellation of the run only.
            cause: BaseException | None = RunTimedOut("the run was not finished before its deadline")
        else:
            cause = without_message(error)
        # Of a run that is cancelled, the framework ends the capabilities before the tools.
        open_steps, self._open_steps = self._open_steps, []
        await self._finish(partial(_end, run, open_steps, output, cause), f"the end of episode {run.id}", error)

    def start_step(
        self, tool: str, arguments: Mapping[str, Any], call_id: str, tokens_used: int | None = None
    ) -> PendingStep | None:
        """Return the step of a tool that begins now; None if the run is not recorded.

        Args:
            tool: The name of the tool.
            arguments: Its arguments; they are converted now, since the tool may change them.
            call_id: The id of the call.
            tokens_used: The tokens of the model's request that asked for it alone.
        """
        if self._run is None:
            return None
        capture, now = self._run._capture(), self._run._session.now()
        parameters = capture.json_object("parameters", arguments)
        step = PendingStep(self._run, tool, capture, parameters, call_id, tokens_used, now, perf_counter())
        self._open_steps.append(step)
        return step

    async def end_step(
        self,
        step: PendingStep | None,
        output: object = None,
        error: BaseException | str | None = None,
        tool_outcome: str | None = None,
    ) -> None:
        """Append a step, also in a task that is cancelled.

        Args:
            step: The step; None for a run that is not recorded.
            output: What the tool has returned.
            error: Why it failed, instead.
            tool_outcome: The framework's word for a call that no tool has executed.
        """
        if step is None or step not in self._open_steps:
            return
        self._open_steps.remove(step)
        if isinstance(output, ToolReturn):
            output = output.return_value
        raised = error if isinstance(error, BaseException) else None
        work = partial(step.append, perf_counter(), output, without_message(raised) or error, tool_outcome)
        await self._finish(work, f"a step of episode {step.run.id}", raised)

    def forget_step(self, step: PendingStep | None) -> None:
        """Append no step: the tool does not work in this run."""
        if step in self._open_steps:
            self._open_steps.remove(step)

    async def _finish(self, work: Callable[[], object], what: str, error: BaseException | None) -> None:
        try:
            await self._calls.finish(work)
        except Exception as problem:  # noqa: BLE001 - what the run returns or raises is the caller's
            note_failure(f"{what} is not recorded", problem, error)

    def _begin(self, storage: MemoryStorage, prompt: str, name: str, metadata: JsonObject) -> None:
        limits = storage.settings.limits
        task = fitting_task(Capture(limits, self.options.redact).text("task", prompt), limits.task_description)
        if task and self.options.budget_tokens:
            try:
                self._recall = self.options.recall(storage, task)
                self.recalled = str(self._recall)
            except Exception as problem:  # noqa: BLE001 - the agent works without its memory
                note_failure("nothing is recalled for a run", problem)
        try:
            run = self.options.record(storage, task or f"A run of {name}", metadata)
            run.recalled = self._recall
            run._save({})
            self._run = run
        except Exception as problem:  # noqa: BLE001 - as above
            note_failure("a run is not recorded", problem)


@dataclass(frozen=True, eq=False)
class PendingStep:
    """A step while its tool works."""

    run: Run
    tool: str
    capture: Capture
    parameters: JsonObject
    call_id: str
    tokens_used: int | None
    started_at: datetime
    began: float

    def append(
        self, ended: float, output: object, error: BaseException | str | None, tool_outcome: str | None = None
    ) -> None:
        """Append it to the episode.

        Args:
            ended: When the tool has ended, by the clock of `began`.
            output: What it has returned.
            error: Why it failed, instead.
            tool_outcome: The framework's word for a call that no tool has executed.
        """
        metadata = {"tool_call_id": self.call_id} | ({"tool_outcome": tool_outcome} if tool_outcome else {})
        step = self.run._make_step(
            *(self.capture, self.tool, "", self.parameters, output, error),
            *(self.started_at, round((ended - self.began) * 1_000), self.tokens_used, metadata),
        )
        self.run._append(step)


def user_text(context: RunContext[Any]) -> str:
    """Return the text of the newest prompt of the user: that of the run, else of its history; "" if it has none."""
    if context.prompt is not None:
        return _text_of(context.prompt)
    return next((_text_of(prompt) for prompt in _prompts(context.messages)), "")


def _prompts(messages: Sequence[ModelMessage]) -> list[str | Sequence[UserContent]]:
    """Return the prompts of the user, the newest first."""
    requests = [one for one in reversed(messages) if isinstance(one, ModelRequest)]
    return [part.content for one in requests for part in reversed(one.parts) if isinstance(part, UserPromptPart)]


def _text_of(prompt: str | Sequence[UserContent]) -> str:
    if isinstance(prompt, str):
        return prompt.strip()
    texts = [one.content if isinstance(one, TextContent) else one for one in prompt]
    return "\n".join(text for text in texts if isinstance(text, str)).strip()


def without_message(error: BaseException | None) -> BaseException | None:
    """Return an exception without the message of a cancellation, which has an address in memory."""
    return CancelledError() if isinstance(error, CancelledError) else error


def _end(run: Run, open_steps: Sequence[PendingStep], output: object, error: BaseException | None) -> None:
    for step in open_steps:
        step.append(perf_counter(), None, CancelledError())
    if error is None:
        run.complete(_outcome_of(output, run))
    else:
        run._end(None, error)


def _outcome_of(output: object, run: Run) -> Outcome:
    if isinstance(output, DeferredToolRequests):
        names = dict.fromkeys(call.tool_name for call in (*output.calls, *output.approvals))
        stopped_at = run._last_step - 1 if run._last_step else None
        return Abstained(reason=f"paused until there are results of {', '.join(names)}", stopped_at_step=stopped_at)
    return Success(verdict=run._capture().text("verdict", output))
