"""Usage as files: for the Dashboard's upload, for Stripe's Amazon S3 import, and in a directory for whoever carries them.

formats.py    what a record looks like: JSON Lines, JSON, CSV; pure
making.py     events in, a temporary file and the name it shall have out
sink.py       what the three sinks have in common
directory.py  files in a directory: whole under their names, or not there
s3.py         objects in a bucket: the same
bucket.py     the calls to the store, and what its errors mean

Nobody answers for a file's records one by one. What Stripe could not take of a whole file, or of some of its rows, it says
by the events `data_management.import_set.failed` and `data_management.import_set.succeeded` with `status:
succeeded_with_errors`. The rows of the error file name their identifiers: whoever reads it hands them to `Uploads.reject`
(`aggregator files reject --rows`), which refuses the events by identifier.

It imports what all sinks share, the runtime and the core; the wiring and commands import it. Begin with `sink`, then with
`formats`.
"""

from aggregator.sinks.files.bucket import Keys
from aggregator.sinks.files.directory import DirectorySink
from aggregator.sinks.files.formats import CsvFormat, Format, JsonFormat
from aggregator.sinks.files.s3 import S3Sink

__all__ = ["CsvFormat", "DirectorySink", "Format", "JsonFormat", "Keys", "S3Sink"]
