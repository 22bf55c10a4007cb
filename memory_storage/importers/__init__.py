"""Import of agent transcripts and exports, and export of a namespace as JSON lines."""

from .conversation import RunOptions
from .importer import (
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
from .json_records import Record, is_gzip, read_records
from .jsonl import export_lines
from .openai_chat import episode_from

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
