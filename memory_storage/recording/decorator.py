"""`storage.recorded`: a decorator that records the calls of a function as episodes, or as steps of the current run."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from time import perf_counter
from typing import Any, ParamSpec, TypeVar, cast

from memory_storage.errors import ValidationError
from memory_storage.models.display import shortened

from .run import Run, current_run, set_current_run
from .values import Redact, note_failure

P = ParamSpec("P")
R = TypeVar("R")

_OWNERS = ("self", "cls")
_HOW = "must be a function or a coroutine function (def or async def)"


@dataclass(frozen=True)
class CallRecorder:
    """Records the calls of functions: a storage that fails is logged, and never changes what a function does.

    Attributes:
        start: returns a run of a task and its metadata; nothing is stored before it is saved.
        task: the task of an episode; None: the first line of the docstring, else the name.
        tool: the tool of a step; None: the name of the function.
        parameters: whether arguments are stored, or the names of those that are.
        output: whether the returned value is stored.
        redact: returns what is stored instead of a text.
    """

    start: Callable[[str, Redact | None], Run]
    task: str | None = None
    tool: str | None = None
    parameters: bool | Collection[str] = True
    output: bool = True
    redact: Redact | None = None

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function with its calls recorded.

        Raises:
            ValidationError: It is a generator function, a class, or no function.
        """
        _check(function)
        name = self.tool or str(getattr(function, "__name__", type(function).__name__))
        task = self.task or (inspect.getdoc(function) or "").partition("\n")[0].strip() or name
        signature = inspect.signature(function)

        if inspect.iscoroutinefunction(function):
            work = cast("Callable[..., Awaitable[Any]]", function)

            @wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                call = _Call(self, name, task, self._arguments(signature, args, kwargs))
                try:
                    if call.is_episode:
                        await _in_thread(call.save)
                    call.activate()
                    output = await work(*args, **kwargs)
                except BaseException as error:
                    await _in_thread(partial(call.end, None, error))
                    raise
                finally:
                    call.deactivate()
                await _in_thread(partial(call.end, output, None))
                return output

            return cast("Callable[P, R]", call_async)

        @wraps(function)
        def call_sync(*args: P.args, **kwargs: P.kwargs) -> R:
            call = _Call(self, name, task, self._arguments(signature, args, kwargs))
            if call.is_episode:
                call.save()
            call.activate()
            try:
                output = function(*args, **kwargs)
            except BaseException as error:
                call.end(None, error)
                raise
            finally:
                call.deactivate()
            call.end(output, None)
            return output

        return call_sync

    def _arguments(
        self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments that are stored, by their names."""
        if self.parameters is False:
            return {}
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # the call itself raises it again
            return {}
        bound.apply_defaults()
        names = [name for index, name in enumerate(bound.arguments) if index or name not in _OWNERS]
        return {name: bound.arguments[name] for name in names if self.parameters is True or name in self.parameters}


class _Call:
    """One call of a recorded function: a step of the current run; an episode if there is none."""

    def __init__(self, recorder: CallRecorder, name: str, task: str, arguments: dict[str, Any]) -> None:
        self._recorder, self._name = recorder, name
        outer = current_run()
        self.is_episode = outer is None
        self._run = outer or recorder.start(task, recorder.redact)
        self._is_saved = not self.is_episode
        # Converted now: the function may change its arguments.
        self._capture = self._run._capture(recorder.redact)
        self._parameters = self._capture.json_object("parameters", arguments)
        self._started_at, self._began = self._run._session.now(), perf_counter()

    def save(self) -> None:
        """Save the episode."""
        try:
            self._run._save({"parameters": self._parameters} if self._parameters else {})
            self._is_saved = True
        except Exception as problem:  # noqa: BLE001 - the function is called in any case
            note_failure(f"the call of {shortened(self._name)} is not recorded", problem)

    def activate(self) -> None:
        """Make the episode the current run of this context."""
        if self.is_episode and self._is_saved:
            set_current_run(self._run)

    def deactivate(self) -> None:
        """Make the run before the current one again."""
        if self.is_episode and self._is_saved:
            set_current_run(self._run._outer)

    def end(self, output: object, error: BaseException | None) -> None:
        """Store the result: complete the episode, or append the step."""
        if not self._is_saved:
            return
        try:
            if not self._recorder.output:
                output = None
            if self.is_episode:
                self._run._end(output, error)
            else:
                self._append(output, error)
        except Exception as problem:  # noqa: BLE001 - what the function returns or raises is the caller's
            note_failure(f"the result of {shortened(self._name)} is not recorded", problem, error)

    def _append(self, output: object, error: BaseException | None) -> None:
        latency_ms = round((perf_counter() - self._began) * 1_000)
        step = self._run._make_step(
            self._capture, self._name, "", self._parameters, output, error, self._started_at, latency_ms
        )
        self._run._append(step)


async def _in_thread(work: Callable[[], None]) -> None:
    """Call a function in a thread, and wait for its end also if this task is cancelled: an episode would stay open."""
    import asyncio  # not with this package: it takes longer than the rest of it

    ending = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await ending
        raise


def _check(function: object) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ValidationError("function", f"{_HOW}, not a generator: it ends when its caller stops reading", function)
    if not callable(function) or isinstance(function, type | staticmethod | classmethod):
        raise ValidationError("function", f"{_HOW}; write it below @classmethod and @staticmethod", function)
