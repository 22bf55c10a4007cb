"""The command `mcp`: a Model Context Protocol server on the memory, over stdio or HTTP."""

from __future__ import annotations

import logging
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from memory_storage.errors import ConfigurationError

from .app import app
from .database import open_or_create
from .options import Database, Namespace
from .output import talk


@app.command()
def mcp(
    http: Annotated[bool, typer.Option("--http", help="Serve over HTTP, at the path /mcp, instead of stdio.")] = False,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="With --http: the address; other than loopback only with TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --http: the port; 0 chooses a free one.")] = 8745,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --http: has the token that clients send. Default: MEMORY_STORAGE_MCP_TOKEN, or a new one, "
            "which is written to stderr once.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --http: answer requests to this name too; repeat it."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", metavar="FILE", help="With --http: the certificate chain, PEM.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="With --http: the certificate's private key, PEM.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer no tool that writes.")] = False,
    allow_forget: Annotated[
        bool, typer.Option("--allow-forget", help="Offer the tool that erases an episode, irreversibly.")
    ] = False,
    database: Database = None,
    namespace: Namespace = None,
) -> None:
    """Serve the memory to an AI agent by the Model Context Protocol (MCP). The file is created if there is none."""
    from memory_storage.integrations.mcp import HttpOptions, make_server, read_token, run_http, run_stdio

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    if not http:
        given = {"--token-file": token_file, "--allowed-host": allowed_host, "--tls-certificate": certificate}
        if wrong := [name for name, value in {**given, "--tls-key": key}.items() if value]:
            raise ConfigurationError(f"{', '.join(wrong)}: only with --http")
        with open_or_create(database, namespace) as storage:
            run_stdio(make_server(storage, read_only=read_only, allow_forget=allow_forget))
        return
    options = HttpOptions(host, port, tuple(allowed_host or ()), certificate, key)
    token = read_token(token_file)
    if token is None:
        token = SecretStr(secrets.token_urlsafe(32))
        talk(f"token: {token.get_secret_value()}")
    with open_or_create(database, namespace) as storage:
        server = make_server(storage, read_only=read_only, allow_forget=allow_forget)
        run_http(server, token, options, on_ready=lambda url: talk(f"serving {storage.namespace!r} at {url}"))
