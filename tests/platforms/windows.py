"""A stand-in for Windows: what Python lacks there is taken away, and what fails there with open files fails.

`become_windows()` is called before `memory_storage` is imported, and never in the process of the tests.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - what is imported by now was imported on the real system
import errno
import fcntl
import multiprocessing  # noqa: F401
import os
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401
from contextlib import suppress
from types import ModuleType
from typing import Any

_ABSENT = ("fork", "forkpty", "register_at_fork", "pread", "pwrite", "fchmod", "getuid", "geteuid")
_ABSENT_FLAGS = ("O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY")
_ABSENT_MODULES = ("fcntl", "grp", "pwd", "resource", "termios")

_open, _close, _fstat, _stat, _listdir = os.open, os.close, os.fstat, os.stat, os.listdir
_fsync, _rename = os.fsync, os.rename
_Range = tuple[int, int]


class Msvcrt(ModuleType):
    """Byte-range locks that belong to a descriptor, as those of Windows belong to a handle."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self._locks: dict[int, list[_Range]] = {}

    def locking(self, descriptor: int, mode: int, length: int) -> None:
        """Lock or unlock bytes from the position of the descriptor on."""
        start = os.lseek(descriptor, 0, os.SEEK_CUR)
        if mode == self.LK_UNLCK:
            self._locks[descriptor].remove((start, length))
            return
        for other, ranges in self._locks.items():
            if os.path.samestat(_fstat(other), _fstat(descriptor)) and any(
                start < begin + size and begin < start + length for begin, size in ranges
            ):
                raise PermissionError(errno.EACCES, "Permission denied")
        self._locks.setdefault(descriptor, []).append((start, length))

    def forget(self, descriptor: int) -> None:
        """Drop the locks of a descriptor that is closed."""
        self._locks.pop(descriptor, None)


_msvcrt = Msvcrt()


def become_windows() -> None:
    """Change this process for good."""
    for name, files in {"replace": 2, "rename": 1, "unlink": 1, "remove": 1}.items():
        setattr(os, name, _refusing_open_files(getattr(os, name), files))
    os.open, os.fsync, os.close, os.listdir = _open_file, _fsync_written, _close_and_unlock, _listdir_without_proc
    os.O_BINARY = 0  # type: ignore[attr-defined]
    for name in (*_ABSENT, *_ABSENT_FLAGS):
        delattr(os, name)
    for name in _ABSENT_MODULES:
        sys.modules[name] = None
    sys.modules["msvcrt"] = _msvcrt
    sys.platform = "win32"


def _refusing_open_files(original: Any, files: int) -> Any:
    def call(*paths: Any, **options: Any) -> Any:
        for path in filter(_is_open, paths[:files]):
            raise PermissionError(errno.EACCES, "the file is in use by a process", str(path))
        if original is _rename and os.path.lexists(paths[1]):
            raise FileExistsError(errno.EEXIST, "File exists", str(paths[1]))
        return original(*paths, **options)

    return call


def _open_file(path: Any, flags: int, *rest: Any, **options: Any) -> int:
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return _open(path, flags, *rest, **options)


def _fsync_written(file: Any) -> None:
    if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    _fsync(file)


def _close_and_unlock(descriptor: int) -> None:
    _msvcrt.forget(descriptor)
    _close(descriptor)


def _listdir_without_proc(path: Any = ".") -> list[Any]:
    if str(path).startswith(("/dev/fd", "/proc")):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
    return _listdir(path)


def _is_open(path: Any) -> bool:
    with suppress(OSError):
        found = _stat(path)
        for number in _listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.path.samestat(_fstat(int(number)), found):
                    return True
    return False
