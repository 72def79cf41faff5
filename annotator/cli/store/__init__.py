"""Commands that check or copy out what was written: verify, validate, export."""
