"""Re-derive every digest of a store and its shards."""
