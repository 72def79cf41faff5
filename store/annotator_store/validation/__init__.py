"""Rules in SQL that language rows are held to."""
