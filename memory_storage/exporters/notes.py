"""What a format cannot hold of an episode, for the report."""

from __future__ import annotations

from memory_storage.models import Episode, TaskContext


class Notes:
    """What an export says of one episode, each once.

    Attributes:
        omitted: what the format has no place for.
        remarks: what it holds in another form, or what a reader of the format may refuse.
    """

    def __init__(self) -> None:
        self.omitted: dict[str, None] = {}
        self.remarks: dict[str, None] = {}

    def omit(self, *names: str) -> None:
        """Note that the format has no place for these."""
        self.omitted |= dict.fromkeys(names)

    def remark(self, message: str) -> None:
        """Note a remark."""
        self.remarks[message] = None


def used_fields(episode: Episode) -> list[str]:
    """Return the names of what an episode has in addition to its task, steps and verdict."""
    values = {
        "task_type": episode.task_type != Episode.model_fields["task_type"].default,
        "context": episode.context != TaskContext(),
        "reward": episode.reward is not None,
        "reflection": episode.reflection is not None,
        "artifacts": bool(episode.artifacts),
        "tags": bool(episode.tags),
        "summary": episode.summary is not None,
        "recalled": episode.recalled is not None,
    }
    return [name for name, is_used in values.items() if is_used]
