"""What helped in cases like these? For failed episodes, the similar ones that went well.

    python examples/similar_successes.py runs.jsonl

`runs.jsonl` are transcripts in the OpenAI chat format with a reward (tau-bench writes such). They are imported into a
file, embedded, and for each of ten failures the most similar successes are shown, with what their agents did.
With sentence-transformers installed, `--embedder all-MiniLM-L6-v2` knows meaning; the default only knows spelling.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import memory_storage as ms
from memory_storage.embedders import Embedder, HashingEmbedder, SentenceTransformerEmbedder, text_of
from memory_storage.importers import import_file

Found = tuple[ms.Episode, ms.Hits[ms.Episode]]


def main() -> None:
    """Read the arguments, import, embed, and show."""
    parser = argparse.ArgumentParser(description="For failed episodes, the similar ones that went well.")
    parser.add_argument("transcripts", type=Path)
    parser.add_argument("--database", type=Path, default=Path("similar_successes.db"))
    parser.add_argument("--embedder", help="a model of sentence-transformers")
    asked = parser.parse_args()
    embedder = SentenceTransformerEmbedder(asked.embedder) if asked.embedder else HashingEmbedder()
    with ms.MemoryStorage.open(asked.database) as storage:
        import_file(storage, asked.transcripts)
        storage.embeddings.embed(embedder, text_of=task_of)
        for failed, hits in similar_successes(storage, embedder):
            show(failed, hits)


def similar_successes(storage: ms.MemoryStorage, embedder: Embedder, failures: int = 10) -> Iterator[Found]:
    """For some of the failures, the three successes most like them: one round trip each, steps and all."""
    for failed in storage.episodes.query(outcome="failure", limit=failures, steps=False):
        vector = storage.embeddings.get("episode", failed.id, model=embedder.model).vector
        yield failed, storage.episodes.similar_to(vector, model=embedder.model, outcome="success", k=3)


def task_of(episode: ms.Episode) -> str:
    """What was to be done, and not how it ended: a success and a failure of one kind shall be near each other."""
    return episode.task_description if isinstance(episode, ms.Episode) else text_of(episode)


def show(failed: ms.Episode, hits: ms.Hits[ms.Episode]) -> None:
    """One failure, and what was done in cases like it."""
    print(f"\n{_short(failed.task_description)}")
    for hit in hits:
        tools = " > ".join(step.tool for step in hit.item.steps)
        print(f"  {hit.similarity:.2f}  {_short(hit.item.task_description)}\n        {_short(tools)}")


def _short(text: str, length: int = 110) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


if __name__ == "__main__":
    main()
