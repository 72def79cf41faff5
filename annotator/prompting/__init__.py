"""Prompts: the template files, and the shape of every answer."""
