"""The `vqa` module: questions about single frames, with typed answers."""
