"""The words that the project's sentences do not use."""
