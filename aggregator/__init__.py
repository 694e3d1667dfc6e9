"""Usage from your databases to your billing system: read by SQL, summed per window, sent once."""

__version__ = "0.1.0"
