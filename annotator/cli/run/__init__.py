"""Commands around a run: sync, prompts, doctor."""
