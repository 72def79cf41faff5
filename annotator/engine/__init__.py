"""Engines: whatever can answer a request. One small file each, one contract for all."""
