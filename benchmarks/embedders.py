"""Embedders that need no server: what they find, and how long they take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from memory_storage.embedders import Embedder, HashingEmbedder, WordLlamaEmbedder

from ._report import Grid, Report, line_of

_DATA = Path(__file__).parents[2] / "shared" / "data"
_NEAREST, _RECALLED = 10, 3
_NOTES = (
    "recall: the share of the 10 nearest neighbours by all-MiniLM-L6-v2, over package summaries, that are among the 10",
    "nearest by the embedder. same task: the share of the 3 most similar first messages of a customer that are of the",
    "same task (tau-bench, 200 episodes of 50 tasks; the episode itself left out). all-MiniLM-L6-v2 itself has 1 and",
    "0.65, at 8.7 ms a text, with PyTorch. The ratio is wordllama's share by that of hashing.",
)
_FAMILIES = (
    "login password session",
    "refund order payment",
    "flight seat airport",
    "invoice tax total",
    "search query filter",
    "upload file folder",
    "backup disk restore",
    "signup email account",
    "chart axis legend",
    "parser token grammar",
)
_PHRASES = ("{0} fails without {1} or {2}", "no {1} of {2} in {0}", "repair {0}, {2} and {1}", "{1} error: {0} {2}")


def run(*, short: bool) -> Report:
    """Embed the texts with each embedder."""
    tasks, families = _tasks()
    texts, vectors, queries = _neighbours(3_000 if short else 20_000)
    embedders: dict[str, Embedder] = {"hashing": HashingEmbedder(), "wordllama": WordLlamaEmbedder()}
    rows, shares = [], {}
    for name, embedder in embedders.items():
        since = perf_counter()
        embedded = _embed(embedder, tasks)
        milliseconds = (perf_counter() - since) / len(tasks) * 1e3
        shares[name] = _same_family(embedded, families)
        recall = "-" if vectors is None else f"{_recall(_embed(embedder, texts), vectors, queries):.3f}"
        rows.append((name, f"{milliseconds:.2f} ms", recall, f"{shares[name]:.3f}"))
    ratio = shares["wordllama"] / shares["hashing"]
    grid = Grid("Embedders", ("embedder", "a text", "recall", "same task"), rows)
    line = line_of("same task, wordllama to hashing", ratio, at_least=0.9)
    return Report("Embedders without a server", [line], list(_NOTES), [grid])


def _embed(embedder: Embedder, texts: Sequence[str]) -> Any:
    vectors = np.asarray(embedder.embed(texts), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _tasks() -> tuple[list[str], Any]:
    """Return the first messages of tau-bench's customers, and the tasks that they belong to."""
    path = _DATA / "tau_airline.jsonl"
    if not path.exists():
        made = [(phrase.format(*family.split()), family) for family in _FAMILIES for phrase in _PHRASES]
        return [text for text, _ in made], np.array([family for _, family in made])
    episodes = [json.loads(line) for line in path.read_text().splitlines()]
    texts = [next(said["content"] for said in one["traj"] if said["role"] == "user") for one in episodes]
    return texts, np.array([one["task_id"] for one in episodes])


def _neighbours(number: int) -> tuple[list[str], Any, int]:
    """Return texts, their vectors by all-MiniLM-L6-v2, and how many of the last ones are queries."""
    path = _DATA / "minilm_20k.npz"
    if not path.exists():
        return [], None, 0
    with np.load(path) as data:
        vectors = np.vstack([data["base"][:number], data["queries"]]).astype(np.float32)
        every, queries = len(data["base"]), len(data["queries"])
    lines = (_DATA / "minilm_20k.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in [*lines[:number], *lines[every:]]], vectors, queries


def _recall(embedded: Any, vectors: Any, queries: int) -> float:
    expected, found = (_nearest(one[-queries:] @ one[:-queries].T, _NEAREST) for one in (vectors, embedded))
    return float(np.mean([len(set(a) & set(b)) / _NEAREST for a, b in zip(expected, found, strict=True)]))


def _same_family(embedded: Any, families: Any) -> float:
    similarities = embedded @ embedded.T
    np.fill_diagonal(similarities, -2)
    return float(np.mean(families[_nearest(similarities, _RECALLED)] == families[:, None]))


def _nearest(similarities: Any, number: int) -> Any:
    return np.argsort(-similarities, axis=1)[:, :number]
