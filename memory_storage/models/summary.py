"""The summary of an episode."""

from __future__ import annotations

from pydantic import Field

from .model import Model, Timestamp, utc_now


class EpisodeSummary(Model):
    """What an episode came to, in a few sentences.

    Attributes:
        text: the summary; with the key steps and concepts 20,000 characters at most by default (see `Limits.summary`).
        key_steps: the steps that decided the outcome, each in one line.
        key_concepts: what the episode was about, in single words or short names.
        created_by: what wrote it, like "caller", "ExtractiveSummarizer" or the name of a language model.
        created_at: when it was written; default: now.
    """

    text: str
    key_steps: list[str] = Field(default_factory=list)
    key_concepts: list[str] = Field(default_factory=list)
    created_by: str = "caller"
    created_at: Timestamp = Field(default_factory=utc_now)
