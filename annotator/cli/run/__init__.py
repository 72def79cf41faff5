"""Commands that annotate, or say what annotating would meet: sync, prompts, doctor."""
