"""Objects in a bucket, for Stripe's Amazon S3 import.

Rules
- An object is made in a temporary file, so that its name and hash are known before a byte of it leaves.
- One that is there already is looked at, and never written again: the import takes whatever was modified, so it would read
  every row of it anew (docs.stripe.com/billing/subscriptions/usage-based/recording-usage-s3).
- Parts of an upload that nobody brings to an end cost money and are never seen: those of the same file are removed before it
  is written again, others of ours once they are old.
"""

import datetime as dt
import tempfile
from collections.abc import Callable, Iterable
from typing import BinaryIO, cast

from aggregator.core.model import Bounds, Written
from aggregator.errors import SinkHalted, SinkUnreachable
from aggregator.runtime import failpoints
from aggregator.runtime.clock import Clock, utcnow
from aggregator.sinks.files.bucket import PART_BYTES, Bucket, Keys
from aggregator.sinks.files.formats import Format
from aggregator.sinks.files.making import make
from aggregator.sinks.files.sink import SinkOfFiles, there_already
from aggregator.sinks.protocol import Batch

ABANDONED_AFTER = dt.timedelta(hours=6)
"""A file of 1 GB takes minutes. An upload this old has nobody who goes on with it."""


class S3Sink(SinkOfFiles):
    """Writes objects to a bucket, under a prefix."""

    def __init__(
        self,
        name: str,
        *,
        bucket: str,
        prefix: str,
        region: str | None,
        endpoint_url: str | None,
        keys: Keys | None,
        timeout: dt.timedelta,
        bounds: Bounds,
        form: Format,
        clock: Clock = utcnow,
    ) -> None:
        super().__init__(name, place=f"s3://{bucket}/{prefix}", by_hand=False, bounds=bounds, form=form)
        self._prefix = prefix
        self._region = region
        self._bucket_name = bucket
        self._bucket = Bucket(
            f"sink {name}", bucket, region=region, endpoint_url=endpoint_url, keys=keys, timeout=timeout
        )
        self._clock = clock
        self._cleared = False

    def account(self) -> str | None:
        """Name the bucket and the folder: what lies there is what was imported."""
        return self.place

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Say if the bucket is in another region than was said. Raises SinkError if it cannot be asked."""
        if not list(meters):
            return []
        found = self._bucket.region()
        if self._region and found and found != self._region:
            return [
                f"The bucket {self._bucket_name} of sink {self.name} is in {found}, not in {self._region}: correct `region`."
            ]
        return []

    def use_keys(self, keys: Keys | None) -> None:
        """Make every call from now on with this key pair; without one, with the credentials that the library finds now."""
        self._bucket.use_keys(keys)

    def close(self) -> None:
        """Give back connections."""
        self._bucket.close()

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        self._clear()
        with tempfile.TemporaryFile() as temporary:
            file = cast("BinaryIO", temporary)
            failpoints.passing("file_begun")
            written = make(file, batch.events, self._form, may_go_on)
            if written is None:
                return None
            file.flush()
            failpoints.passing("file_made")
            if not self._publish(file, written, batch, may_go_on):
                return None
            failpoints.passing("file_published")
            return written

    def _publish(self, file: BinaryIO, written: Written, batch: Batch, may_go_on: Callable[[], bool]) -> bool:
        key = self._prefix + written.name
        if self._is_there(key, written):
            return True
        if batch.again:
            for left in list(self._bucket.unfinished(key)):
                self._bucket.abort(left)
        if not may_go_on():
            return False
        file.seek(0)
        if written.bytes <= PART_BYTES:
            done: bool | None = self._bucket.put(key, file, written.bytes, written.sha256)
        else:
            done = self._bucket.put_in_parts(key, file, written.sha256, may_go_on)
        if done is False and not self._is_there(key, written):
            raise SinkUnreachable(
                f"The store of sink {self.name} says of {key} that it is there, and that it is not."
            )
        return done is not None

    def _is_there(self, key: str, written: Written) -> bool:
        """Tell whether the object is there. Raises SinkHalted if another is, under its name."""
        found = self._bucket.find(key)
        if found is None:
            return False
        if trouble := there_already(written.name, self.place, found, written):
            raise SinkHalted(trouble)
        return True

    def _clear(self) -> None:
        """Remove, once, what is left of uploads that nobody goes on with."""
        if self._cleared:
            return
        for left in list(self._bucket.unfinished(f"{self._prefix}usage-")):
            if left.since is not None and self._clock() - left.since > ABANDONED_AFTER:
                self._bucket.abort(left)
        self._cleared = True
