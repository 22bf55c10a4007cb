"""What the connections of a relay share: settings, armed faults, and counters."""

from __future__ import annotations

import ssl
from collections import deque

from .requests import RequestReader

REQUESTS, REPLIES = "requests", "replies"


class Traffic:
    """Settings that may be set at any time, the faults that are armed, and counts of what passed."""

    def __init__(self, target_port: int, *, record: bool, tls: ssl.SSLContext | None = None) -> None:
        self.latency = 0.0
        self.throttle: float | None = None
        self.deaf = False
        self.target_port = target_port
        self.requests: list[tuple[str, bytes]] = []
        self.keeps_requests = record
        self.tls = tls
        self._faults: dict[str, deque[tuple[int, bool]]] = {REQUESTS: deque(), REPLIES: deque()}
        self.reset_counts()

    def reset_counts(self) -> None:
        """Set every counter to zero, and drop the recorded requests."""
        self.connections = self.round_trips = self.bytes_sent = self.bytes_received = self.cuts = 0
        self.requests.clear()

    def arm(self, direction: str, after: int | None, reset: bool, times: int) -> None:
        """Let the next connections that carry bytes in a direction be cut; None disarms."""
        faults = self._faults[direction]
        faults.clear()
        if after is not None:
            faults.extend([(after, reset)] * times)

    def claim(self, direction: str) -> tuple[int, bool] | None:
        """Take the next armed fault of a direction, for the connection that calls; None if there is none."""
        faults = self._faults[direction]
        return faults.popleft() if faults else None

    def count_requests(self, reader: RequestReader, began: int) -> None:
        """Count requests that began, and keep the complete ones if they are recorded."""
        self.round_trips += began
        self.requests += reader.take()

    def count_bytes(self, direction: str, size: int) -> None:
        """Count bytes that were forwarded."""
        if direction == REQUESTS:
            self.bytes_sent += size
        else:
            self.bytes_received += size
