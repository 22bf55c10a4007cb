"""The report as a separate distribution: the contents of the wheels, and the command with and without it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memory_storage as ms

CHECKOUT = Path(__file__).parents[2]
PROJECTS = {"memory_storage": CHECKOUT, "memory_storage_report": CHECKOUT / "packages" / "memory-storage-report"}
ASSETS = ["land.LICENSE", "land.json", "page.css", "page.html", "py.typed"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    """The wheel of each distribution, by its package."""
    directory = tmp_path_factory.mktemp("wheels")
    for project in PROJECTS.values():
        command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(directory), str(project)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    built = {path.name.split("-")[0]: zipfile.ZipFile(path) for path in directory.glob("*.whl")}
    assert built.keys() == PROJECTS.keys()
    return built


@pytest.fixture
def installed(wheels, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `memory-storage report` with these packages installed from their wheels, and nothing of the checkout."""

    def run(*packages: str, database: Path) -> subprocess.CompletedProcess[str]:
        target = tmp_path / "-".join(packages)
        for package in packages:
            wheels[package].extractall(target)
        # Directories on PYTHONPATH have no .pth files read: the editable installs are not seen.
        path = os.pathsep.join([str(target), sysconfig.get_path("platlib"), sysconfig.get_path("purelib")])
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
        command = [
            tmp_path / "venv" / "bin" / "python",
            "-W",
            "error",
            "-m",
            "memory_storage",
            "report",
            "-d",
            database,
        ]
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return run


def test_each_wheel_holds_its_package_and_its_licences(wheels):
    names = {package: set(wheel.namelist()) for package, wheel in wheels.items()}
    assert {f"memory_storage_report/{asset}" for asset in ASSETS} < names["memory_storage_report"]
    assert not [name for name in names["memory_storage"] if name.endswith(tuple(ASSETS[:-1]))]
    licences = [name.partition("/licenses/")[2] for name in names["memory_storage_report"] if "/licenses/" in name]
    assert sorted(licences) == ["LICENSE", "memory_storage_report/land.LICENSE"]
    packages = {package: {name.split("/")[0].partition("-")[0] for name in found} for package, found in names.items()}
    assert packages == {package: {package} for package in PROJECTS}


def test_the_extra_brings_the_report(wheels):
    (metadata,) = [name for name in wheels["memory_storage"].namelist() if name.endswith(".dist-info/METADATA")]
    lines = wheels["memory_storage"].read(metadata).decode().splitlines()
    assert "Requires-Dist: memory-storage-report>=0.1.0; extra == 'report'" in lines


def test_the_command_runs_from_both_wheels(installed, database):
    _make(database)
    done = installed("memory_storage", "memory_storage_report", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Success over time: " in done.stdout


def test_the_command_without_the_report_names_the_package(installed, database):
    _make(database)
    done = installed("memory_storage", database=database)
    assert (done.returncode, done.stdout) == (3, "")
    assert (
        done.stderr
        == "error: the report is not installed; nothing was read; run: pip install 'memory-storage[report]'\n"
    )


def test_the_old_import_path_and_its_keywords_warn(memory):
    sys.modules.pop("memory_storage.report", None)
    with pytest.warns(DeprecationWarning, match="use memory_storage_report") as seen:
        import memory_storage.report as old
    import memory_storage_report as new

    assert Path(seen[0].filename) == Path(__file__)
    assert old.write_page is new.write_page
    with pytest.warns(DeprecationWarning, match="use tz="):
        assert old.gather(memory, zone="Asia/Tokyo", episodes=0).tz == "Asia/Tokyo"


@pytest.fixture
def memory() -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(":memory:") as storage:
        yield storage


def _make(database: Path) -> None:
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(ms.Episode(task_description="t", outcome=ms.Success(verdict="v")))
