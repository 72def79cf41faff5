"""The append-only log of events, its cache and the folds over it."""
