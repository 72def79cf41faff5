"""Annotation as a batch job on Hugging Face Jobs."""
