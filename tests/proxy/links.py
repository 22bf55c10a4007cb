"""Where a relay runs: in a thread of this process, or in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from .relay import Relay

_ANSWER_SECONDS = 30.0
_MAIN = f"from {__name__} import main; main()"
_ROOT = Path(__file__).parents[2]  # where the child finds the package `tests`, whatever a test made its directory


class Link(Protocol):
    """A way to a relay."""

    def get(self, name: str) -> Any:
        """Read an attribute of the relay."""

    def set(self, name: str, value: float | bool | None) -> None:
        """Set an attribute of the relay."""

    def call(self, name: str, *arguments: object) -> None:
        """Call a method of the relay, and wait until it is done."""

    def close(self) -> None:
        """Close the relay, and end its thread or process. Idempotent."""


class ThreadLink:
    """A relay in an event loop of its own, in a thread of this process."""

    def __init__(self, target_port: int, *, record: bool, tls: ssl.SSLContext | None = None) -> None:
        self._relay = Relay(target_port, record=record, tls=tls)
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._ready.result(_ANSWER_SECONDS)

    def get(self, name: str) -> Any:
        """Read an attribute of the relay."""
        value = self._ask(lambda: getattr(self._relay, name))
        return list(value) if isinstance(value, list) else value

    def set(self, name: str, value: float | bool | None) -> None:
        """Set an attribute of the relay."""
        self._ask(lambda: setattr(self._relay, name, value))

    def call(self, name: str, *arguments: object) -> None:
        """Call a method of the relay, and wait until it is done."""
        self._ask(lambda: getattr(self._relay, name)(*arguments))

    def close(self) -> None:
        """Close the relay, and end its thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(_ANSWER_SECONDS)
            if self._thread.is_alive():
                raise RuntimeError(f"the proxy did not close in {_ANSWER_SECONDS:g} s")

    def _ask(self, action: Callable[[], Any]) -> Any:
        if not self._thread.is_alive():  # closed: its counts can still be read
            return action()
        return asyncio.run_coroutine_threadsafe(_awaited(action), self._loop).result(_ANSWER_SECONDS)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        try:
            await self._relay.accept()
        except OSError as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        await self._closing.wait()
        await self._relay.close()


class ProcessLink:
    """A relay in a child process, which is called by lines of JSON and ends when this process does."""

    def __init__(self, target_port: int, *, record: bool) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, str(target_port), "record" if record else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def get(self, name: str) -> Any:
        """Read an attribute of the relay."""
        value = self._ask("get", name)
        return [(head, base64.b64decode(body)) for head, body in value] if name == "requests" else value

    def set(self, name: str, value: float | bool | None) -> None:
        """Set an attribute of the relay."""
        self._ask("set", name, value)

    def call(self, name: str, *arguments: object) -> None:
        """Call a method of the relay, and wait until it is done."""
        self._ask("call", name, *arguments)

    def close(self) -> None:
        """Close the relay, and end its process."""
        with self._lock:
            self._process.communicate()

    def _ask(self, *question: object) -> Any:
        if self._process.stdin is None or self._process.stdout is None or self._process.stdin.closed:
            raise RuntimeError("this proxy is closed")
        with self._lock:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the process of this proxy ended")
        return _unpacked(json.loads(answer))


async def _awaited(action: Callable[[], Any]) -> Any:
    result = action()
    return await result if inspect.isawaitable(result) else result


def _unpacked(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise RuntimeError(f"the proxy's process answered: {answer['error']}")
    return answer["value"]


def main() -> None:
    """Respond to calls until the input ends, in the process of a ProcessLink."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and the end of its pipe this process
    link = ThreadLink(int(sys.argv[1]), record=sys.argv[2] == "record")
    for line in sys.stdin:
        print(json.dumps(_answer(link, *json.loads(line)), default=_text), flush=True)
    link.close()


def _answer(link: ThreadLink, verb: str, *arguments: Any) -> dict[str, Any]:
    try:
        return {"value": getattr(link, verb)(*arguments)}
    except Exception as error:  # noqa: BLE001 - the asker raises it
        return {"error": repr(error)}


def _text(body: bytes) -> str:
    return base64.b64encode(body).decode()
