"""A report that people look at: figures gathered once, shown as a page or as tables. `report` is an extra.

The numbers come from the repositories; nothing here knows SQL.
"""

from .collection import Report, collect
from .html import page, write_page
from .section import Section, sections

__all__ = ["Report", "Section", "collect", "page", "sections", "write_page"]
