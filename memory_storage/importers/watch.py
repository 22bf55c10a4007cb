"""Import of the files of a directory as they appear and grow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from typing_extensions import Unpack

from memory_storage.errors import ConfigurationError, MemoryStorageError, UnavailableError, ValidationError
from memory_storage.storage import MemoryStorage

from .importer import ImportOptions, ImportReport, check_options, import_file

SUFFIXES = (".jsonl", ".json", ".traj", ".ndjson", ".jsonl.gz", ".json.gz", ".traj.gz")
"""The endings of the names of the files that are imported."""


class WatchedFile(NamedTuple):
    """A file that was imported, with its report; or why it could not be."""

    path: Path
    report: ImportReport | None
    error: MemoryStorageError | None = None


class _State(NamedTuple):
    """What changes when a file is written."""

    size: int
    modified_ns: int
    inode: int


class DirectoryWatch:
    """Imports the files of a directory and its subdirectories that are new or have changed.

    A file is imported when its size and time are the same in two polls, so that no half-written line is read. Nothing
    is stored about it: after a restart every file is read again, which changes nothing that is stored already.
    """

    def __init__(
        self, storage: MemoryStorage, directory: str | os.PathLike[str], **options: Unpack[ImportOptions]
    ) -> None:
        """Prepare; `poll` reads.

        Args:
            storage: the target.
            directory: the directory.
            **options: the fields of `ImportOptions`, for every file.

        Raises:
            ConfigurationError: it is not a directory.
            ValidationError: an option is invalid.
        """
        check_options(options)
        self._directory = Path(directory)
        if not self._directory.is_dir():
            raise ConfigurationError(f"{self._directory}: not a directory; give the one whose files are to be imported")
        self._storage = storage
        self._options = options
        self._seen: dict[Path, _State] = {}
        self._done: dict[Path, _State] = {}

    def poll(self) -> Iterator[WatchedFile]:
        """Look once, and import what is stable and not imported in its present state. Yields each file when it is done.

        A file of no known format is yielded with its error, and read again when it has changed; one that could not be
        stored because the database was unavailable is tried again by the next poll.
        """
        seen = dict(self._states())
        stable = [path for path, state in seen.items() if self._seen.get(path) == state != self._done.get(path)]
        self._seen = seen
        self._done = {path: state for path, state in self._done.items() if path in seen}
        for path in sorted(stable, key=lambda one: (seen[one].modified_ns, one)):  # a session before those it started
            try:
                result = WatchedFile(path, import_file(self._storage, path, **self._options))
            except UnavailableError as error:
                yield WatchedFile(path, None, error)
                continue
            except (ValidationError, ConfigurationError) as error:
                result = WatchedFile(path, None, error)
            self._done[path] = seen[path]
            yield result

    def run(
        self,
        on_file: Callable[[WatchedFile], None],
        *,
        interval: float = 2.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Poll until an exception, such as KeyboardInterrupt, ends it.

        Args:
            on_file: receives each file when it is done.
            interval: seconds between two polls.
            sleep: waits for a number of seconds.

        Raises:
            ValidationError: the interval is not positive.
        """
        if not 0 < interval < float("inf"):
            raise ValidationError("interval", "a positive number of seconds", interval)
        while True:
            for file in self.poll():
                on_file(file)
            sleep(interval)

    def _states(self) -> Iterator[tuple[Path, _State]]:
        for folder, _, names in os.walk(self._directory):
            for name in names:
                path = Path(folder, name)
                try:
                    status = path.stat() if name.endswith(SUFFIXES) else None
                except OSError:  # it was deleted a moment ago
                    continue
                if status is not None and status.st_size:
                    yield path, _State(status.st_size, status.st_mtime_ns, status.st_ino)
