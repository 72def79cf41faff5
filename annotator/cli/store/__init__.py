"""Commands that check or export what was written: verify, validate, export."""
