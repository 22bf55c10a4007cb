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
import re
import struct
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from memory_storage._files import replacing

from .graph import Graph

_MAGIC = b"msgraph1"
_FIXED = struct.Struct("<8sQ32s")
_PAGE = 4096
Witnesses = list[tuple[int, str]]


@dataclass(frozen=True)
class Kept:
    """What a sidecar says of its graph.

    `generation` counts how often it was written; `doubled` and `unreached` are the graph's; `schema_version` is the
    database's before the graph's first row was read.
    """

    model: str
    dimension: int
    mark: int
    generation: int
    witnesses: Witnesses
    doubled: int
    unreached: list[int]
    schema_version: int = 0


class Sidecar:
    """The file of one model's graph."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, model: str) -> tuple[Kept, Graph]:
        """The graph. It is read into memory: a file that is mapped would stay on the disk after it was deleted.

        FileNotFoundError if there is none; ValueError, saying why, if it is not whole or not of this model.
        """
        with self.path.open("rb") as file:
            data = _contents(file)
        kept, start = _checked(data)
        if kept.model != model:
            raise ValueError("it is of another model")
        try:
            return kept, Graph.of(kept.dimension, data[start:], kept.doubled, kept.unreached)
        except RuntimeError as error:
            raise ValueError(f"the graph cannot be read: {error}") from error

    def write(self, graph: Graph, kept: Kept, mode: int = 0o600) -> None:
        """Put a graph in its place, in one step. `mode` are the file's permissions."""
        header = json.dumps(asdict(kept)).encode()
        start = _start(len(header))
        data = graph.dump()
        padded = header.ljust(start - _FIXED.size, b"\0")
        digest = blake2b(padded, digest_size=32)
        digest.update(data)
        with replacing(self.path, mode, "tmp") as file:
            file.write(_FIXED.pack(_MAGIC, len(header), digest.digest()))
            file.write(padded)
            file.write(data)
            self._sweep(os.fstat(file.fileno()).st_mtime)

    def _sweep(self, now: float) -> None:
        """Remove what processes that were killed have left; no write takes an hour."""
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


def delete_sidecars(database: Path) -> None:
    """Delete the sidecars beside a database, of all its models, and those that were begun.

    For who has made sure that no process writes one.
    """
    for name in sidecar_names(database):
        database.with_name(name).unlink(missing_ok=True)


def sidecar_names(database: Path) -> list[str]:
    """The names of the sidecars beside a database, and of those that were begun."""
    pattern = re.compile(re.escape(database.name) + r"\.[0-9a-f]{16}\.usearch(\.[0-9a-f]+\.tmp)?")
    return [one.name for one in database.parent.iterdir() if pattern.fullmatch(one.name)]


def _contents(file: BinaryIO) -> memoryview:
    size = os.fstat(file.fileno()).st_size
    if size < _FIXED.size:
        raise ValueError("it is too short")
    data = memoryview(mmap.mmap(-1, size))  # it begins on a page, as the graph in it does
    if file.readinto(data) != size:  # type: ignore[attr-defined]  # it is a BufferedReader
        raise ValueError("it was cut while it was read")
    return data


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
