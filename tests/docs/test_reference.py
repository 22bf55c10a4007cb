"""The generated pages are up to date, and the settings and names that the reference describes exist."""

from __future__ import annotations

import re

import pytest

import memory_storage as ms

from . import search_statement
from .reference import REFERENCE, pages

_SECTIONS = ("pool", "retry", "circuit_breaker", "logging", "limits")


@pytest.mark.parametrize("name", pages())
def test_a_generated_page_is_up_to_date(name: str) -> None:
    advice = "run `python -m tests.docs.reference`"
    assert (REFERENCE / name).read_text(encoding="utf-8") == pages()[name], advice


def test_every_table_of_the_search_statement_is_described() -> None:
    assert search_statement.undescribed() == set()


def test_every_setting_is_described_with_its_default() -> None:
    table = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", (REFERENCE / "settings.md").read_text(), re.MULTILINE))
    described = {name: default.strip().strip("`").removesuffix(" s") for name, default in table.items()}
    described |= {"database": "(required)", "auth_token": "none"}  # their first rows are of the environment
    assert described == _defaults()


def _defaults() -> dict[str, str]:
    defaults = {}
    for name, field in ms.Settings.model_fields.items():
        if name in _SECTIONS:
            section = field.annotation
            defaults |= {f"{name}.{inner}": _shown(it.default) for inner, it in section.model_fields.items()}
        else:
            defaults[name] = "(required)" if field.is_required() else _shown(field.default)
    return defaults


def _shown(default: object) -> str:
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)
