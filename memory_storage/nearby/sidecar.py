"""The file beside a database that keeps a graph. It is checked before it is used, and never believed by its name.

    magic, 8 bytes │ length of the header, 8 bytes │ digest of what follows, 32 bytes │ header, JSON │ padding │ graph

The header says what the graph is of, up to which row, and has witnesses: some rows and what identifies them, the last
ones among them. A copy from elsewhere, or from before a backup was restored, has witnesses that the table contradicts.
"""

from __future__ import annotations

import glob
import json
import mmap
import os
import struct
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex

from .graph import Graph

_MAGIC = b"msgraph1"
_FIXED = struct.Struct("<8sQ32s")
_PAGE = 4096
Witnesses = list[tuple[int, str]]


@dataclass(frozen=True)
class Kept:
    """What a sidecar says of its graph. `generation` counts how often it was written; the last two are the graph's."""

    model: str
    dimension: int
    mark: int
    generation: int
    witnesses: Witnesses
    doubled: int
    unreached: list[int]


class Sidecar:
    """The file of one model's graph."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, model: str) -> tuple[Kept, Graph]:
        """The graph, where it is: nothing is copied.

        FileNotFoundError if there is none; ValueError, saying why, if it is not whole or not of this model.
        """
        with self.path.open("rb") as file:
            data = _mapped(file.fileno())
        kept, start = _checked(data)
        if kept.model != model:
            raise ValueError("it is of another model")
        try:
            return kept, Graph.of(kept.dimension, data[start:], kept.doubled, kept.unreached)
        except RuntimeError as error:
            raise ValueError(f"the graph cannot be read: {error}") from error

    def write(self, graph: Graph, kept: Kept) -> None:
        """Put a graph in its place, in one step: who has the old one open goes on with that."""
        header = json.dumps(asdict(kept)).encode()
        start = _start(len(header))
        data = graph.dump()
        padded = header.ljust(start - _FIXED.size, b"\0")
        digest = blake2b(padded, digest_size=32)
        digest.update(data)
        scratch = self.path.with_name(f"{self.path.name}.{token_hex(4)}.tmp")
        try:
            with scratch.open("wb") as file:
                file.write(_FIXED.pack(_MAGIC, len(header), digest.digest()))
                file.write(padded)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._sweep(scratch)
            scratch.replace(self.path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        _sync_directory(self.path.parent)

    def _sweep(self, scratch: Path) -> None:
        """Remove what processes that were killed have left; nobody writes for an hour."""
        now = scratch.stat().st_mtime
        for other in self.path.parent.glob(f"{glob.escape(self.path.name)}.*.tmp"):
            with suppress(FileNotFoundError):
                if other.stat().st_mtime < now - 3600:
                    other.unlink()

    def peek(self) -> Kept | None:
        """What the file says of itself, unchecked; None if that cannot be read. For whether it is worth replacing."""
        with suppress(OSError, ValueError, struct.error, TypeError), self.path.open("rb") as file:
            _, length, _ = _FIXED.unpack(file.read(_FIXED.size))
            if length < 1 << 24:
                return _kept(file.read(length))
        return None

    def delete(self) -> None:
        """Remove it, if it is there."""
        self.path.unlink(missing_ok=True)


def _mapped(descriptor: int) -> memoryview:
    if os.fstat(descriptor).st_size < _FIXED.size:
        raise ValueError("it is too short")
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def _checked(data: memoryview) -> tuple[Kept, int]:
    magic, length, digest = _FIXED.unpack(data[: _FIXED.size])
    if magic != _MAGIC:
        raise ValueError("it is no index, or of another version")
    if blake2b(data[_FIXED.size :], digest_size=32).digest() != digest:
        raise ValueError("its checksum is wrong")
    return _kept(bytes(data[_FIXED.size : _FIXED.size + length])), _start(length)


def _kept(header: bytes) -> Kept:
    try:
        values = json.loads(header)
        return Kept(**{**values, "witnesses": [(seq, digest) for seq, digest in values["witnesses"]]})
    except (TypeError, KeyError) as error:
        raise ValueError(f"its header is of another version: {error}") from error


def _start(header: int) -> int:
    """Where the graph begins: on a page of its own, as it is mapped."""
    return -(-(_FIXED.size + header) // _PAGE) * _PAGE


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
