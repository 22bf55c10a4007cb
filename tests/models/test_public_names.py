"""The public names, their docstrings, and errors that survive pickling."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import subprocess
import sys
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from types import ModuleType
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage import errors, models
from memory_storage._former_names import FORMER_NAMES

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
EXAMPLES = [
    ms.MemoryStorageError("m"),
    ms.ConfigurationError("m"),
    ms.InsecureConnectionError("m"),
    ms.CredentialError("m"),
    ms.TokenExpiredError("m"),
    ms.ValidationError("steps.3.latency_ms", "at most 5", 6, setting="limits.steps"),
    ms.NotFoundError("episode", UUID(int=1)),
    ms.ConflictError("episode", UUID(int=1), expected=1, actual=None),
    ms.ConflictError("step", UUID(int=1), expected=0, actual=2, detail="another step has this id"),
    ms.UnavailableError("m", code="SQLITE_BUSY"),
    ms.CircuitOpenError("m", code="c", retry_after=1.5),
    ms.PoolTimeoutError("m"),
    ms.RequestTimeoutError("m"),
    ms.ResponseTooLargeError("m", code="RESPONSE_LIMIT", limit=5, value=6, setting="max_response_bytes"),
    ms.CommitUnknownError("m"),
    ms.SchemaError("m", found="0001", expected="0002"),
    ms.ServerChangedError("m"),
    ms.CorruptDataError("m", table="episodes", id="x"),
]
FACTS = {
    ms.ValidationError: {"field", "limit", "value", "setting"},
    ms.NotFoundError: {"kind", "id"},
    ms.ConflictError: {"kind", "id", "expected", "actual"},
    ms.UnavailableError: {"code"},
    ms.CircuitOpenError: {"retry_after"},
    ms.PoolTimeoutError: {"holders"},
    ms.ResponseTooLargeError: {"limit", "value", "setting"},
    ms.CommitUnknownError: {"code"},
    ms.SchemaError: {"found", "expected"},
    ms.CorruptDataError: {"table", "id"},
}


def _public(names: dict[str, object]) -> set[str]:
    return {name for name, value in names.items() if not name.startswith("_") and not isinstance(value, ModuleType)}


def test_all_lists_the_public_names_once_and_each_is_there():
    assert len(ms.__all__) == len(set(ms.__all__))
    assert {name for name in ms.__all__ if getattr(ms, name, None) is None} == set()
    assert _public(vars(ms)) - {"annotations", "TYPE_CHECKING"} <= set(ms.__all__)
    assert set(ms.__all__) <= set(dir(ms))


def test_the_stub_lists_what_it_imports():
    stub = ast.parse(Path(ms.__file__).with_suffix(".pyi").read_text())
    imports = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    listed = next(ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(imports) == sorted(listed) == sorted(ms.__all__)


def test_a_former_name_is_what_it_was_and_warns():
    for name, path in FORMER_NAMES.items():
        module, _, now = path.rpartition(".")
        with pytest.warns(DeprecationWarning, match=name) as seen:
            value = getattr(ms, name)
        assert value is getattr(import_module(module), now), name
        assert [str(one.message) for one in seen] == [f"memory_storage.{name} is deprecated since 0.1: use {path}"]


def test_former_names_are_not_listed():
    assert not FORMER_NAMES.keys() & {*dir(ms), *ms.__all__, *dir(models)} - set(models.__all__)


def test_a_former_name_can_be_imported():
    with pytest.warns(DeprecationWarning, match="memory_storage.Retained .* memory_storage.models.RetentionResult"):
        from memory_storage import Retained
    with pytest.warns(
        DeprecationWarning, match="memory_storage.models.Forgotten .* memory_storage.models.ErasureResult"
    ):
        from memory_storage.models import Forgotten
    with pytest.warns(DeprecationWarning, match="memory_storage.models.Scrubbed .* memory_storage.models.ScrubResult"):
        from memory_storage.models import Scrubbed
    with pytest.warns(DeprecationWarning, match="memory_storage.models.numbered .* memory_storage.models.number_steps"):
        assert models.numbered is models.number_steps
    assert (Retained, Forgotten, Scrubbed) == (models.RetentionResult, models.ErasureResult, models.ScrubResult)


def test_former_attributes_are_what_they_were_and_warn():
    retention = models.RetentionResult(removed=1, bytes=2, skipped=[])
    model = models.EmbeddingModel("m", 3, "cosine", "compact", 4, 2, 2, datetime.now(timezone.utc))
    health = models.IndexHealth(model, nodes=2, recall=None)
    for value, old, new in (
        (retention, "spared", "skipped"),
        (model, "is_worn", "is_fragmented"),
        (health, "is_sound", "is_healthy"),
    ):
        with pytest.warns(DeprecationWarning, match=rf"\.{old} is deprecated since 0\.1: use \w+\.{new}"):
            assert getattr(value, old) == getattr(value, new)
        assert old not in dir(value)


def test_former_methods_are_what_they_were_and_warn():
    with ms.MemoryStorage.open(":memory:") as storage:
        index, places = storage.embeddings.index, storage.spatiotemporal
        for value, old, new in (
            (index, "mend", "repair_missing"),
            (index, "strangers", "foreign_indexes"),
            (index, "take_away", "drop_all"),
            (index, "put_back", "recreate_all"),
            (index, "go_on", "resume"),
            (index, "use", "switch_to"),
            (places, "of", "for_owner"),
        ):
            with pytest.warns(DeprecationWarning, match=rf"\w+\.{old} is deprecated since 0\.1: use \w+\.{new}"):
                assert getattr(value, old) == getattr(value, new)
            assert old not in dir(value)
            assert new in dir(value)


def test_a_star_import_gives_all_of_them():
    code = "from memory_storage import *; import memory_storage as ms; assert set(ms.__all__) <= set(globals())"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_every_error_is_public_and_has_an_example_here():
    assert {kind.__name__ for kind in ERRORS} <= set(ms.__all__)
    assert {type(example) for example in EXAMPLES} == set(ERRORS)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_pickling_and_copying(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_errors_attributes_and_message_agree(error):
    facts = set().union(*(names for kind, names in FACTS.items() if isinstance(error, kind)))
    assert facts == set(vars(error))
    assert isinstance(error, ms.MemoryStorageError)
    assert str(error)


def test_errors_are_also_what_python_calls_them():
    assert issubclass(ms.ValidationError, ValueError)
    assert issubclass(ms.NotFoundError, LookupError)


def test_a_long_value_is_shortened_in_the_message_only():
    error = ms.ValidationError("field", "at most 5 characters", "x" * 10_000)
    assert len(str(error)) < 200
    assert error.value == "x" * 10_000


def _documented() -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name in ms.__all__:
        value = getattr(ms, name)
        if inspect.isclass(value):
            found.append((name, value))
            found += [
                (f"{name}.{member}", function)
                for kind in value.__mro__
                if kind.__module__.startswith("memory_storage")
                for member, function in vars(kind).items()
                if not member.startswith("_")
                and isinstance(function, property | classmethod | staticmethod | type(lambda: 0))
            ]
    return found


def test_every_public_class_and_method_has_its_own_docstring():
    missing = [name for name, value in _documented() if not (getattr(value, "__doc__", None) or "").strip()]
    assert missing == []


def test_no_public_method_passes_keywords_on_unseen():
    loose = []
    for name, value in _documented():
        if inspect.isfunction(value):
            for parameter in inspect.signature(value).parameters.values():
                if parameter.kind is parameter.VAR_KEYWORD and "Unpack" not in str(parameter.annotation):
                    loose.append(name)
    assert loose == []
