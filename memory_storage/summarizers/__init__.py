"""Summarizers: they write the summary of an episode. They are passed in; the one that ships needs no model.

A summarizer is called outside of transactions. Its exceptions propagate unchanged.
"""

from .extractive import ExtractiveSummarizer
from .protocol import Summarizer

__all__ = ["ExtractiveSummarizer", "Summarizer"]
