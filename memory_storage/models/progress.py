"""The protocol of a callback that observes a long call."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Observes a long call: backup, restore, import, retention, embedding, building an index. Called after each batch.

    Any function of three arguments is one: `lambda what, done, total: print(f"{what}: {done:,} of {total:,}")`.
    """

    def __call__(self, what: str, done: int, total: int, /) -> object:
        """Take note of the progress.

        Args:
            what: What was done: "copied", "verified", "indexed", "embedded", "stored", "deleted", "archived" or "read".
            done: How many rows (bytes for "read") that are.
            total: How many there will be; `done` if that is not known.
        """
