"""Reports on a memory: metrics collected in one snapshot, shown as tables or as one page of HTML.

`collect(storage)` reads a `Report` through the public repositories; `sections(report)` are its tables with a sentence
each, `page(report)` is the HTML, and `write_page(report, path)` writes it to a file.
"""

from .collection import Report, collect
from .html import page, write_page
from .section import Section, sections

__all__ = ["Report", "Section", "collect", "page", "sections", "write_page"]
