"""The code blocks of every page run unchanged, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memory_storage.dbapi._engines import DEFAULT, SQLITE

from .blocks import LANGUAGES, PAGES, README, ROOT, blocks_of, links_of, run_page


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


def _languages_to_run(page: Path) -> set[str]:
    return {block.language for block in blocks_of(page) if not block.is_skipped} & {"python", "sh"}


def _marks(page: Path, languages: set[str]) -> list[pytest.MarkDecorator]:
    # This page prints the engine that is used if none is named; with --local-engine it is another.
    is_other = name_of(page) == "docs/how-to/local-engines" and DEFAULT != SQLITE
    others = [pytest.mark.skip(reason="the page prints the default engine")] if is_other else []
    return [*others, *([pytest.mark.slow] if "sh" in languages else [])]


RUN = [  # each command in a shell is a process, of about a second
    pytest.param(page, id=name_of(page), marks=_marks(page, languages))
    for page in PAGES
    if (languages := _languages_to_run(page))
]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run_as_written(page: Path, directory: Path) -> None:
    assert run_page(page, directory)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_names_a_known_language(page: Path) -> None:
    assert {block.language for block in blocks_of(page)} <= LANGUAGES
    fences = len(re.findall(r"^ *```", page.read_text(), re.MULTILINE))
    assert fences == 2 * len(blocks_of(page)), "a fence without a language, or one that is not closed"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_linked_file_exists(page: Path) -> None:
    for path, _ in links_of(page):
        assert not path or (page.parent / path).exists(), path


def test_the_readme_has_at_most_seven_kilobytes() -> None:
    assert README.stat().st_size <= 7 * 1024


def test_the_tour_of_the_readme_has_at_most_25_lines() -> None:
    tour = next(block for block in blocks_of(README) if block.language == "python")
    assert len(tour.code.splitlines()) <= 25
    assert tour.expected


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_file_of_the_repository_exists(page: Path) -> None:
    of_the_wheel = "memory_storage/migrations"
    for path in re.findall(r"`((?:tests|examples|memory_storage|migrations|docs)/[\w/.-]+?)/?`", page.read_text()):
        assert path == of_the_wheel or (ROOT / path).exists(), path
