"""The documentation site builds without a warning, and its inventory has every public name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from .blocks import ROOT
from .reference import public_names

pytestmark = pytest.mark.slow  # a build takes some seconds


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from this checkout into a directory of its own."""
    directory = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", directory / "docs")
    shutil.copy(ROOT / "mkdocs.yml", directory)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)
    warnings = built.stdout + built.stderr
    assert built.returncode == 0, warnings
    assert "griffe" not in warnings, warnings  # a docstring that names another parameter than the function has
    return directory / "build" / "site"


def test_every_public_name_is_in_the_inventory(site: Path) -> None:
    header, _, compressed = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    assert header.startswith(b"# Sphinx inventory version 2")
    documented = {line.split()[0] for line in zlib.decompress(compressed).decode().splitlines()}
    assert set(public_names()) - documented == set()


def test_the_site_requests_nothing_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert 'src="http' not in page.read_text(encoding="utf-8"), page
