"""The SDK's own client, on a server in this process, over stdio, and over HTTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp
from mcp.client.streamable_http import streamable_http_client

import memory_storage as ms
from memory_storage.integrations.mcp import make_server

TOKEN = "a-token-of-the-tests-0123456789"
Scenario = Callable[[mcp.Client], Awaitable[Any]]


def environment(**others: str) -> dict[str, str]:
    """The environment without the caller's settings."""
    names = ("TURSO_", "LIBSQL_", "MEMORY_STORAGE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)} | others


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "memory_storage", "mcp", *map(str, arguments)]


@asynccontextmanager
async def in_process(database: Path, **options: Any) -> AsyncIterator[mcp.Client]:
    with ms.MemoryStorage.open(database, namespace=options.pop("namespace", None)) as storage:
        async with mcp.Client(make_server(storage, **options)) as client:
            yield client


@asynccontextmanager
async def over_stdio(database: Path, *flags: object) -> AsyncIterator[mcp.Client]:
    executable, *arguments = command("--database", database, *flags)
    server = mcp.StdioServerParameters(command=executable, args=arguments, env=environment())
    async with mcp.Client(mcp.stdio_client(server)) as client:
        yield client


@asynccontextmanager
async def over_http(url: str, token: str = TOKEN) -> AsyncIterator[mcp.Client]:
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=30) as http,
        mcp.Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


@contextmanager
def http_server(database: Path, *flags: object, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own: its URL, and the process, whose stderr continues after the URL."""
    process = subprocess.Popen(
        command("--database", database, "--http", "--port", "0", *flags),
        env=environment(**{"MEMORY_STORAGE_MCP_TOKEN": TOKEN} | variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        yield _url_of(process), process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def _url_of(process: subprocess.Popen[str]) -> str:
    said = []
    for line in process.stderr:
        if found := re.search(r" at (https?://\S+)$", line):
            return found[1]
        said.append(line)
    raise AssertionError("".join(said))


def run(client: Any, scenario: Scenario) -> Any:
    """Run a scenario on a client that is not open yet."""

    async def main() -> Any:
        raised = result = None
        async with client as opened:
            try:
                result = await scenario(opened)
            except Exception as failure:  # noqa: BLE001 - raised outside of the client's task groups, so that pytest shows it
                raised = failure
        if raised is not None:
            raised.__context__ = None
            raise raised
        return result

    return anyio.run(main)


async def fields(client: mcp.Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The structured content of an answer that is no error."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content[0].text
    assert result.content[0].text == result.structured_content["markdown"]
    return result.structured_content


async def error(client: mcp.Client, tool: str, /, **arguments: Any) -> str:
    """The message of an answer that is an error."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content[0].text
    return result.content[0].text
