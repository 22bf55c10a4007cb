"""Logs: the repository and its statements."""
