"""Months that left the ledger, as one Parquet file for each meter and month.

parquet    what such a file looks like: written, read, and read back to be compared
places     where files lie: in a directory, or in a bucket
archiver   a month's way out of the ledger, step by step, each of which can be taken again
reader     archives as the ledger's questions read them

It imports the ledger, the sinks' way to a bucket, the runtime and the core; wiring and commands import it. Begin with
`archiver`."""
