"""Former names work, warn at the caller's line, and are not offered by completion."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from memory_storage._deprecation import renamed_arguments, renamed_attributes, renamed_names, warn_renamed


@renamed_attributes(worn="fragmented", mend="repair")
@dataclass(frozen=True, slots=True)
class Thing:
    fragmented: bool = True

    @renamed_arguments(most="limit")
    def repair(self, limit: int = 1) -> int:
        return limit


def _here() -> int:
    return sys._getframe(1).f_lineno


def test_an_old_attribute_is_the_new_one_and_warns_at_the_caller():
    with pytest.warns(DeprecationWarning, match=r"Thing\.worn is deprecated since 0\.1: use Thing\.fragmented") as seen:
        assert Thing().worn is True
    assert Path(seen[0].filename) == Path(__file__)
    assert seen[0].lineno == _here() - 2


def test_an_old_method_is_the_new_one():
    with pytest.warns(DeprecationWarning, match=r"Thing\.mend .* Thing\.repair"):
        assert Thing().mend(limit=3) == 3
    with pytest.warns(DeprecationWarning, match=r"Thing\.mend"):
        assert Thing.mend(Thing()) == 1


def test_an_old_argument_is_the_new_one_and_warns_at_the_caller():
    with pytest.warns(DeprecationWarning, match=r"repair\(most=\.\.\.\) is deprecated since 0\.1: use limit=") as seen:
        assert Thing().repair(most=2) == 2
    assert Path(seen[0].filename) == Path(__file__)


def test_both_names_of_an_argument_are_an_error():
    with pytest.raises(TypeError, match="both 'limit' and its old name 'most'"):
        Thing().repair(limit=1, most=2)


def test_new_names_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Thing().repair(limit=2) == 2
        assert Thing(fragmented=False).fragmented is False


def test_old_names_are_not_listed():
    assert {"fragmented", "repair"} <= set(dir(Thing()))
    assert not {"worn", "mend"} & set(dir(Thing()))


def test_an_old_name_of_a_module_is_the_new_one(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("a_module")
    module.New = Thing  # type: ignore[attr-defined]
    module.__getattr__ = renamed_names("a_module", {"Old": "New", "Moved": "pathlib.Path"})  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "a_module", module)
    with pytest.warns(DeprecationWarning, match=r"a_module\.Old .* a_module\.New"):
        assert module.Old is Thing
    with pytest.warns(DeprecationWarning, match=r"a_module\.Moved .* pathlib\.Path"):
        from a_module import Moved  # type: ignore[import-not-found]
    assert Moved is Path
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = module.Other


def test_a_warning_is_shown_once_for_a_line():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            warn_renamed("old", "new")
    assert [str(one.message) for one in seen] == ["old is deprecated since 0.1: use new"]
