"""Data shards: reading and rewriting the two language columns."""
