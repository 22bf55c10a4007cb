"""What tools show of a record."""

from __future__ import annotations

import memory_storage as ms
from memory_storage.integrations.mcp.rendering import head_of


def test_the_head_of_an_episode_shows_its_summary():
    summary = ms.EpisodeSummary(text="# frozen", key_steps=["7: *key*"], key_concepts=["ice"], created_by="me")
    episode = ms.Episode(task_description="d", summary=summary)
    assert "## Summary\n\n```\n# frozen\n```\n\n### Key steps\n\n- 7: *key*\n" in head_of(episode)
