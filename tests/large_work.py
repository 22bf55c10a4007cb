"""Work over all episodes of a database, for a process that imports nothing else: its memory is measured."""

from __future__ import annotations

import re
import resource
import sys
from functools import partial
from pathlib import Path

import memory_storage as ms
from memory_storage.backup import back_up, restore
from memory_storage.exporters import ExportFormat, export_episodes
from memory_storage.importers import export_lines, import_file

BYTES = 9_000_000


def iterate(database: str, _: str) -> int:
    with ms.MemoryStorage.open(database) as storage:
        return min(
            sum(len(episode.steps) in {0, 10} for episode in storage.episodes.iterate(**filters))
            for filters in ({}, {"completed": False})  # by an index, and by a list of ids
        )


def export(database: str, target: str) -> int:
    found = 0
    with ms.MemoryStorage.open(database) as storage, Path(target).open("w") as file:
        for line in export_lines(storage):
            found += file.write(line) > BYTES  # with the line end, it would be copied
            file.write("\n")
            del line
    return found


def _export_as(format_: ExportFormat, database: str, target: str) -> int:
    with ms.MemoryStorage.open(database) as storage, Path(target).open("wb") as file:
        return export_episodes(storage.episodes.iterate(), file, format=format_).episodes


export_chat, export_atif, export_markdown = (
    partial(_export_as, format_) for format_ in ("openai-chat", "atif", "markdown")
)


def back_up_to(database: str, target: str) -> int:
    with ms.MemoryStorage.open(database) as storage:
        return back_up(storage, target).tables["episodes"].rows


def restore_from(database: str, source: str) -> int:
    return restore(source, database).tables["episodes"].rows


def embed(database: str, _: str) -> int:
    class Embedder:
        model = "m"

        def embed(self, texts: list[str]) -> list[list[float]]:
            return [[1.0, float(number)] for number in range(len(texts))]

        def embed_query(self, text: str) -> list[float]:
            return self.embed([text])[0]

    with ms.MemoryStorage.open(database) as storage:
        return storage.embeddings.embed(Embedder())


def import_from(database: str, source: str) -> int:
    with ms.MemoryStorage.open(database) as storage:
        return import_file(storage, source).imported


def own_peak() -> float:
    """Return the megabytes that this process has had resident at most."""
    try:
        status = Path("/proc/self/status").read_text()  # what getrusage says begins with the parent's
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1000


if __name__ == "__main__":
    number = globals()[sys.argv[1]](*sys.argv[2:])
    sys.stdout.write(f"{own_peak()} {number}")
