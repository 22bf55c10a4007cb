"""Faults of a server, of the connection to it, and of a file. Each is over when its call returns."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import urllib3

import memory_storage as ms
from memory_storage.testing import Sqld
from memory_storage.testing._ports import free_port
from tests.durability.processes import PROCESSES
from tests.durability.work import hold_the_lock
from tests.proxy import Proxy
from tests.server.tokens import Key, token

from .crowd import Crowd
from .plan import Fault

LOCK_OUTLASTS_LINE = 5.0
"""Seconds until the server takes a lock from a transaction whose client is gone."""

Kinds = dict[str, Callable[[Fault], None]]


class OnAFile:
    """Faults of a file and its clients. `back`: when it could be written again, and how long locks may outlast that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.back: list[tuple[float, float]] = []

    def kinds(self, crowd: Crowd) -> Kinds:
        """What can go wrong."""
        return {
            "a client is killed": lambda fault: crowd.kill_one(fault.size),
            "the disk is full": lambda fault: self._fill(crowd, fault),
            "another program holds the lock": self._lock,
        }

    def _fill(self, crowd: Crowd, fault: Fault) -> None:
        limit = self._path.stat().st_size + int(fault.size * 50_000)
        with crowd.lock:
            for pid in crowd.pids:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            time.sleep(fault.seconds)
            for pid in crowd.pids:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.back.append((time.monotonic(), 0.0))

    def _lock(self, fault: Fault) -> None:
        receiver, sender = PROCESSES.Pipe(duplex=False)
        holder = PROCESSES.Process(target=hold_the_lock, args=(sender, self._path, fault.seconds))
        holder.start()
        holder.join()
        holder.close()
        receiver.close()
        sender.close()
        self.back.append((time.monotonic(), 0.0))


class OnAServer:
    """Faults of a server that asks for tokens, of the way to it, and of its clients."""

    def __init__(self, directory: Path) -> None:
        self.token = directory / "token"
        self._directory = directory / "server"
        self._admin = free_port()
        self._port: int | None = None
        self._start()
        assert self._server.port
        self.proxy = Proxy(self._server.port)
        self.back: list[tuple[float, float]] = []

    def close(self) -> None:
        """Stop all of it."""
        self.proxy.close()
        self._server.stop()

    @property
    def direct(self) -> ms.Settings:
        """The way past the proxy, for the check afterwards."""
        return ms.Settings(database=self._server.url, auth_token=self.token.read_text())

    def kinds(self, crowd: Crowd) -> Kinds:
        """What can go wrong."""
        return {
            "a client is killed": lambda fault: crowd.kill_one(fault.size),
            "the server is killed": self._kill,
            "the line is cut": lambda fault: self.proxy.cut_all(reset=fault.size < 0.5),
            "replies are cut": lambda fault: self._cut(self.proxy.cut_reply_after, fault),
            "requests are cut": lambda fault: self._cut(self.proxy.cut_request_after, fault),
            "the line is slow": self._delay,
            "no response": self._deafen,
            "no listener": self._refuse,
            "the server is full": self._fill,
            "the tokens are over": self._expire,
        }

    def _start(self) -> None:
        key = Key()
        arguments = ("--admin-listen-addr", f"127.0.0.1:{self._admin}")
        self._server = Sqld(
            directory=self._directory, port=self._port, jwt_public_key=key.public_pem, arguments=arguments
        )
        self._port = self._server.port
        self._key = key
        self._give(expires_in=3600)
        self._server.start()

    def _give(self, expires_in: float) -> None:
        fresh = self.token.with_suffix(".new")
        fresh.write_text(token(key=self._key, expires_in=expires_in))
        fresh.replace(self.token)

    def _kill(self, fault: Fault) -> None:
        self._server.kill()
        time.sleep(fault.seconds)
        self._server.start()
        self.back.append((time.monotonic(), 0.0))

    def _cut(self, after: Callable[..., None], fault: Fault) -> None:
        after(int(fault.size * 3_000), times=1 + int(fault.seconds * 5))
        time.sleep(fault.seconds)
        after(None)

    def _delay(self, fault: Fault) -> None:
        self.proxy.latency = fault.size / 2
        time.sleep(fault.seconds)
        self.proxy.latency = 0.0

    def _deafen(self, fault: Fault) -> None:
        self.proxy.deaf = True
        time.sleep(fault.seconds)
        self.proxy.deaf = False

    def _refuse(self, fault: Fault) -> None:
        self.proxy.refuse()
        self.proxy.cut_all()
        time.sleep(fault.seconds)
        self.proxy.accept()
        self.back.append((time.monotonic(), LOCK_OUTLASTS_LINE))

    def _fill(self, fault: Fault) -> None:
        self._limit(100_000)
        time.sleep(fault.seconds)
        self._limit(2**40)
        self.back.append((time.monotonic(), LOCK_OUTLASTS_LINE))

    def _limit(self, size: int) -> None:
        url = f"http://127.0.0.1:{self._admin}/v1/namespaces/default/config"
        stored = json.loads(urllib3.request("GET", url, timeout=10).data)
        answer = urllib3.request("POST", url, json={**stored, "max_db_size": size}, timeout=10)
        assert answer.status == 200, answer.data
        self.proxy.cut_all()  # a stream that is open keeps the limit it began with

    def _expire(self, fault: Fault) -> None:
        """The server has another key, and the issuer of tokens has only old ones for a while."""
        self._server.kill()
        self._start()
        self._give(expires_in=-10)
        time.sleep(fault.seconds)
        self._give(expires_in=3600)
        self.back.append((time.monotonic(), 0.0))


def apply(fault: Fault, kinds: Kinds) -> float:
    """Have it happen; when it began."""
    time.sleep(fault.peace)
    began = time.monotonic()
    kinds[fault.kind](fault)
    return began
