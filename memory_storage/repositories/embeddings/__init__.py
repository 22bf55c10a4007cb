"""Embeddings: the repository, and the backfill of missing vectors."""
