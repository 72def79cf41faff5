"""MAKES facts: from a dataset's episodes to rows, one recorded call at a time."""

__version__ = "0.1.0"
