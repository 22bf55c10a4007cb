"""Episodes: the repository, its statements, rows and quota."""
