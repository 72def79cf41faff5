"""Settings: the structs, how they are read, and how they are spelled as flags."""
