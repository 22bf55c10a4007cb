"""stdio: one client, whose process starts the server and reads its stdout. Nothing else is written there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Protocol, cast

import anyio
import anyio.lowlevel
from mcp.server import MCPServer
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter
from pydantic import ValidationError

from .http import MAX_REQUEST_BYTES

_STDIN = 0
_CHUNK = 2**16
_TAIL = 300
# The id of a request that is no JSON: at its start or its end, where it is no inner object's.
_ID = rb'"id"\s*:\s*(\d{1,15}|"[\w.:-]{1,200}")\s*'
_ID_AT_START = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + b"[,}]")
_ID_AT_END = re.compile(rb",\s*" + _ID + rb"\}\s*$")


class _Sender(Protocol):
    async def send(self, item: SessionMessage) -> None: ...


def run_stdio(server: MCPServer[Any]) -> None:
    """Serve the client at stdin and stdout until it closes stdin, or until SIGTERM or Ctrl-C.

    A call that the storage is working on is finished first. A line that is no request, or has more than 4 MiB, is
    answered with an error.

    Args:
        server: The server, of `make_server`.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    anyio.run(_serve, server)


async def _serve(server: MCPServer[Any]) -> None:
    low_level = server._lowlevel_server  # the public `run_stdio_async` takes no lines
    lines = _Lines()
    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":  # there SIGTERM ends a process at once
            tasks.start_soon(_cancel_on_sigterm, tasks.cancel_scope)
        async with stdio_server(stdin=cast("anyio.AsyncFile[str]", lines)) as (requests, responses):
            lines.start(responses)
            await low_level.run(requests, responses, low_level.create_initialization_options())
        tasks.cancel_scope.cancel()


async def _cancel_on_sigterm(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return


class _Lines:
    """The lines of stdin that are messages; answers the others.

    The SDK's own reader drops what it cannot parse, so that the client waits for an answer; it takes lines of any
    length; and its thread, which is not a daemon, keeps the process from ending before the next line.
    """

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[tuple[bytes, bytes]](1)
        self._responses: _Sender | None = None

    def start(self, responses: _Sender) -> None:
        """Begin to read.

        Args:
            responses: Where the answers to what is no message go.
        """
        self._responses = responses
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="mcp stdin", daemon=True).start()

    async def __aiter__(self) -> AsyncIterator[str]:
        async with self._receive:
            async for line, tail in self._receive:
                refusal = None if not line.strip() else _refusal(line, tail)
                if refusal is None:
                    yield line.decode()
                elif self._responses is not None:
                    await self._responses.send(SessionMessage(refusal))

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError, anyio.BrokenResourceError, OSError):  # the loop or the stream is closed: it ends
            for line in _split(_STDIN):
                asyncio.run_coroutine_threadsafe(self._send.send(line), loop).result()
            asyncio.run_coroutine_threadsafe(self._send.aclose(), loop).result()


def _split(descriptor: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield each line, and the end of what was cut from it, if it is over the limit."""
    line, tail = bytearray(), b""
    while chunk := os.read(descriptor, _CHUNK):
        first, *others = chunk.split(b"\n")
        for index, part in enumerate([first, *others]):
            if index:
                yield bytes(line), tail
                line, tail = bytearray(), b""
            if len(line) + len(part) <= MAX_REQUEST_BYTES and not tail:
                line += part
            else:
                tail = (tail + part)[-_TAIL:]
    yield bytes(line), tail


def _refusal(line: bytes, tail: bytes) -> JSONRPCError | None:
    """Return the answer to a line that is no message; None if it is one."""
    if tail:
        error = ErrorData(code=INVALID_REQUEST, message=f"the message has more than {MAX_REQUEST_BYTES:,} bytes")
    else:
        try:
            jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValidationError as problem:
            is_syntax = problem.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid"
            code, what = (PARSE_ERROR, "JSON") if is_syntax else (INVALID_REQUEST, "a JSON-RPC message")
            error = ErrorData(code=code, message=f"the line is not {what}; nothing was done")
        else:
            return None
    match = _ID_AT_START.match(line[:_TAIL]) or _ID_AT_END.search(tail or line[-_TAIL:])
    return JSONRPCError(jsonrpc="2.0", id=None if match is None else json.loads(match[1]), error=error)
