"""The files of a memory tool: items below a path, and what the six commands do with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from anthropic.lib.tools import ToolError

from memory_storage.errors import ConfigurationError, ValidationError
from memory_storage.models import Item
from memory_storage.repositories import ItemRepository
from memory_storage.session import Transaction
from memory_storage.storage import MemoryStorage

from . import texts
from .paths import ROOT, FilePath

T = TypeVar("T")


class MemoryFiles:
    """The tree of files. A directory exists while there are files below it; /memories always exists.

    A command that changes files is one transaction that reads and writes: of two at the same time, the second one sees
    what the first one has stored.

    Args:
        storage: Where the files are stored.
        root: The path of the items that stands for /memories.
        max_file_bytes: The most bytes of a file; None: what the storage permits.
    """

    def __init__(self, storage: MemoryStorage, root: Sequence[str], max_file_bytes: int | None) -> None:
        if not isinstance(storage, MemoryStorage):
            raise ConfigurationError(f"storage: must be a MemoryStorage, not a {type(storage).__name__}")
        if isinstance(root, str) or not all(isinstance(label, str) for label in root):
            raise ValidationError("root", "a sequence of labels", root)
        if max_file_bytes is not None and (type(max_file_bytes) is not int or max_file_bytes < 1):
            raise ValidationError("max_file_bytes", "a whole number from 1 on, or None", max_file_bytes)
        self._storage, self._root, self._max_file_bytes = storage, tuple(root), max_file_bytes

    def view(self, path: object, view_range: object) -> str:
        """Return the text of a file with line numbers, or the files and directories below a directory.

        Args:
            path: Of the file or directory.
            view_range: The first and the last line; None for all.

        Raises:
            ToolError: It does not exist, or an argument is invalid.
        """
        place = FilePath.of(path)
        return self._reported(lambda: self._view(place, view_range))

    def create(self, path: object, text: object) -> str:
        """Store a new file.

        Args:
            path: Of the file.
            text: Its text.

        Raises:
            ToolError: There is a file or directory, a directory above is a file, or the text is too large.
        """
        place, content = FilePath.of(path), _checked_text("file_text", text)

        def work(tx: Transaction) -> str:
            if not place.labels or self._exists(tx.items, place):
                raise ToolError(f"File {place.text} already exists")
            self._check_parents(tx.items, place)
            self._put(tx.items, place, content, version=0)
            return f"File created successfully at: {place.text}"

        return self._reported(lambda: self._storage.run(work))

    def str_replace(self, path: object, old: object, new: object) -> str:
        """Replace a text that occurs once in a file.

        Args:
            path: Of the file.
            old: What is replaced.
            new: By what.

        Raises:
            ToolError: There is no such file, the text does not occur or several times, or the file becomes too large.
        """
        place, before, after = FilePath.of(path), _checked_text("old_str", old), _checked_text("new_str", new)

        def work(tx: Transaction) -> str:
            item = self._file(tx.items, place)
            content, snippet = texts.replaced(place.text, _text_of(item, place), before, after)
            self._put(tx.items, place, content, version=item.version)
            return (
                "The memory file has been edited. Here is the snippet showing the change (with line numbers):\n"
                f"{snippet}"
            )

        return self._reported(lambda: self._storage.run(work))

    def insert(self, path: object, line: object, text: object) -> str:
        """Insert lines into a file.

        Args:
            path: Of the file.
            line: The number of the line after which they are inserted; 0 for the beginning.
            text: The lines.

        Raises:
            ToolError: There is no such file or line, or the file becomes too large.
        """
        place, addition = FilePath.of(path), _checked_text("insert_text", text)

        def work(tx: Transaction) -> str:
            item = self._file(tx.items, place)
            content = texts.inserted(_text_of(item, place), line, addition)
            self._put(tx.items, place, content, version=item.version)
            return f"The file {place.text} has been edited."

        return self._reported(lambda: self._storage.run(work))

    def delete(self, path: object) -> str:
        """Delete a file, or a directory with all that is below it.

        Raises:
            ToolError: It does not exist, or is /memories.
        """
        place = FilePath.of(path)
        if not place.labels:
            raise ToolError(f"Cannot delete the {ROOT} directory itself")

        def work(tx: Transaction) -> str:
            if not tx.items.delete(*self._name(place)) and not tx.items.clear(self._below(place)):
                raise ToolError(f"The path {place.text} does not exist")
            return f"Successfully deleted {place.text}"

        return self._reported(lambda: self._storage.run(work))

    def rename(self, old: object, new: object) -> str:
        """Move a file, or a directory with all that is below it. The files keep their versions and times.

        Args:
            old: The path that exists.
            new: The new path, at which there is nothing.

        Raises:
            ToolError: There is nothing to move, the new path exists or is below the old one, or is invalid.
        """
        source, target = FilePath.of(old), FilePath.of(new)
        if not source.labels:
            raise ToolError(f"Cannot rename the {ROOT} directory itself")

        def work(tx: Transaction) -> str:
            if not target.labels or self._exists(tx.items, target):
                raise ToolError(f"The destination {target.text} already exists")
            if source.contains(target):
                raise ToolError(f"Cannot rename {source.text} to a path below itself")
            self._check_parents(tx.items, target)
            self._move(tx.items, source, target)
            return f"Successfully renamed {source.text} to {target.text}"

        return self._reported(lambda: self._storage.run(work))

    def clear(self) -> str:
        """Delete all files."""
        self._storage.items.clear(self._root)
        return "All memory cleared"

    def _view(self, place: FilePath, view_range: object) -> str:
        items = self._storage.items
        if (item := self._find(items, place)) is not None:
            return texts.content(place.text, _text_of(item, place), view_range)
        below = self._below(place)
        sizes = []
        for one in items.iterate(below):
            if (text := _file_text(one)) is not None:
                sizes.append(((*one.path[len(below) :], one.key), len(text.encode())))
        if not sizes and place.labels:
            raise ToolError(f"The path {place.text} does not exist. Please provide a valid path.")
        return texts.listing(place.text, sizes)

    def _move(self, items: ItemRepository, source: FilePath, target: FilePath) -> None:
        path, key = self._name(target)
        if (item := self._find(items, source)) is not None:
            moved, old = [item.model_copy(update={"path": path, "key": key})], [(item.path, item.key)]
        else:
            below, above = self._below(source), self._below(target)
            found = list(items.iterate(below))
            moved = [one.model_copy(update={"path": (*above, *one.path[len(below) :])}) for one in found]
            old = [(one.path, one.key) for one in found]
        if not moved:
            raise ToolError(f"The path {source.text} does not exist")
        items.delete_many(old)
        items.import_many(moved)

    def _name(self, place: FilePath) -> tuple[tuple[str, ...], str]:
        return (*self._root, *place.labels[:-1]), place.labels[-1]

    def _below(self, place: FilePath) -> tuple[str, ...]:
        return (*self._root, *place.labels)

    def _find(self, items: ItemRepository, place: FilePath) -> Item | None:
        return items.find(*self._name(place)) if place.labels else None

    def _file(self, items: ItemRepository, place: FilePath) -> Item:
        item = self._find(items, place)
        if item is None:
            if not place.labels or self._exists(items, place):
                raise ToolError(f"The path {place.text} is not a file.")
            raise ToolError(f"The path {place.text} does not exist. Please provide a valid path.")
        return item

    def _exists(self, items: ItemRepository, place: FilePath) -> bool:
        return self._find(items, place) is not None or bool(items.paths(prefix=self._below(place), limit=1))

    def _check_parents(self, items: ItemRepository, place: FilePath) -> None:
        parents = place.parents
        for parent, item in zip(parents, items.get_many([self._name(one) for one in parents]), strict=True):
            if item is not None:
                raise ToolError(f"The path {parent.text} is not a directory.")

    def _put(self, items: ItemRepository, place: FilePath, text: str, *, version: int) -> None:
        size, most = len(text.encode(errors="replace")), self._max_file_bytes
        if most is not None and size > most:
            raise ToolError(f"The file {place.text} would have {size:,} bytes; the limit is {most:,}.")
        items.put(*self._name(place), {"text": text}, version=version)

    def _reported(self, work: Callable[[], T]) -> T:
        """Report to the model what the storage refuses, like a text that is too large."""
        try:
            return work()
        except ValidationError as error:
            raise ToolError(str(error)) from error


def _checked_text(field: str, text: object) -> str:
    if not isinstance(text, str):
        raise ToolError(f"Invalid `{field}` parameter: it should be a text.")
    return text


def _file_text(item: Item) -> str | None:
    text = item.value.get("text") if isinstance(item.value, dict) else None
    return text if isinstance(text, str) else None


def _text_of(item: Item, place: FilePath) -> str:
    if (text := _file_text(item)) is None:
        raise ToolError(f"Unsupported file type for {place.text}")
    return text
