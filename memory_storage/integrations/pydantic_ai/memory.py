"""The capability that gives an agent an episodic memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_ai import ModelRequestContext, RunContext, ToolDefinition
from pydantic_ai.capabilities import (
    AbstractCapability,
    ValidatedToolArgs,
    WrapRunHandler,
    WrapToolExecuteHandler,
)
from pydantic_ai.exceptions import (
    ApprovalRequired,
    CallDeferred,
    SkipToolExecution,
    ToolFailedError,
    ToolRetryError,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import ModelRequest, ModelResponse, ToolCallPart, ToolReturnPart
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import AgentDepsT
from pydantic_ai.toolsets import AgentToolset
from typing_extensions import Self

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations._threads import as_async
from memory_storage.models import TaskContext, TaskType
from memory_storage.recall import RecallRequest, estimate_tokens
from memory_storage.sql.validation import flag, function, to_list
from memory_storage.storage import MemoryStorage

from .recorder import MemoryOptions, RunRecorder
from .tools import TOOL_NAMES, MemoryTools


class EpisodicMemory(AbstractCapability[AgentDepsT]):
    """An episodic memory for `Agent(..., capabilities=[EpisodicMemory(storage)])`.

    Before a run it recalls for the text of the user's prompt, and adds the Markdown to the instructions. The run is an
    episode: its task is that text, its steps are the calls of function tools, and its outcome is Success with the
    output, Failure with the exception, or Abstained if it was cancelled or waits for deferred tools. Completing it
    links what was recalled.

    No method blocks the event loop. An error of the storage is logged, and never changes the outcome of a run. The
    caller closes the storage.
    """

    def __init__(
        self,
        storage: MemoryStorage | AsyncMemoryStorage,
        *,
        k: int = 5,
        budget_tokens: int = 2_000,
        count_tokens: Callable[[str], int] | None = None,
        task_type: TaskType | str = TaskType.OTHER,
        context: TaskContext | None = None,
        tags: Sequence[str] = (),
        redact: Callable[[str], str] | None = None,
        namespace_of: Callable[[RunContext[Any]], str | None] | None = None,
        tools: bool = False,
    ) -> None:
        """Use a storage, which any number of agents and runs may share.

        Args:
            storage: Where episodes are stored. Those on one MemoryStorage share threads that run their calls; those on
                an AsyncMemoryStorage use its threads.
            k: The greatest number of successes that are recalled, from 1 to 1,000.
            budget_tokens: The greatest number of tokens of a recall; 0 to recall nothing before a run.
            count_tokens: Counts the tokens of a text; by default an estimate.
            task_type: The kind of work of the episodes.
            context: The surroundings of the episodes.
            tags: Tags of the episodes.
            redact: Returns what is stored instead of a text: of tasks, parameters, outputs, errors and verdicts.
            namespace_of: Returns the namespace of a run, like `lambda context: context.deps.tenant`; None for that of
                the storage.
            tools: Whether the agent gets the tools `recall_memory` and `search_memory`. Their calls are no steps.

        Raises:
            ConfigurationError: `storage` is no storage.
            ValidationError: Another argument is invalid.
        """
        self._storage = as_async(storage)
        if namespace_of is not None:
            function("namespace_of", namespace_of, "lambda context: context.deps.tenant")
        self._options = MemoryOptions(
            k, budget_tokens, count_tokens, task_type, context, to_list(tags, "tags"), redact, namespace_of
        )
        self._has_tools = flag("tools", tools)
        self._check()
        self._recorder: RunRecorder | None = None
        self._calls: dict[str, ToolCallPart] = {}
        self._tokens: dict[str, int] = {}
        self._recorded: set[str] = set()

    def _check(self) -> None:
        """Raise what is wrong with an option now, since a run only logs it."""
        options = self._options
        counter = estimate_tokens if options.count_tokens is None else options.count_tokens
        RecallRequest("a task", options.k, options.budget_tokens, counter)
        options.record(self._storage._storage, "a task")

    @classmethod
    def get_serialization_name(cls) -> str | None:
        """Return None: a storage cannot be written into the specification of an agent."""
        return None

    async def for_run(self, ctx: RunContext[AgentDepsT]) -> Self:
        """Return the capability of one run."""
        one = copy.copy(self)
        one._recorder = RunRecorder(self._storage, self._options, ctx)
        one._calls, one._tokens, one._recorded = {}, {}, set()
        return one

    def get_instructions(self) -> Callable[[], str]:
        """Return what returns the recall of the run."""
        return lambda: "" if self._recorder is None else self._recorder.recalled

    def get_toolset(self) -> AgentToolset[AgentDepsT] | None:
        """Return the tools of the memory, if the agent gets them."""
        return MemoryTools(self._recorder).toolset() if self._has_tools else None

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Recall, run, and complete the episode.

        Args:
            ctx: The context of the run.
            handler: Runs the agent.

        Returns:
            The result of the run.
        """
        recorder = self._recorder or RunRecorder(self._storage, self._options, ctx)
        try:
            await recorder.begin(ctx)
            result = await handler()
        except BaseException as error:
            await recorder.end(ctx, error=error)
            raise
        await recorder.end(ctx, result.output)
        return result

    async def wrap_tool_execute(
        self,
        ctx: RunContext[AgentDepsT],  # noqa: ARG002 - of the interface
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,  # noqa: ARG002
        args: ValidatedToolArgs,
        handler: WrapToolExecuteHandler,
    ) -> Any:
        """Run a tool, and append its step.

        Args:
            ctx: The context of the call.
            call: The call.
            tool_def: The tool.
            args: The arguments, validated.
            handler: Runs the tool.

        Returns:
            The result of the tool.
        """
        if self._recorder is None or self._is_own(call.tool_name):
            return await handler(args)
        call_id = call.tool_call_id
        step = self._recorder.start_step(call.tool_name, args, call_id, self._tokens.get(call_id))
        try:
            output = await handler(args)
        except (CallDeferred, ApprovalRequired):
            self._recorder.forget_step(step)  # it is not executed in this run
            raise
        except SkipToolExecution as skipped:
            self._recorded.add(call_id)
            await self._recorder.end_step(step, skipped.result)
            raise
        except BaseException as error:
            self._recorded.add(call_id)
            await self._recorder.end_step(step, error=_cause_of(error))
            raise
        self._recorded.add(call_id)
        await self._recorder.end_step(step, output)
        return output

    async def before_model_request(
        self, ctx: RunContext[AgentDepsT], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Append the steps of calls that no tool of this run has executed: refused ones, and external ones.

        Args:
            ctx: The context of the run.
            request_context: The request.

        Returns:
            The request, unchanged.
        """
        request = ctx.messages[-1] if ctx.messages else None
        if self._recorder is not None and isinstance(request, ModelRequest) and request.run_id == ctx.run_id:
            for part in request.parts:
                if isinstance(part, ToolReturnPart) and part.tool_call_id not in self._recorded:
                    await self._record_return(self._recorder, part)
        return request_context

    async def after_model_request(
        self,
        ctx: RunContext[AgentDepsT],  # noqa: ARG002 - of the interface
        *,
        request_context: ModelRequestContext,  # noqa: ARG002
        response: ModelResponse,
    ) -> ModelResponse:
        """Note which calls the model asks for, and the tokens of a request that asks for one.

        Args:
            ctx: The context of the run.
            request_context: The request.
            response: The response.

        Returns:
            The response, unchanged.
        """
        calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
        self._calls = {call.tool_call_id: call for call in calls}
        if len(calls) == 1 and (tokens := response.usage.total_tokens):
            self._tokens[calls[0].tool_call_id] = tokens
        return response

    async def _record_return(self, recorder: RunRecorder, part: ToolReturnPart) -> None:
        self._recorded.add(part.tool_call_id)
        if self._is_own(part.tool_name):
            return
        call = self._calls.get(part.tool_call_id)
        arguments = call.args if call is not None else None
        if not isinstance(arguments, dict):
            arguments = {} if arguments is None else {"arguments": arguments}  # text that may be no JSON
        step = recorder.start_step(part.tool_name, arguments, part.tool_call_id, self._tokens.get(part.tool_call_id))
        if part.outcome == "success":
            await recorder.end_step(step, part.content, tool_outcome=part.outcome)
        else:
            await recorder.end_step(step, error=_text_of(part), tool_outcome=part.outcome)

    def _is_own(self, tool_name: str) -> bool:
        return self._has_tools and tool_name in TOOL_NAMES


def _cause_of(error: BaseException) -> BaseException:
    """Return what a tool has raised, which the framework wraps to report it to the model, or as the end of retries."""
    while isinstance(error, ToolRetryError | ToolFailedError | UnexpectedModelBehavior) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _text_of(part: ToolReturnPart) -> str:
    """Return why a call was refused: a text, or the errors of its arguments."""
    if not isinstance(part.content, list):
        return part.content if isinstance(part.content, str) else part.model_response_str()
    errors = [one for one in part.content if isinstance(one, dict)]
    return "; ".join(f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg')}" for one in errors)
