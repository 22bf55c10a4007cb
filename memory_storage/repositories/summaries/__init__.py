"""Summaries of episodes: the repository and its statements."""
