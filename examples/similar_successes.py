"""For failed episodes, find the most similar successful ones, and print the tools that they used.

    python examples/similar_successes.py runs.jsonl

`runs.jsonl` has transcripts in the OpenAI chat format with a reward, as tau-bench writes them. They are imported into a
file and embedded; for each of ten failures the three most similar successes are printed.
With sentence-transformers installed, `--embedder all-MiniLM-L6-v2` compares meaning; the default compares spelling.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import memory_storage as ms
from memory_storage.embedders import Embedder, HashingEmbedder, SentenceTransformerEmbedder, text_of
from memory_storage.importers import import_file

Match = tuple[ms.Episode, ms.Hits[ms.Episode]]


def main() -> None:
    """Import the transcripts, embed them, and print the similar successes."""
    parser = argparse.ArgumentParser(description="Find similar successes of failed episodes.")
    parser.add_argument("transcripts", type=Path)
    parser.add_argument("--database", type=Path, default=Path("similar_successes.db"))
    parser.add_argument("--embedder", help="name of a sentence-transformers model")
    arguments = parser.parse_args()
    embedder = SentenceTransformerEmbedder(arguments.embedder) if arguments.embedder else HashingEmbedder()
    with ms.MemoryStorage.open(arguments.database) as storage:
        import_file(storage, arguments.transcripts)
        storage.embeddings.embed(embedder, text_of=task_of)
        for failed, hits in similar_successes(storage, embedder):
            show(failed, hits)


def similar_successes(storage: ms.MemoryStorage, embedder: Embedder, failures: int = 10) -> Iterator[Match]:
    """Yield each failure with the three most similar successes and their steps, in one round trip each."""
    for failed in storage.episodes.query(outcome="failure", limit=failures, steps=False):
        vector = storage.embeddings.get("episode", failed.id, model=embedder.model).vector
        yield failed, storage.episodes.similar_to(vector, model=embedder.model, outcome="success", k=3)


def task_of(episode: ms.Episode) -> str:
    """Return the text to embed: the task without its outcome, so that successes and failures of a task are similar."""
    return episode.task_description if isinstance(episode, ms.Episode) else text_of(episode)


def show(failed: ms.Episode, hits: ms.Hits[ms.Episode]) -> None:
    """Print one failure and the tools that the similar successes used."""
    print(f"\n{_short(failed.task_description)}")
    for hit in hits:
        tools = " > ".join(step.tool for step in hit.item.steps)
        print(f"  {hit.similarity:.2f}  {_short(hit.item.task_description)}\n        {_short(tools)}")


def _short(text: str, length: int = 110) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


if __name__ == "__main__":
    main()
