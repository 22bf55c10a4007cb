"""Export of a stream of episodes in one of the formats, with a report of what the format cannot hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, Protocol, get_args

from memory_storage._formatting import counted
from memory_storage.errors import ValidationError
from memory_storage.models import Episode

from . import atif, markdown, openai_chat
from .notes import Notes

ExportFormat = Literal["openai-chat", "atif", "markdown", "parquet"]
FORMATS: tuple[str, ...] = get_args(ExportFormat)


class Writer(Protocol):
    """Writes episodes in one format to a stream, which it does not close."""

    def write(self, episode: Episode, notes: Notes) -> None:
        """Write an episode, and note what the format cannot hold of it."""

    def finish(self) -> None:
        """Write what ends the file."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The outcome of an export.

    Attributes:
        episodes: number of episodes written.
        omitted: what the format has no place for, with the number of episodes that had it.
        remarks: what it holds in another form, or what a reader may refuse, with the number of episodes.
    """

    episodes: int
    omitted: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([counted(self.episodes, "episode"), *self.summary()])

    def summary(self) -> list[str]:
        """Return what is not in the file as it is stored: a line for all that is omitted, and one for each remark."""
        names = ", ".join(f"{name} ({count:,})" for name, count in self.omitted.items())
        lines = [f"not in this format: {names}"] if names else []
        return lines + [f"{remark} ({counted(count, 'episode')})" for remark, count in self.remarks.items()]


def export_episodes(
    episodes: Iterable[Episode],
    stream: BinaryIO,
    *,
    format: ExportFormat,  # noqa: A002 - as the option of the command
    on_progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Write episodes, one after the other, so that few of them are in memory at a time.

    Args:
        episodes: the episodes with their steps, like `storage.episodes.iterate(outcome="success")`.
        stream: an open binary file, which is left open.
        format: "openai-chat" and "atif": JSON lines, one per episode. "markdown": a document with a section per
            episode. "parquet": one row per episode, with its steps nested; needs the extra `parquet`.
        on_progress: called with the number of episodes written so far.

    Returns:
        The number of episodes, and what the format cannot hold.

    Raises:
        ValidationError: the format is unknown.
        ConfigurationError: pyarrow is not installed; nothing was written.
    """
    writer, omitted, remarks = _writer(stream, format), Counter[str](), Counter[str]()
    count = 0
    for count, episode in enumerate(episodes, 1):
        of_episode = Notes()
        writer.write(episode, of_episode)
        del episode  # it may be large: release it before the next one is read
        omitted.update(list(of_episode.omitted))
        remarks.update(list(of_episode.remarks))
        if on_progress is not None:
            on_progress(count)
    writer.finish()
    return ExportReport(count, dict(omitted), dict(remarks))


def _writer(stream: BinaryIO, name: str) -> Writer:
    if name == "parquet":
        from . import parquet  # pyarrow is optional, and takes long to import

        return parquet.ParquetEpisodes(stream)
    makers: dict[str, Callable[[BinaryIO], Writer]] = {
        "openai-chat": openai_chat.OpenAIChat,
        "atif": atif.Atif,
        "markdown": markdown.Markdown,
    }
    if name not in makers:
        raise ValidationError("format", f"one of {', '.join(FORMATS)}", name)
    return makers[name](stream)
