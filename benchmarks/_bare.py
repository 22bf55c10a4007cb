"""The baseline on a server: the same requests by `http.client`, which show what server, line and machine allow."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from http.client import HTTPConnection
from typing import Any
from unittest.mock import patch

from memory_storage.dbapi._http import Channel
from memory_storage.models.model import new_id

from ._measure import Work


class Bare:
    """The one request of a call, for any number of threads, each with its own connection and stream."""

    def __init__(self, call: Work, added: str = "") -> None:
        """Keep the request that `call` sends; `added` is the id of what it adds, which is new in each request."""
        requests: list[tuple[Any, str, bytes]] = []
        post = Channel.post

        def record(channel: Channel, origin: Any, path: str, body: bytes, deadline: Any) -> Any:
            requests.append((origin, path, body))
            return post(channel, origin, path, body, deadline)

        with patch.object(Channel, "post", record):
            call()
        ((self._origin, self._path, body),) = requests
        self._requests = json.dumps(json.loads(body)["requests"])
        self._receipts = re.findall('"base64": "(.*?)"', self._requests) if added else []
        self._added = added
        self._own = threading.local()

    def __call__(self) -> object:
        """Send the request, and decode the response."""
        own, requests = self._own, self._requests
        if not hasattr(own, "connection"):
            own.connection, own.baton = HTTPConnection(self._origin.host, self._origin.port), None
        if self._added:
            requests = requests.replace(self._added, str(new_id()))
        for receipt in self._receipts:
            requests = requests.replace(receipt, base64.b64encode(os.urandom(16)).decode())
        body = f'{{"baton": {json.dumps(own.baton)}, "requests": {requests}}}'
        own.connection.request("POST", self._path, body, {"Content-Type": "application/json"})
        response = json.loads(own.connection.getresponse().read())
        own.baton = response["baton"]
        if any(result["type"] != "ok" for result in response["results"]):
            raise RuntimeError(f"the server refused the request: {response}")
        return response
