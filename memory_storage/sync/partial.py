"""Episodes of a file that keeps only the newer ones: the others are fetched from the server when they are read."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from memory_storage.errors import UnavailableError
from memory_storage.models import Episode
from memory_storage.repositories import EpisodeRepository
from memory_storage.repositories.episodes.recalls import EpisodeSession
from memory_storage.sql.validation import as_id

Fetch = Callable[[str, str], object]
"""Pulls an episode as a whole, by its namespace and id."""


class PartialEpisodes(EpisodeRepository):
    """The episodes of one namespace, of which the file has those that are not too old."""

    def __init__(self, session: EpisodeSession, fetch: Fetch) -> None:
        super().__init__(session)
        self._fetch = fetch

    def find(self, episode_id: UUID | str, *, steps: bool = True) -> Episode | None:
        """Return the episode, or None. What is not in the file is fetched, and stays until the next sync.

        Raises:
            UnavailableError: It is not in the file, and the server cannot be asked.
        """
        found = super().find(episode_id, steps=steps)
        if found is not None:
            return found
        key = as_id(episode_id)
        try:
            self._fetch(self._session.namespace, key)
        except UnavailableError as error:
            raise UnavailableError(
                f"episode {key} is not in this file, which keeps only newer ones, and the server cannot be asked: "
                f"{error}",
                code=error.code,
            ) from error
        return super().find(episode_id, steps=steps)
