"""The run: from settings to shards, in the order of `sync.py`."""
