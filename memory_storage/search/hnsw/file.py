"""The file beside a database that keeps a graph. It is checked before it is used, and never believed by its name.

    magic, 8 bytes │ length of the header, 8 bytes │ digest of what follows, 32 bytes │ header, JSON │ padding │ graph

The header says what the graph is of, up to which row, and has fingerprints: some rows and what identifies them,
the last ones among them. A copy from elsewhere, or from before a backup was restored, contradicts the table in one.
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
_PREFIX = struct.Struct("<8sQ32s")
_PAGE = 4096
Fingerprints = list[tuple[int, str]]


@dataclass(frozen=True)
class IndexHeader:
    """What a sidecar says of its graph.

    `generation` counts how often it was written; `duplicates` and `unreachable` are the graph's; `schema_version` is
    the database's before the graph's first row was read.
    """

    model: str
    dimension: int
    mark: int
    generation: int
    fingerprints: Fingerprints
    duplicates: int
    unreachable: list[int]
    schema_version: int = 0


class Sidecar:
    """The file of one model's graph."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, model: str) -> tuple[IndexHeader, Graph]:
        """The graph. It is read into memory: a file that is mapped would stay on the disk after it was deleted.

        FileNotFoundError if there is none; ValueError, saying why, if it is not whole or not of this model.
        """
        with self.path.open("rb") as file:
            data = _contents(file)
        header, start = _verify(data)
        if header.model != model:
            raise ValueError("it is of another model")
        try:
            return header, Graph.of(header.dimension, data[start:], header.duplicates, header.unreachable)
        except RuntimeError as error:
            raise ValueError(f"the graph cannot be read: {error}") from error

    def write(self, graph: Graph, header: IndexHeader, mode: int = 0o600) -> None:
        """Put a graph in its place, in one step. `mode` are the file's permissions."""
        encoded = _encode_header(header)
        start = _graph_offset(len(encoded))
        data = graph.dump()
        padded = encoded.ljust(start - _PREFIX.size, b"\0")
        digest = blake2b(padded, digest_size=32)
        digest.update(data)
        with replacing(self.path, mode, "tmp") as file:
            file.write(_PREFIX.pack(_MAGIC, len(encoded), digest.digest()))
            file.write(padded)
            file.write(data)
            self._remove_stale_temp_files(os.fstat(file.fileno()).st_mtime)

    def _remove_stale_temp_files(self, now: float) -> None:
        """Remove what processes that were killed have left; no write takes an hour."""
        for other in self.path.parent.glob(f"{glob.escape(self.path.name)}.*.tmp"):
            with suppress(FileNotFoundError):
                if other.stat().st_mtime < now - 3600:
                    other.unlink()

    def read_header(self) -> IndexHeader | None:
        """What the file says of itself, unchecked; None if that cannot be read. For whether it is worth replacing."""
        with suppress(OSError, ValueError, struct.error, TypeError), self.path.open("rb") as file:
            _, length, _ = _PREFIX.unpack(file.read(_PREFIX.size))
            if length < 1 << 24:
                return _parse_header(file.read(length))
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
    if size < _PREFIX.size:
        raise ValueError("it is too short")
    data = memoryview(mmap.mmap(-1, size))  # it begins on a page, as the graph in it does
    if file.readinto(data) != size:  # type: ignore[attr-defined]  # it is a BufferedReader
        raise ValueError("it was cut while it was read")
    return data


def _verify(data: memoryview) -> tuple[IndexHeader, int]:
    magic, length, digest = _PREFIX.unpack(data[: _PREFIX.size])
    if magic != _MAGIC:
        raise ValueError("it is no index, or of another version")
    if blake2b(data[_PREFIX.size :], digest_size=32).digest() != digest:
        raise ValueError("its checksum is wrong")
    return _parse_header(bytes(data[_PREFIX.size : _PREFIX.size + length])), _graph_offset(length)


# The names of fields in the file, where they are not those of the class: files of earlier versions stay readable.
_STORED_NAMES = {"fingerprints": "witnesses", "duplicates": "doubled", "unreachable": "unreached"}


def _encode_header(header: IndexHeader) -> bytes:
    return json.dumps({_STORED_NAMES.get(name, name): value for name, value in asdict(header).items()}).encode()


def _parse_header(encoded: bytes) -> IndexHeader:
    try:
        values = json.loads(encoded)
        values |= {name: values.pop(stored) for name, stored in _STORED_NAMES.items()}
        return IndexHeader(**{**values, "fingerprints": [(seq, digest) for seq, digest in values["fingerprints"]]})
    except (TypeError, KeyError) as error:
        raise ValueError(f"its header is of another version: {error}") from error


def _graph_offset(header: int) -> int:
    """Where the graph begins: on a page of its own, as it is mapped."""
    return -(-(_PREFIX.size + header) // _PAGE) * _PAGE
