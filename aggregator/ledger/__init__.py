"""The ledger: our Postgres database. Besides it, only the source speaks SQL.

database        the pool, transactions, migrations, and whether a server is fit
privileges      what each role of its database may do
clock, waits    the clock that everything is stamped by, and transactions that take longer than they should
identity        whether this is the ledger that it was
meters, feeds   who a meter is, its mark, and who may write for it now; and on what terms it feeds each sink
silent_holder   who holds a meter in silence, and is ended
customers       mappings from keys to billing customers, what each key had before, and what waits for a customer
customer_names  customers by the beginning of their names, for shells
cutovers        since when a customer is billed by another sink
meter_names     what each meter fed under which name
combinations    what the numbers of combinations of dimensions stand for
configurations  which configuration of the meters is in force, and what it was before
applying        what a plan is made against, and a configuration made to hold as a whole
samples         what counters and gauges stood at, taken once and kept
passes/         one pass over a span, as one transaction
outbox/         what leaves: claimed, settled, released, one by one or as a file
at_rest         how events go from the outbox to where they rest, and back
review/         what waits for a further look: held, in doubt, rejected, to be cancelled
adoption        what a sink holds already, taken over
notifications   what sinks tell by themselves, taken once
parity          what was planned for two sinks of a meter, beside each other
figures         what monitoring asks again and again
drift           what it has of customers and days, beside source and sink
reads           how often sinks were asked for figures
usage, usage_statements  what became of usage, in figures that add up
history         what passes and deliveries did, and what waits
usage_days      what each customer used in a day, summed up
usage_windows   how many slots hours have, and who is in the newest windows, for pages
facts           all that is on record of a number
reports         questions, for status and proofs
archives        months that leave for an archive: closed, recorded, removed, brought back
archived        what is archived, laid beside what is here, for whoever asks
ledger          all of it together, as the wiring opens it

It imports the runtime and the core; collection, delivery, reconciliation, adoption, wiring and commands import it. Begin
with `meters` and `passes/passes`."""
