"""Checkpoints of episodes: the repository and its statements, and what is handed over from one."""
