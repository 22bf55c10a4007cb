"""Retention and erasure: the repository, batched deletion, and tombstones."""
