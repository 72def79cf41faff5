"""A model loaded by transformers, without vLLM."""
