"""Engines that answer requests, and the client that keeps every answer."""
