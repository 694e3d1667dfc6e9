"""What is to be sent to whoever asked, whatever listens."""

from typing import NamedTuple


class Response(NamedTuple):
    """A status, a content type and a body."""

    status: int
    content_type: str
    body: bytes
