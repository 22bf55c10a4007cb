"""Steps: the repository and its statements."""
