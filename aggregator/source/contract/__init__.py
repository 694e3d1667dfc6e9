"""The contract of a source: what must hold so that usage read from it is right, asked of the database itself.

wording.py     how each kind of database says an instant, a decimal, its zone
fact.py        a fact: its questions, and what came of them
times.py       facts about bounds, windows and zones
values.py      facts about quantities and keys
behaviour.py   facts about many rows, timeouts, mistakes and writes
facts.py       the table of all facts
prover.py      asks a source for each

It stands on the core, and `prover` on the source itself; the source and commands import it. Begin with `facts`.
"""
