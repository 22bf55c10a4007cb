"""The revisions are found in a checkout, an editable install, an installed wheel and an unpacked source archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import memory_storage as ms
from memory_storage import schema
from tests.checks import schema_of, schema_of_file

CHECKOUT = Path(__file__).parents[2]
TWO_LINES = "[alembic]\nscript_location = memory_storage:migrations\n"


class Layout(NamedTuple):
    """An interpreter that has the package in one way, and a directory with an `alembic.ini` that fits."""

    python: Path
    directory: Path


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def environment_at(path: Path) -> Path:
    """A new environment with this one's packages, but for ours: the interpreter in it."""
    run(sys.executable, "-m", "venv", "--without-pip", path, cwd=path.parent)
    (packages,) = path.glob("lib/python*/site-packages")
    # Not a site directory: what is installed there is found, but not what its own .pth files point to.
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return path / "bin" / "python"


def install(python: Path, *what: object) -> None:
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *what, cwd=python.parent)


def copy_of_checkout(target: Path) -> Path:
    for name in ("memory_storage", "migrations"):
        shutil.copytree(CHECKOUT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, target)
    return target


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, and the wheel that is built from it."""
    directory = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, CHECKOUT, cwd=directory)
    return directory


@pytest.fixture
def checkout(tmp_path: Path) -> Layout:
    return Layout(environment_at(tmp_path / "environment"), copy_of_checkout(tmp_path / "checkout"))


@pytest.fixture
def editable(tmp_path: Path) -> Layout:
    layout = Layout(environment_at(tmp_path / "environment"), copy_of_checkout(tmp_path / "checkout"))
    install(layout.python, "--editable", layout.directory)
    return layout


@pytest.fixture
def unpacked(tmp_path: Path, built: Path) -> Layout:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (directory,) = tmp_path.glob("memory_storage-*")
    return Layout(environment_at(tmp_path / "environment"), directory)


@pytest.fixture
def wheel(tmp_path: Path, built: Path) -> Layout:
    layout = Layout(environment_at(tmp_path / "environment"), tmp_path / "application")
    layout.directory.mkdir()
    (layout.directory / "alembic.ini").write_text(TWO_LINES)
    install(layout.python, *built.glob("*.whl"))
    return layout


@pytest.fixture(scope="module")
def expected() -> list[tuple[Any, ...]]:
    with ms.MemoryStorage.open(":memory:") as storage:
        return schema_of(storage.engine)


@pytest.mark.parametrize("name", ["checkout", "editable", "unpacked", "wheel"])
def test_alembic_reaches_the_newest_revision(name: str, request: Any, expected: list[tuple[Any, ...]]):
    layout: Layout = request.getfixturevalue(name)
    where = {"LIBSQL_DATABASE_PATH": "./data/memory.db", "TURSO_DATABASE_URL": ""}
    done = run(layout.python, "-m", "alembic", "upgrade", "head", cwd=layout.directory, **where)
    assert "Running upgrade  -> 0001" in done.stderr
    assert schema.HEAD in run(layout.python, "-m", "alembic", "current", cwd=layout.directory, **where).stdout
    assert schema_of_file(layout.directory / "data" / "memory.db") == expected


@pytest.mark.parametrize("name", ["editable", "wheel"])
def test_the_package_finds_its_revisions_from_any_directory(
    name: str, request: Any, tmp_path: Path, expected: list[tuple[Any, ...]]
):
    layout: Layout = request.getfixturevalue(name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import memory_storage as ms; ms.MemoryStorage.open('opened.db').close(); print(ms.__file__)"
    done = run(layout.python, "-W", "error", "-c", code, cwd=elsewhere)
    assert done.stdout.startswith(str(tmp_path))
    run(layout.python, "-W", "error", "-m", "memory_storage", "upgrade", "--database", "upgraded.db", cwd=elsewhere)
    assert schema_of_file(elsewhere / "opened.db") == schema_of_file(elsewhere / "upgraded.db") == expected


def test_the_wheel_has_all_that_it_needs_and_nothing_else(built: Path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    revisions = {
        f"memory_storage/migrations/versions/{path.name}" for path in CHECKOUT.glob("migrations/versions/*.py")
    }
    assert len(revisions) >= int(schema.HEAD)
    assert names > revisions | {
        "memory_storage/py.typed",
        "memory_storage/migrations/env.py",
        "memory_storage/migrations/script.py.mako",
    }
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"memory_storage"}
