"""What the description of a learned pattern quotes of its episodes' tasks, so that erasure finds and removes it."""

LEARNED = "learned"
"""The tag of each pattern that is learned."""
ABOUT_TASKS = " (tasks: "
"""What stands before the words of tasks in a description."""


def without_tasks(description: str) -> str:
    """Return the description of a learned pattern without the words of tasks, unless they were edited since."""
    before, mark, words = description.rpartition(ABOUT_TASKS)
    return before if mark and words.find(")") == len(words) - 1 else description
