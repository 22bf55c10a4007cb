"""Erasure from backups: rewrites each backup without the erased rows, and replaces it by one rename.

A draft next to the backup receives all of its rows and the current schema; then the rows that have a tombstone in the
database are erased from it. The remaining rows are copied from the draft into the new file, with new digests: the new
file has never contained a byte of an erased row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from memory_storage._files import MaintenanceLock, create, mode_of, scratch_beside
from memory_storage.errors import ConfigurationError, CorruptDataError, MemoryStorageError, ValidationError
from memory_storage.repositories.retention.erasure import ErasedRows, erase_tombstoned, rows_of, tombstoned
from memory_storage.repositories.retention.tombstones import evicted_ids
from memory_storage.search.hnsw import delete_sidecars
from memory_storage.settings import Settings
from memory_storage.storage import MemoryStorage

from ._copy import Progress, copy_database, engine_of, is_backup
from ._replacement import LOGS, replacement

_LOCK_TIMEOUT = 1.0  # seconds
_HARD_LINKED = "other hard links ({}) still lead to the old file; delete them"

Erase = Callable[[MemoryStorage], ErasedRows]


@dataclass(frozen=True, slots=True)
class ErasedBackup:
    """What was erased from a backup. If `complete` is False, the old file still exists, and `why` has the remedy."""

    path: str
    episodes: int = 0
    patterns: int = 0
    complete: bool = True
    why: str = ""


def checked_backups(storage: MemoryStorage, paths: object) -> list[Path]:
    """Check backups before anything is erased. A file that is named twice, or by a link, is listed once.

    Raises:
        ValidationError: `paths` is not a list of paths; `field` names the wrong one, like `backups.1`.
        ConfigurationError: a file does not exist, is not a backup, or is the database itself.
        CredentialError: a file is encrypted with another key than the database.
    """
    if isinstance(paths, str | bytes | os.PathLike) or not isinstance(paths, Sequence):
        raise ValidationError("backups", "a list of paths", paths)
    checked: dict[str, Path] = {}
    for index, path in enumerate(paths):
        if not isinstance(path, str | Path):
            raise ValidationError(f"backups.{index}", "a path", path)
        checked.setdefault(os.path.realpath(path), Path(path))
    for real, path in checked.items():
        _check(storage.settings, Path(real), path)
    return list(checked.values())


def erase_from(
    storage: MemoryStorage, paths: Sequence[Path], erase: Erase | None, progress: Progress | None
) -> list[ErasedBackup]:
    """Erase from each backup the rows that have a tombstone in the database, and those that `erase` erases."""
    before = [path.stat() for path in paths]  # before the first is replaced: a replaced file has a new inode
    erased = []
    for path, found in zip(paths, before, strict=True):
        others = found.st_nlink - sum(os.path.samestat(found, other) for other in before)
        why = f"{path}: {_HARD_LINKED.format(others)}" if others > 0 else ""
        try:
            counts = _erase_from(storage, Path(os.path.realpath(path)), erase, progress)
        except MemoryStorageError as error:
            erased.append(ErasedBackup(str(path), complete=False, why=f"{path}: unchanged: {error}"))
        else:
            erased.append(ErasedBackup(str(path), counts.episodes, counts.patterns, complete=not why, why=why))
    return erased


def _check(settings: Settings, real: Path, path: Path) -> None:
    if settings.path is not None and os.path.realpath(settings.path) == str(real):
        raise ConfigurationError(f"{path}: this is the database itself; nothing was changed")
    if not real.is_file():
        raise ConfigurationError(f"{path}: there is no such backup; nothing was changed")
    try:
        found = is_backup(real, settings.key)
    except CorruptDataError as error:
        raise ConfigurationError(f"{path}: not a backup ({error}); nothing was changed") from error
    if not found:
        raise ConfigurationError(f"{path}: not a backup: it has no digests of its rows; nothing was changed")


def _erase_from(storage: MemoryStorage, path: Path, erase: Erase | None, progress: Progress | None) -> ErasedRows:
    key = storage.settings.key
    with (
        MaintenanceLock(path).exclusive(_LOCK_TIMEOUT),
        replacement(path, key, keeps_old=False) as new,
        _temporary_draft(path) as draft,
    ):
        copy_database(engine_of(path, key), draft, key, progress, check_manifest=True)
        with MemoryStorage.open(_settings_of(storage.settings, draft)) as view:
            erased = erase(view) if erase else ErasedRows()
            more = _erase_tombstoned(storage, view)
        copy_database(engine_of(draft, key), new.partial, key, progress)
        new.exchange()
    return ErasedRows(erased.episodes + more.episodes, erased.patterns + more.patterns)


def _settings_of(settings: Settings, draft: Path) -> Settings:
    """Return settings for the draft, which no other process uses and which is deleted afterwards."""
    key = settings.encryption_key
    return Settings(database=str(draft), encryption_key=key, vector_index="exact", durability="normal")


def _erase_tombstoned(storage: MemoryStorage, draft: MemoryStorage) -> ErasedRows:
    """Erase the rows of the draft that have a tombstone in the database, in every namespace of both.

    Ids in the draft's eviction tombstones are erased too: such a tombstone contains the id itself.
    """
    found: dict[str, list[UUID]] = {}
    pages = list(rows_of(draft._session))
    for name in {storage.namespace, *(namespace for page in pages for namespace, _ in page)}:
        pages.append([(name, row_id) for row_id in evicted_ids(draft.in_namespace(name)._session)])
    for page in pages:
        for namespace, row_id in tombstoned(storage._session, page):
            found.setdefault(namespace, []).append(row_id)
    episodes = patterns = 0
    for namespace, ids in found.items():
        erased = erase_tombstoned(draft.in_namespace(namespace)._session, ids)
        episodes, patterns = episodes + erased.episodes, patterns + erased.patterns
    return ErasedRows(episodes, patterns)


@contextmanager
def _temporary_draft(path: Path) -> Iterator[Path]:
    draft = scratch_beside(path)
    try:
        create(draft, mode_of(path)).close()
        yield draft
    finally:
        for suffix in ("", *LOGS):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)
        delete_sidecars(draft)
