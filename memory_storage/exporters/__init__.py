"""Export of episodes for other programs: OpenAI fine-tuning, ATIF trajectories, Markdown and Parquet.

The lossless format is `memory_storage.importers.export_lines`.
"""

from .exporter import FORMATS, ExportFormat, ExportReport, export_episodes

__all__ = ["FORMATS", "ExportFormat", "ExportReport", "export_episodes"]
