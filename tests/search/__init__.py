"""Search by vector, full text and both, and the maintenance of indexes."""
