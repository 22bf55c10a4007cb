"""File systems that ignore case, and systems without /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memory_storage import dbapi
from memory_storage._files import siblings
from memory_storage.dbapi import _open_files
from memory_storage.search.hnsw import sidecar_names

SIDECAR = f".{'0a' * 8}.usearch"


def test_a_sidecar_of_another_spelling_is_the_databases(tmp_path: Path):
    (tmp_path / f"Memory.DB{SIDECAR}").touch()
    # A link under this spelling: what a file system that ignores case shows.
    os.link(tmp_path / f"Memory.DB{SIDECAR}", tmp_path / f"memory.db{SIDECAR}")
    assert f"Memory.DB{SIDECAR}" in sidecar_names(tmp_path / "memory.db")


def test_a_sidecar_of_another_database_is_not(tmp_path: Path):
    for name in ("Memory.DB", "memory.db", "other.db", "memory.db.old-1"):
        (tmp_path / f"{name}{SIDECAR}").write_text(name)
    assert sidecar_names(tmp_path / "memory.db") == [f"memory.db{SIDECAR}"]


def test_composed_and_decomposed_characters_are_the_same_name(tmp_path: Path):
    composed, decomposed = "m\N{LATIN SMALL LETTER E WITH ACUTE}.db", "me\N{COMBINING ACUTE ACCENT}.db"
    (tmp_path / f"{decomposed}.part").touch()
    assert siblings(tmp_path / composed, r"\.part") == []
    os.link(tmp_path / f"{decomposed}.part", tmp_path / f"{composed}.part")
    assert sorted(siblings(tmp_path / composed, r"\.part")) == sorted([f"{composed}.part", f"{decomposed}.part"])


def test_an_open_file_is_found_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "memory.db"
    connection = dbapi.connect(str(path))
    identity = _open_files.identity_of(str(path))
    expected = _open_files._descriptor_of(identity)
    monkeypatch.setattr(_open_files, "_DESCRIPTORS", str(tmp_path / "missing"))
    assert expected is not None
    assert _open_files._descriptor_of(identity) == expected
    connection.close()
