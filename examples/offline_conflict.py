"""Two people change one episode without a line; the second one to sync resolves the conflict.

    python examples/offline_conflict.py libsql://127.0.0.1:8080?tls=0

The server's schema is upgraded if it is empty or older. A token comes from TURSO_AUTH_TOKEN.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import memory_storage as ms


def conflict_and_resolution(server: str, directory: Path) -> Iterator[str]:
    """Yield a line for each thing that happens.

    Args:
        server: The URL of the server.
        directory: Where the files of Ann and Ben are made.
    """
    ann = ms.MemoryStorage.open(ms.Settings(database=str(directory / "ann.db"), sync_url=server, sync_writer="ann"))
    ben = ms.MemoryStorage.open(ms.Settings(database=str(directory / "ben.db"), sync_url=server, sync_writer="ben"))
    with ann, ben:
        episode = ann.episodes.save(ms.Episode(task_description="Fix the login"))
        ann.sync(migrate=True)
        ben.sync()

        # Without a line: both change the description, and each appends a step.
        ann.episodes.append_step(episode.id, ms.Step(tool="pytest", action="run the tests of the token"))
        ann.episodes.save(
            ann.episodes.get(episode.id).model_copy(update={"task_description": "Fix the expired token of the login"})
        )
        ben.episodes.append_step(episode.id, ms.Step(tool="grep", action="look for the redirect"))
        ben.episodes.save(
            ben.episodes.get(episode.id).model_copy(update={"task_description": "Fix the redirect of the login"})
        )

        ann.sync()
        report = ben.sync()
        yield f"Ben's sync: {report.conflicts} conflict"
        for conflict in ben.conflicts.iterate():
            for field, (base, mine, theirs) in conflict.difference().items():
                yield f"{field}: it was {base!r}; mine is {mine!r}; {conflict.their_writer} has {theirs!r}"
            ben.conflicts.take_mine(conflict.id)
        ben.sync()
        ann.sync()
        both = ann.episodes.get(episode.id)
        yield f"now: {both.task_description!r}, with the steps of both: {[step.tool for step in both.steps]}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        for line in conflict_and_resolution(sys.argv[1], Path(directory)):
            print(line)
