"""What makes a change of files outlast a power cut."""

import errno
import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Bring a directory to disk, and with it which file bears a name (man7.org/linux/man-pages/man2/fsync.2.html)."""
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # not every file system has something to do here
            raise
    finally:
        os.close(number)
