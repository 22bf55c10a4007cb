"""Items: the repository, its operations and their statements."""
