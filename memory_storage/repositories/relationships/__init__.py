"""Relationships between episodes: the repository and its statements."""
