"""How descriptions of mined patterns quote the tasks of their episodes, so that erasure finds and removes it."""

MINED_TAG = "learned"
"""The tag of each pattern that is learned."""
TASK_QUOTE = " (tasks: "
"""What stands before the words of tasks in a description."""


def without_task_quote(description: str) -> str:
    """Return the description of a mined pattern without the words of tasks, unless they were edited."""
    before, mark, words = description.rpartition(TASK_QUOTE)
    return before if mark and words.find(")") == len(words) - 1 else description
