"""The texts that the memory tool answers with: those of Anthropic's reference implementation, which models know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anthropic.lib.tools import ToolError

MAX_LINES = 999_999
_WIDTH = len(str(MAX_LINES))
_CONTEXT = 2  # lines that are shown above and below a change


def numbered(lines: Sequence[str], first: int) -> str:
    """Return lines with their numbers."""
    return "\n".join(f"{number:>{_WIDTH}}\t{line}" for number, line in enumerate(lines, first))


def content(path: str, text: str, view_range: object) -> str:
    """Return the text of a file, or a range of its lines.

    Args:
        path: The path of the file.
        text: Its text.
        view_range: None, or the first and the last line, from 1 on; -1 is the end of the file.

    Raises:
        ToolError: The file has too many lines, or the range is none.
    """
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise ToolError(f"File {path} exceeds maximum line limit of {MAX_LINES:,} lines.")
    first = 1
    if view_range:
        if not isinstance(view_range, list | tuple) or [type(one) for one in view_range] != [int, int]:
            raise ToolError(f"Invalid `view_range` parameter: {view_range}. It should be [first line, last line].")
        first, last = max(1, view_range[0]), view_range[1]
        lines = lines[first - 1 : len(lines) if last == -1 else max(0, last)]
    return f"Here's the content of {path} with line numbers:\n{numbered(lines, first)}"


def replaced(path: str, text: str, old: str, new: str) -> tuple[str, str]:
    """Replace the only occurrence of a text.

    Args:
        path: The path of the file.
        text: Its text.
        old: What is replaced.
        new: By what.

    Returns:
        The new text of the file, and the lines around the change.

    Raises:
        ToolError: The text does not occur, or several times.
    """
    if not old:
        raise ToolError("No replacement was performed, `old_str` must not be empty.")
    count = text.count(old)
    if count == 0:
        raise ToolError(f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}.")
    if count > 1:
        lines = ", ".join(map(str, _lines_of(text, old)))
        raise ToolError(
            f"No replacement was performed. Multiple occurrences of old_str `{old}` in lines: {lines}. Please ensure "
            "it is unique"
        )
    changed = text[: text.find(old)].count("\n")
    result = text.replace(old, new)
    first = max(0, changed - _CONTEXT)
    return result, numbered(result.split("\n")[first : changed + _CONTEXT + 1], first + 1)


def inserted(text: str, line: object, addition: str) -> str:
    """Insert lines after a line, and end the text with a line feed.

    Args:
        text: The text of the file.
        line: The number of the line; 0 for the beginning.
        addition: The lines.

    Returns:
        The new text.

    Raises:
        ToolError: There is no such line.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if type(line) is not int or not 0 <= line <= len(lines):
        raise ToolError(f"Invalid `insert_line` parameter: {line}. It should be within the range [0, {len(lines)}].")
    lines.insert(line, addition.rstrip("\n"))
    result = "\n".join(lines)
    return result if result.endswith("\n") else f"{result}\n"


def listing(path: str, sizes: Sequence[tuple[tuple[str, ...], int]]) -> str:
    """Return the files and directories up to two levels below a directory. Hidden ones only count for the sizes.

    Args:
        path: The path of the directory.
        sizes: The labels of each file below it, and its size in bytes.
    """
    totals: dict[tuple[str, ...], int] = {(): 0}
    files = set()
    for labels, size in sizes:
        files.add(labels)
        for depth in range(min(len(labels), 2) + 1):
            totals[labels[:depth]] = totals.get(labels[:depth], 0) + size
    path = path.rstrip("/")
    lines = [f"{_size(totals.pop(()))}\t{path}"]
    for labels in sorted(totals):
        if not any(label.startswith(".") for label in labels):
            ending = "" if labels in files else "/"
            lines.append(f"{_size(totals[labels])}\t{'/'.join((path, *labels))}{ending}")
    header = f"Here're the files and directories up to 2 levels deep in {path}, excluding hidden items:"
    return "\n".join([header, *lines])


def _lines_of(text: str, part: str) -> Iterator[int]:
    """Yield the numbers of the lines in which a text begins."""
    line, counted = 1, 0
    position = text.find(part)
    while position >= 0:
        line += text.count("\n", counted, position)
        counted = position
        yield line
        position = text.find(part, position + 1)


def _size(count: int) -> str:
    """Return a number of bytes, like 512B, 1.5K or 2M."""
    power = min(max(0, count.bit_length() - 1) // 10, 3)
    size = count / 1024**power
    return f"{size:.{0 if size.is_integer() else 1}f}{'BKMG'[power]}"
