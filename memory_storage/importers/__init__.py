"""Import of agent transcripts and exports, and export of a namespace as JSON lines."""

from .conversation import RunOptions
from .importer import (
    AUTO,
    FORMATS,
    Format,
    ImportOptions,
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
from .run import ImportNote, ImportProblem
from .watch import DirectoryWatch, WatchedFile

__all__ = [
    "AUTO",
    "FORMATS",
    "DirectoryWatch",
    "Format",
    "ImportNote",
    "ImportOptions",
    "ImportProblem",
    "ImportReport",
    "Record",
    "RunOptions",
    "Transcript",
    "WatchedFile",
    "episode_from",
    "export_lines",
    "import_file",
    "import_stream",
    "import_transcript",
    "is_gzip",
    "read_records",
    "read_transcript",
]
