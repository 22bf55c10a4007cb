"""Paths that a model writes, and where they lead to: always below /memories."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote

from anthropic.lib.tools import ToolError

ROOT = "/memories"


@dataclass(frozen=True)
class FilePath:
    """A path below /memories.

    Attributes:
        text: how the model wrote it.
        labels: the names from /memories on; none for /memories itself.
    """

    text: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, text: object) -> FilePath:
        """Return the path that the model wrote.

        Raises:
            ToolError: It is not below /memories, or has a name that could lead elsewhere: `..`, also encoded or in
                other code points, a backslash, or a control character.
        """
        if not isinstance(text, str) or not (text == ROOT or text.startswith(f"{ROOT}/")):
            raise ToolError(f"Path must start with {ROOT}, got: {text}")
        names = [name for name in text[len(ROOT) :].split("/") if name not in ("", ".")]
        if any(_may_lead_elsewhere(name) for name in names):
            raise ToolError(f"Path {text} would escape {ROOT} directory")
        return cls(text, tuple(names))

    @property
    def parents(self) -> list[FilePath]:
        """The directories above it, without /memories."""
        parts = [self.labels[:depth] for depth in range(1, len(self.labels))]
        return [FilePath("/".join((ROOT, *part)), part) for part in parts]

    def contains(self, other: FilePath) -> bool:
        """Whether another path is below this one."""
        depth = len(self.labels)
        return len(other.labels) > depth and other.labels[:depth] == self.labels


def _may_lead_elsewhere(name: str) -> bool:
    while True:
        plain = unicodedata.normalize("NFKC", name)
        if plain.strip() in (".", "..") or any(one in "/\\" or unicodedata.category(one) == "Cc" for one in plain):
            return True
        decoded = unquote(name)
        if decoded == name:
            return False
        name = decoded
