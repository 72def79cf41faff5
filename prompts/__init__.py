"""The shipped prompt files, one per step. Read by `annotator.prompts`."""
