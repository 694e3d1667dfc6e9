"""Mistakes made on purpose, one at a time, in a copy of the code: a test must fail for each."""
