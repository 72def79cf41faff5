"""KEEPS facts: digests, events, the journal, its cache, and the shards. Imports nothing of `annotator/`."""
