"""Retention and erasure: the repository, batched deletion, tombstones, and the statements of all."""
