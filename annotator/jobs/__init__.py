"""Annotation as a batch job on machines that are rented for it."""
