"""Commands that look at what is known: query, log."""
