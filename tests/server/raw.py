"""A minimal client of a server, with urllib3 and without this package."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import urllib3


class Client:
    """Runs SQL on one server or proxy, without retrying anything."""

    def __init__(self, port: int, *, token: str | None = None, path: str = "", **pool: Any) -> None:
        scheme = urllib3.HTTPSConnectionPool if "ca_certs" in pool or "ssl_context" in pool else None
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.path = path
        self.pool = (scheme or urllib3.HTTPConnectionPool)(
            "127.0.0.1", port, headers=headers, retries=False, timeout=10, **pool
        )

    def post(self, *statements: str) -> urllib3.BaseHTTPResponse:
        """One pipeline that closes its stream."""
        requests = [{"type": "execute", "stmt": {"sql": sql}} for sql in statements]
        body = {"baton": None, "requests": [*requests, {"type": "close"}]}
        return self.pool.request("POST", f"{self.path}/v3/pipeline", body=json.dumps(body).encode())

    def run(self, *statements: str) -> list[list[Any]]:
        """The rows of the last statement, as the server's texts; AssertionError if any failed."""
        reply = self.post(*statements)
        assert reply.status == 200, reply.data
        results = json.loads(reply.data)["results"]
        assert [result["type"] for result in results] == ["ok"] * (len(statements) + 1), results
        rows = results[len(statements) - 1]["response"]["result"]["rows"]
        return [[value.get("value") for value in row] for row in rows]


@contextmanager
def client(port: int, **options: Any) -> Iterator[Client]:
    """A client whose connections are closed at the end."""
    made = Client(port, **options)
    try:
        yield made
    finally:
        made.pool.close()


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until it holds; AssertionError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
