"""The fixtures as another project uses them, run by pytest as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memory_storage.testing import find_sqld

CONFTEST = 'pytest_plugins = ["memory_storage.testing.fixtures"]\n'
TESTS = """
import pytest
import memory_storage as ms
from memory_storage.testing.conformance import Conformance


@pytest.mark.parametrize("name", ["memory", "file_memory", "encrypted_memory", "server_memory"])
@pytest.mark.parametrize("time", [1, 2])
def test_each_is_empty_and_stores_rows(request, fake_clock, name, time):
    storage = request.getfixturevalue(name)
    assert storage.episodes.count() == 0
    fake_clock.advance(5)
    assert storage.episodes.save(ms.Episode(task_description="t")).created_at == fake_clock.now()


def test_the_encrypted_one_is(encrypted_memory, tmp_path):
    assert (tmp_path / "encrypted.db").read_bytes()[:6] != b"SQLite"


class TestMine(Conformance):
    @pytest.fixture
    def storage(self, memory):
        return memory
"""


@pytest.mark.slow
def test_a_project_uses_them(tmp_path: Path):
    find_sqld()  # to install it may take longer than the tests
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    assert "38 passed" in done.stdout, done.stdout
