"""vLLM servers started for a run, one per GPU."""
