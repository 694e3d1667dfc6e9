"""Semantic layers: what a metric of dbt or of an Ossie model says of usage, for a meter to begin with.

Rules
- A file that somebody else wrote is read, and nothing of it is run. Its SQL is taken as it is, for the engine that it was
  written for, or translated where that cannot change what it means.
- What is no sum over rows of one table is refused with a sentence.

dbt.py          a manifest: semantic models, measures and metrics, in both of their forms
ossie.py        a semantic model in YAML: datasets, relationships and metrics
expressions.py  one expression: its columns named after the table that is read, and another engine's SQL

It imports `core` and `errors`, and commands import it. Begin with `dbt`.
"""
