"""Patterns: the repository, its statements, and mining."""
