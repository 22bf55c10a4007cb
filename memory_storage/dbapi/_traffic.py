"""Counts what travels."""

from __future__ import annotations

import threading


class Traffic(threading.local):
    """Bytes that this thread has sent to servers and received, with the heads of HTTP, before encryption."""

    sent = received = 0


traffic = Traffic()
