"""The command line: one file a command, its options, its call and its printing."""
