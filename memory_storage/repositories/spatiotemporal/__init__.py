"""Where and when episodes happened: the repository, its statements, and geometry on the sphere."""
