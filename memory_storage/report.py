"""Deprecated: the report is a distribution of its own, `memory-storage-report`; import `memory_storage_report`."""

import warnings

from memory_storage_report import Report, Section, page, sections, write_page
from memory_storage_report import collect as gather

warnings.warn(
    "memory_storage.report is deprecated: import memory_storage_report instead", DeprecationWarning, stacklevel=2
)

__all__ = ["Report", "Section", "gather", "page", "sections", "write_page"]
