"""What the package does on Windows, as far as a stand-in for it can show; see `windows.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the stand-in reads /proc"),
]

# SQLAlchemy and the like are imported first: they are not what is tested. aiohttp, which LlamaIndex needs and
# the SDK of Anthropic uses, reads certificates by a function that exists only on Windows.
PREAMBLE = """
import importlib, pkgutil, sys
from pathlib import Path
import aiohttp, numpy
import alembic.command, backoff, pybreaker, pydantic_settings, rich.progress, sqlalchemy.dialects.sqlite, typer, urllib3
from tests.platforms.windows import become_windows
become_windows()
import memory_storage as ms
from memory_storage import backup, doctor
folder = Path(sys.argv[1])
"""


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + code, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_is_imported(tmp_path):
    code = """
unavailable = ["memory_storage.__main__", "memory_storage.report", "memory_storage.testing.fixtures"]
# The MCP SDK, which that of OpenAI's agents uses too, needs pywin32 on Windows, which exists only there.
unavailable += ["memory_storage.integrations.mcp", "memory_storage.integrations.openai_agents"]
unavailable += ["memory_storage.integrations.llama_index"]  # its package imports Windows' part of ctypes
known = tuple(unavailable)
found = [one.name for one in pkgutil.walk_packages(ms.__path__, "memory_storage.", unavailable.append)]
for name in found:
    if not name.startswith(known) and ".migrations" not in name:
        importlib.import_module(name)
assert set(unavailable) == set(known), unavailable
print(len(found) > 100, "fcntl" in sys.modules and sys.modules["fcntl"] is None)
"""
    assert run(code, tmp_path) == "True True"


def test_an_episode_is_saved_searched_and_erased(tmp_path):
    code = """
from memory_storage.embedders import HashingEmbedder
embedder = HashingEmbedder()
with ms.MemoryStorage.open(folder / "memory.db") as storage:
    one = storage.episodes.save(ms.Episode(task_description="Fix the flaky login test", task_type="debugging"))
    storage.episodes.complete(one.id, ms.Success(verdict="done"), reward=0.9)
    storage.embeddings.embed(embedder)
    print(len(storage.episodes.search("login", embedder=embedder, k=3)))
with ms.MemoryStorage.open(folder / "memory.db") as storage:
    print(storage.episodes.get(one.id).task_description)
    storage.forget(episode=one.id)
    print(storage.episodes.count(), storage.health_check().status)
print(sorted(path.name for path in folder.iterdir()))
"""
    assert run(code, tmp_path).splitlines() == ["1", "Fix the flaky login test", "0 healthy", "['memory.db']"]


def test_a_backup_replaces_a_database(tmp_path):
    code = """
with ms.MemoryStorage.open(folder / "memory.db") as storage:
    storage.episodes.save(ms.Episode(task_description="kept", task_type="debugging"))
    backup.back_up(storage, folder / "backup.db")
    storage.episodes.save(ms.Episode(task_description="later", task_type="debugging"))
backup.restore(folder / "backup.db", ms.Settings(database=str(folder / "memory.db")), force=True)
with ms.MemoryStorage.open(folder / "memory.db") as storage:
    print(storage.episodes.count())
print(sorted(path.name for path in folder.iterdir()))
"""
    assert run(code, tmp_path).splitlines() == ["1", "['backup.db', 'memory.db', 'memory.db.old-1']"]


def test_a_database_in_use_is_not_replaced(tmp_path):
    code = """
with ms.MemoryStorage.open(folder / "memory.db") as storage:
    storage.episodes.save(ms.Episode(task_description="kept", task_type="debugging"))
    backup.back_up(storage, folder / "backup.db")
    storage.episodes.save(ms.Episode(task_description="later", task_type="debugging"))
    try:
        backup.restore(folder / "backup.db", ms.Settings(database=str(folder / "memory.db")), force=True)
    except ms.UnavailableError as error:
        print(error.code, storage.episodes.count())
"""
    assert run(code, tmp_path) == "SQLITE_BUSY 2"


def test_a_maintenance_lock_is_shared_or_exclusive(tmp_path):
    code = """
from memory_storage._files import MaintenanceLock
lock = MaintenanceLock(folder / "memory.db")
with lock.shared() as first, lock.shared() as second:
    print(first, second)
    try:
        with lock.exclusive(timeout=0):
            print("granted")
    except ms.UnavailableError as error:
        print(error.code)
with lock.exclusive(timeout=0), lock.shared() as third:
    print(third)
with lock.exclusive(timeout=0):
    print("free again")
print([path.name for path in folder.iterdir()])
"""
    assert run(code, tmp_path).splitlines() == ["True True", "MAINTENANCE", "False", "free again", "[]"]
