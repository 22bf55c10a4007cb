"""Agent transcripts and exports into a storage, and a storage into an export."""

from .intake import (
    FORMATS,
    Format,
    ImportNote,
    ImportOptions,
    ImportProblem,
    ImportReport,
    Transcript,
    import_file,
    import_stream,
    import_transcript,
    read_transcript,
)
from .jsonl import export_lines
from .openai_chat import RunOptions, episode_from
from .records import Record, is_gzip, read_records

__all__ = [
    "FORMATS",
    "Format",
    "ImportNote",
    "ImportOptions",
    "ImportProblem",
    "ImportReport",
    "Record",
    "RunOptions",
    "Transcript",
    "episode_from",
    "export_lines",
    "import_file",
    "import_stream",
    "import_transcript",
    "is_gzip",
    "read_records",
    "read_transcript",
]
