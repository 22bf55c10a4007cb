"""Episodes: the repository, its statements and its rows."""
