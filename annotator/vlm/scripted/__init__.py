"""Deterministic answers derived from the request, for tests and examples."""
