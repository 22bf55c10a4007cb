"""Recall: what to know before a task, from similar successes, failures and patterns, within a budget of tokens."""

from .recall import recall
from .request import RecallRequest
from .tokens import estimate_tokens

__all__ = ["RecallRequest", "estimate_tokens", "recall"]
