"""Commands that read the log: query, log."""
