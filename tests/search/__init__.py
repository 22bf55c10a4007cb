"""Searches by vector, by words and by both; and what keeps their indexes."""
