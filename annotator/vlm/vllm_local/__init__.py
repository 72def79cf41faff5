"""vLLM loaded into a process of the run."""
