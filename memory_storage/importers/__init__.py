"""Agent transcripts and exports into a storage, and a storage into an export."""

from .intake import FORMATS, Format, ImportProblem, ImportReport, import_file, import_stream
from .jsonl import export_lines
from .openai_chat import episode_from
from .records import Record, read_records

__all__ = [
    "FORMATS",
    "Format",
    "ImportProblem",
    "ImportReport",
    "Record",
    "episode_from",
    "export_lines",
    "import_file",
    "import_stream",
    "read_records",
]
