"""The sidecar file of a graph, next to the database. Its content is validated before use.

    magic, 8 bytes │ length of the header, 8 bytes │ digest of what follows, 32 bytes │ header, JSON │ padding │ graph

The header names the vector table and the last row of the graph, and has fingerprints: some rows, the last ones among
them, with their digests. A file of another database, or of before a restore, contradicts the table in one of them.
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
from typing import BinaryIO

from memory_storage._files import replacing, siblings

from .graph import Graph

_MAGIC = b"msgraph1"
_PREFIX = struct.Struct("<8sQ32s")
_PAGE = 4096
Fingerprints = list[tuple[int, str]]


@dataclass(frozen=True)
class IndexHeader:
    """The header of a sidecar file.

    `mark` is the last row number that the graph contains; `generation` counts the writes of the file; `duplicates` and
    `unreachable` are the graph's; `schema_version` is the database's before the graph's first row was read.
    """

    model: str
    dimension: int
    mark: int
    generation: int
    fingerprints: Fingerprints
    duplicates: int
    unreachable: list[int]
    schema_version: int = 0


@dataclass(frozen=True)
class Sidecar:
    """The file of the graph of one vector table."""

    path: Path

    def read(self, model: str) -> tuple[IndexHeader, Graph]:
        """Read the header and the graph, into memory: a mapped file would stay on the disk after its deletion.

        Args:
            model: The name of the model that the file must be of.

        Raises:
            FileNotFoundError: there is no file.
            ValueError: the file is incomplete, damaged, of another version or of another model; says which.
        """
        with self.path.open("rb") as file:
            data = _contents(file)
        header, start = _verify(data)
        if header.model != model:
            raise ValueError("the graph is of another model")
        try:
            return header, Graph.of(header.dimension, data[start:], header.duplicates, header.unreachable)
        except RuntimeError as error:
            raise ValueError(f"the graph cannot be read: {error}") from error

    def write(self, graph: Graph, header: IndexHeader, mode: int = 0o600) -> None:
        """Replace the file atomically.

        Args:
            graph: The graph.
            header: Its header.
            mode: The permissions of the file.
        """
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
            # Compared by the clock of the file system, which on a network is not this machine's.
            self._remove_stale_temp_files(os.fstat(file.fileno()).st_mtime)

    def _remove_stale_temp_files(self, now: float) -> None:
        """Remove temporary files of killed processes. A write never takes an hour."""
        for other in self.path.parent.glob(f"{glob.escape(self.path.name)}.*.tmp"):
            with suppress(FileNotFoundError):
                if other.stat().st_mtime < now - 3600:
                    other.unlink()

    def read_header(self) -> IndexHeader | None:
        """Return the header without validating the graph, to decide whether to replace the file; None if unreadable."""
        with suppress(OSError, ValueError, struct.error, TypeError), self.path.open("rb") as file:
            _, length, _ = _PREFIX.unpack(file.read(_PREFIX.size))
            # A damaged length must not read the whole file. Headers have some kilobytes.
            if length < 1 << 24:
                return _parse_header(file.read(length))
        return None

    def delete(self) -> None:
        """Delete the file, if it exists."""
        self.path.unlink(missing_ok=True)


def delete_sidecars(database: Path) -> None:
    """Delete all sidecar files of a database, and their temporary files.

    The caller must ensure that no process is writing one.
    """
    for name in sidecar_names(database):
        database.with_name(name).unlink(missing_ok=True)


def sidecar_names(database: Path) -> list[str]:
    """Return the names of the sidecar files of a database, and of their temporary files."""
    return siblings(database, r"\.[0-9a-f]{16}\.usearch(\.[0-9a-f]+\.tmp)?")


def _contents(file: BinaryIO) -> memoryview:
    size = os.fstat(file.fileno()).st_size
    if size < _PREFIX.size:
        raise ValueError("the file is too short")
    data = memoryview(mmap.mmap(-1, size))  # page-aligned, as is the graph in it
    if file.readinto(data) != size:  # type: ignore[attr-defined]  # it is a BufferedReader
        raise ValueError("the file was truncated while it was read")
    return data


def _verify(data: memoryview) -> tuple[IndexHeader, int]:
    magic, length, digest = _PREFIX.unpack(data[: _PREFIX.size])
    if magic != _MAGIC:
        raise ValueError("the file is not an index, or of another version")
    if blake2b(data[_PREFIX.size :], digest_size=32).digest() != digest:
        raise ValueError("the checksum does not match")
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
        raise ValueError(f"the header is of another version: {error}") from error


def _graph_offset(header: int) -> int:
    """Return the offset of the graph: page-aligned, since it was once mapped."""
    return -(-(_PREFIX.size + header) // _PAGE) * _PAGE
