"""The `Summarizer` protocol."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from memory_storage.models import Episode, EpisodeSummary


@runtime_checkable
class Summarizer(Protocol):
    """Writes summaries of episodes."""

    def summarize(self, episode: Episode) -> EpisodeSummary:
        """Return the summary of an episode, which has its steps. It may be called again if the episode changes."""
        ...
