"""Finding episodes and patterns by meaning and by words: a request, its plan, one statement, and the vector indexes."""
