"""Processes of peers, whose calls to sync a file are counted or slowed down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from . import Peer

SLOWEST_SYNC = 0.002
"""The least seconds of a sync in a process that is slowed down."""

_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <time.h>

/* Call the real function, then wait until it has taken the least time. */
static int slow(const char *name, int fd) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    struct timespec start, now, rest;
    clock_gettime(CLOCK_MONOTONIC, &start);
    int result = sync(fd), error = errno;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long left = NANOSECONDS - (now.tv_sec - start.tv_sec) * 1000000000L - (now.tv_nsec - start.tv_nsec);
    if (left > 0) {
        rest.tv_sec = left / 1000000000L;
        rest.tv_nsec = left % 1000000000L;
        nanosleep(&rest, 0);
    }
    errno = error;
    return result;
}

int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
"""


class Process:
    """A peer in a process of its own; see `benchmarks._peers.__main__`."""

    def __init__(self, peer: Peer, directory: Path, *, prefix: Sequence[str], environment: Mapping[str, str]) -> None:
        directory.mkdir(parents=True)
        command = [*prefix, sys.executable, "-m", __package__ or "", peer.name, str(directory)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
            cwd=Path(__file__).parents[2],
        )

    def call(self, command: str) -> None:
        """Send a command, and wait for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"{self._process.args!r} has ended at {command!r}")

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


@contextmanager
def process(
    peer: Peer, directory: Path, *, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Start a process of a peer, and end it."""
    started = Process(peer, directory, prefix=prefix, environment=environment or {})
    try:
        yield started
    finally:
        started.close()


def slow_syncs(directory: Path) -> dict[str, str] | None:
    """Return the environment of a process whose syncs are slow; None where there is no C compiler or no LD_PRELOAD."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    source, library = directory / "slow.c", directory / "slow.so"
    source.write_text(_SHIM, encoding="utf-8")
    nanoseconds = f"-DNANOSECONDS={round(SLOWEST_SYNC * 1e9)}L"
    command = [compiler, "-shared", "-fPIC", "-O1", nanoseconds, str(source), "-o", str(library), "-ldl"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    return {"LD_PRELOAD": str(library)}


def syncs(peer: Peer, directory: Path, calls: int) -> dict[str, float] | None:
    """Return how often a save and a get sync a file, in the mean of the calls; None where strace cannot trace."""
    tracer = shutil.which("strace")
    if tracer is None:
        return None
    log = directory / "syncs"
    prefix = [tracer, "-f", "-qq", "-o", str(log), "-e", "trace=fsync,fdatasync"]
    with process(peer, directory / "store", prefix=prefix) as traced:
        try:
            # Twice: tables and indexes that come into being with the first episodes are not a cost of each.
            for first in (0, calls):
                traced.call(f"prepare {first} {calls}")
                counts = [_count(log)]
                for command in ("save", "get"):
                    traced.call(command)
                    counts.append(_count(log))
        except (RuntimeError, OSError):
            return None
    saves, gets = (after - before for before, after in pairwise(counts))
    return {"save": saves / calls, "get": gets / calls}


def _count(log: Path) -> int:
    # A call that another thread interrupts has two lines, of which the second has no "(".
    return sum("sync(" in line for line in log.read_text(encoding="utf-8").splitlines())
