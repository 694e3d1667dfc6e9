"""The ledger: our Postgres database, and the only place besides the source that speaks SQL.

database   the pool, transactions, migrations, and whether a server is fit
meters     who a meter is, its mark, and who may write for it now
spool      readings on their way in
passes     one pass over a span, as one transaction; `writer` writes it
outbox     claim, settle, release
files      the same for what becomes a file, as a whole; `uploads` says which there are
reports    questions, for status and proofs
"""
