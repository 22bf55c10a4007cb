"""Describes why a file cannot be read or written, with a remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


def why_unwritable(path: str | os.PathLike[str], error: OSError | None = None) -> str:
    """Return why a file could not be written: "PATH: cannot be written: ...".

    Args:
        path: The final path, not that of a temporary file.
        error: The error of the system, if there was one.
    """
    is_of_the_place = error is None or error.errno not in _NO_RIGHT | _NO_ROOM
    problem = _place_problem(Path(path)) if is_of_the_place else ""
    return f"{os.fspath(path)}: cannot be written: {problem or _said(error, Path(path).parent)}"


def why_unreadable(path: str | os.PathLike[str], error: OSError) -> str:
    """Return why a file could not be read: "PATH: cannot be read: ..."."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        reason = "no such file"
    elif os.path.isdir(path or "."):  # noqa: PTH112 - an empty path is none
        reason = "it is a directory: name a file in it"
    else:
        reason = _said(error, Path(path))
    return f"{os.fspath(path)}: cannot be read: {reason}"


def why_not_opened(path: str) -> str:
    """Return why a database could not be opened, as far as its path shows it."""
    return _place_problem(Path(path)) or "check the path and its permissions, and those of its directory"


def _place_problem(path: Path) -> str:
    """Return what is wrong with the place of a file; nothing if a file may be there."""
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, it raises nothing where it may not look
        return "it is a directory: name a file in it"
    missing = next((one for one in (path.parent, *path.parent.parents) if os.path.lexists(one)), path.parent)
    if os.path.isdir(missing):  # noqa: PTH112
        return "" if missing == path.parent else f"there is no directory {path.parent}: create it first"
    return f"{missing} is a file, not a directory"


def _said(error: OSError | None, place: Path) -> str:
    if error is None:
        return "it is not known why"
    if error.errno in _NO_ROOM:
        return f"{error.strerror}: make room, or choose another disk"
    if error.errno in _NO_RIGHT:
        return f"{error.strerror}: this user needs the right to use {place}"
    return error.strerror or str(error)
