"""A report that people look at: figures gathered once, shown as a page or as tables. `report` is an extra.

The numbers come from the repositories; nothing here knows SQL.
"""

from .gathering import Report, gather
from .page import page, write_page
from .sections import Section, sections

__all__ = ["Report", "Section", "gather", "page", "sections", "write_page"]
