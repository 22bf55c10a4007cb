"""Embedders for tests: vectors that are easy to predict."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

LETTERS = "abcdefgh"


def letters(texts: list[str]) -> list[list[float]]:
    """Return how often each of 8 letters is in a text, and a little of everything."""
    return [[text.count(letter) + 0.01 for letter in LETTERS] for text in texts]


class LetterEmbeddings(Embeddings):
    """Counts letters, and keeps the texts that it was called with."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.texts += texts
        return letters(texts)

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


INDEX = {"dims": len(LETTERS), "embed": letters, "fields": ["text"]}
