"""Modules: one async function each, from an episode and `ask` to rows."""
