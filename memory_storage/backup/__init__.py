"""Backup of a whole database into a file, and restore from it.

A backup is a snapshot of the database at the start of the backup, with every row of every namespace; writers are not
blocked. It is read back and compared before it gets its final name. Indexes are rebuilt rather than copied, so that
damage to them is not copied; vector indexes stay empty until the backup is restored. A backup is itself a database.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from memory_storage._files import MaintenanceLock
from memory_storage._paths import why_unwritable
from memory_storage.dbapi import EncryptionKey
from memory_storage.dbapi._credentials import Secret
from memory_storage.errors import ConfigurationError, ValidationError
from memory_storage.repositories.retention.erasure import ErasedRows
from memory_storage.settings import Settings
from memory_storage.storage import MemoryStorage

from ._copy import BackupReport, Progress, copy_database, engine_of
from ._erasing import ErasedBackup, checked_backups, erase_from
from ._replacement import replacement

_LOCK_TIMEOUT = 1.0  # seconds

__all__ = ["BackupReport", "ErasedBackup", "back_up", "checked_backups", "forget_in_backups", "restore"]


def back_up(
    storage: MemoryStorage,
    path: str | os.PathLike[str],
    *,
    encryption_key: str | Secret | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BackupReport:
    """Copy the complete database to a file, and verify the copy. Writers are not blocked.

    An existing file is replaced by one rename after the copy is verified and synced to disk; if anything fails before,
    it is unchanged.

    Args:
        storage: the database to copy: a file, in memory or on a server.
        path: the backup file. A new one is created with mode 0600, an existing one keeps its mode.
        encryption_key: the backup's key, 1 to 32 bytes; default: the database's key, if it has one.
        overwrite: replace an existing file; default False.
        progress: called with the current action, the number of rows done, and the total.

    Returns:
        The number of rows copied, by table.

    Raises:
        ConfigurationError: the file exists and `overwrite` is False, or it cannot be created.
        CorruptDataError: the copy differs from the database, or a row cannot be read.
        UnavailableError: the existing file is in use.
    """
    target, key = Path(path), EncryptionKey.of(encryption_key) or storage.settings.key
    _refuse_itself(storage.settings, target)
    _refuse_present(target, allowed=overwrite, advice="choose another name, or pass overwrite=True (--force)")
    with MaintenanceLock(target).exclusive(_LOCK_TIMEOUT), replacement(target, key, keeps_old=False) as new:
        report = copy_database(storage.engine, new.partial, key, progress)
        new.exchange()
    return report


def restore(
    path: str | os.PathLike[str],
    settings: Settings | str | os.PathLike[str],
    *,
    encryption_key: str | Secret | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BackupReport:
    """Create a database from a backup, verify it, and rebuild its vector indexes.

    An existing database is replaced by one rename after the new one is synced to disk: the path always leads to a
    complete database. If anything fails before the rename, the existing database is unchanged.

    Args:
        path: the backup.
        settings: the settings, path or URL of the database to create; it has to be a local file.
        encryption_key: the backup's key; default: the key in the settings.
        force: replace an existing database, which is kept at `BackupReport.set_aside`. Default False.
        progress: called with the current action, the number of rows done, and the total.

    Returns:
        The number of rows restored, by table, and the path of the replaced database.

    Raises:
        ConfigurationError: the backup does not exist, the target is not a file, or it exists and `force` is False.
        CorruptDataError: the backup was modified after its creation, or the new database differs from it.
        UnavailableError: the existing database is in use.
    """
    settings = settings if isinstance(settings, Settings) else Settings.from_environment(database=os.fspath(settings))
    source, target = Path(path), settings.path
    if target is None:
        raise ConfigurationError(
            "a backup can be restored into a local file only; for a server, use `export` and `import`"
        )
    if not source.is_file():
        what = "it is a directory: name a file in it" if source.is_dir() else "there is no such backup"
        raise ConfigurationError(f"{source}: {what}")
    _refuse_itself(settings, source)
    _refuse_present(target, allowed=force, advice="pass --force to replace it; the old one is kept next to the new one")
    engine = engine_of(source, EncryptionKey.of(encryption_key) or settings.key)
    with MaintenanceLock(target).exclusive(_LOCK_TIMEOUT), replacement(target, settings.key, keeps_old=True) as new:
        try:
            report = copy_database(engine, new.partial, settings.key, progress, check_manifest=True)
        finally:
            engine.dispose()
        _index(settings.model_copy(update={"database": str(new.partial)}), progress)
        new.exchange()
    return report.with_set_aside(new.old_path)


def forget_in_backups(
    storage: MemoryStorage,
    backups: Sequence[str | os.PathLike[str]],
    *,
    episode: UUID | str | None = None,
    namespace: str | None = None,
    progress: Progress | None = None,
) -> list[ErasedBackup]:
    """Erase from backups every row that was erased, or removed by retention, after they were made. Idempotent.

    Each file is rewritten without those rows, verified, and replaced by one rename; it keeps its mode and gets new
    digests, so that `restore` accepts it. A backup of an older schema is upgraded. A backup of another database loses
    no row.

    Args:
        storage: the database. Its tombstones determine what is erased, except tombstones of evicted episodes.
        backups: the files; encrypted ones must have the database's key.
        episode: also erase this episode of the storage's namespace, even if the database never had it.
        namespace: also erase this whole namespace.
        progress: called with the current action, the number of rows done, and the total; restarts for each copy.

    Returns:
        What was erased from each file. A file that could not be replaced is unchanged, and `why` has the remedy.

    Raises:
        ValidationError: `backups` is not a list of paths, or both an episode and a namespace are given.
        ConfigurationError: a file does not exist, is not a backup, or is the database itself. Nothing was changed.
        CredentialError: a file is encrypted with another key. Nothing was changed.
    """
    if episode is not None and namespace is not None:
        raise ValidationError("episode", "an episode or a namespace, not both", (episode, namespace))

    def erase(draft: MemoryStorage) -> ErasedRows:
        if namespace is None and episode is None:
            return ErasedRows()
        if namespace is not None:
            forgotten = draft.forget(namespace=namespace, scrub=False)
        else:
            forgotten = draft.in_namespace(storage.namespace).forget(episode=episode, scrub=False)
        return ErasedRows(forgotten.episodes, forgotten.patterns)

    return erase_from(storage, checked_backups(storage, backups), erase, progress)


def _index(settings: Settings, progress: Progress | None) -> None:
    """Build the vector indexes. A database of an older schema is left as it is: opening it would upgrade it."""
    from memory_storage import migrate
    from memory_storage.schema import HEAD

    if migrate.look(Path(settings.database), settings.key, local_engine=settings.required_engine) != HEAD:
        return
    with MemoryStorage.open(settings) as storage:
        for model in storage.embeddings.index.status():
            storage.embeddings.index.catch_up(model.name, progress=progress)


def _refuse_itself(settings: Settings, other: Path) -> None:
    if settings.path is not None and os.path.realpath(settings.path) == os.path.realpath(other):
        raise ConfigurationError(f"{other}: this is the database itself; nothing was changed")


def _refuse_present(target: Path, *, allowed: bool, advice: str) -> None:
    if not target.parent.is_dir() or target.is_dir():
        raise ConfigurationError(why_unwritable(target))
    if target.exists() and not allowed:
        raise ConfigurationError(f"{target} already exists; {advice}")
