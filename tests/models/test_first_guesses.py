"""Names and calls that users of the Rust crate try first: each error names the correct spelling."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage._rust_names import WRITE

GUIDE = (Path(__file__).parents[2] / "docs" / "how-to" / "rust-crate-names.md").read_text()
OPEN = 'MemoryStorage.open("memory.db")'


@pytest.mark.parametrize("name", WRITE)
def test_a_name_of_the_crate_is_an_error_with_the_new_name(name: str):
    with pytest.raises(AttributeError) as read:
        getattr(ms, name)
    assert str(read.value) == f"memory_storage has no {name!r}: write {WRITE[name]}"
    with pytest.raises(ImportError) as imported:
        exec(f"from memory_storage import {name}", {})
    assert str(imported.value) == str(read.value)
    assert not hasattr(ms, name)
    assert f"| `{name}` | {WRITE[name]} |" in GUIDE


def test_the_names_to_write_are_public():
    for name, advice in WRITE.items():
        for written in re.findall(r"\b([A-Z][a-z]+[A-Z]\w+)\b", advice):
            assert written in ms.__all__ or written in ms.models.__all__, name


def test_the_methods_of_the_guide_exist(storage: ms.MemoryStorage):
    for dotted in re.findall(r"\bstorage\.([a-z_.]+)\(", GUIDE):
        target: Any = storage
        for part in dotted.split("."):
            target = getattr(target, part)
        assert callable(target)


def test_a_misspelled_name_is_pointed_out():
    with pytest.raises(AttributeError, match="did you mean 'MemoryStorage'"):
        ms.MemoryStorag  # noqa: B018
    with pytest.raises(AttributeError, match=r"^memory_storage has no 'zzz'$"):
        ms.zzz  # noqa: B018
    assert not hasattr(ms, "MemoryStorag")
    assert getattr(ms, "MemoryStorag", None) is None


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: ms.MemoryStorage(), "missing a required argument: 'engine'"),
        (lambda: ms.MemoryStorage("file.db"), "missing a required argument: 'settings'"),
        (lambda: ms.MemoryStorage("file.db", ms.Settings(database="x")), "engine: must be an engine, not a str"),
        (lambda: ms.MemoryStorage.open("file.db", "sesame"), "too many positional arguments"),
        (lambda: ms.MemoryStorage.open("file.db", token="sesame"), "unexpected keyword argument 'token'"),
        (lambda: ms.MemoryStorage.open(path="sesame.db"), "unexpected keyword argument 'path'"),
    ],
)
def test_a_wrong_call_is_an_error_that_shows_how_to_open(call: Any, problem: str):
    with pytest.raises(ms.ConfigurationError) as caught:
        call()
    assert type(caught.value) is ms.ConfigurationError
    assert problem in str(caught.value)
    assert OPEN in str(caught.value)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ms.MemoryStorage.open(5), "database: must be a path, a URL or Settings, not a int"),
        (lambda: ms.MemoryStorage.open(b"x.db"), "database: must be a path, a URL or Settings, not a bytes"),
        (lambda: ms.MemoryStorage.open(":memory:", now=5), "now: must be a function that returns an aware moment"),
        (lambda: ms.MemoryStorage.open(":memory:", namespace=5), "namespace: Input should be a valid string"),
        (lambda: ms.MemoryStorage.open(":memory:", auth_token=5), "auth_token: must be a string"),
    ],
)
def test_a_wrong_value_to_open_names_the_argument(call: Any, message: str):
    with pytest.raises(ms.ConfigurationError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_a_positional_token_is_in_no_frame_of_the_traceback():
    with pytest.raises(ms.ConfigurationError) as caught:
        ms.MemoryStorage.open("libsql://db.example.io", "open " + "sesame")
    frames = [frame.locals for frame in caught.traceback][1:]
    assert frames
    assert "open sesame" not in repr(frames)


def test_the_signatures_are_those_that_are_documented():
    assert list(inspect.signature(ms.MemoryStorage.open).parameters) == [
        *("database", "auth_token", "namespace", "embedder", "embed", "sync_url", "sync_interval", "sync_mode", "now")
    ]
    assert list(inspect.signature(ms.MemoryStorage).parameters) == ["engine", "settings", "embedder", "now"]
