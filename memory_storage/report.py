"""Deprecated: the report is a distribution of its own, `memory-storage-report`; import `memory_storage_report`."""

from memory_storage_report import Report, Section, collect, page, sections, write_page

from ._deprecation import renamed_arguments, warn_renamed

warn_renamed("memory_storage.report", "memory_storage_report")
gather = renamed_arguments(zone="tz", reward_at_least="success_reward")(collect)

__all__ = ["Report", "Section", "gather", "page", "sections", "write_page"]
