"""A server with OpenAI's interface for embeddings, on a real socket, with faults to inject."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from memory_storage.embedders import HashingEmbedder

DIMENSION = 16
_EMBEDDER = HashingEmbedder(DIMENSION)


class EmbeddingServer(ThreadingHTTPServer):
    """Keeps its requests, and responds with `statuses` first, as long as there are any."""

    daemon_threads = True

    def __init__(self, certificate: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.statuses: list[int] = []
        self.body: bytes | None = None
        if certificate:
            self.socket = certificate.wrap_socket(self.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(asked | {"path": self.path})
        self.server.keys.append(self.headers["Authorization"])
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 0:
            self.close_connection = True
            return
        vectors = _EMBEDDER.embed(asked["input"])
        entries = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        content = {"data": entries[::-1], "model": asked["model"]}  # any order is allowed
        said = self.headers["Authorization"] or ""
        data = json.dumps(content if status == 200 else {"error": f"refused {said}"}).encode()
        data = data if self.server.body is None else self.server.body
        self.send_response(status)
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def embedding_server(certificate: ssl.SSLContext | None = None) -> Iterator[EmbeddingServer]:
    """Run the server in a thread."""
    server = EmbeddingServer(certificate)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
