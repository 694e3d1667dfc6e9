"""The process and its host: clocks, the log, the terminal, the embedded Postgres, and what is kept on the disk.

Nothing here knows what usage is.
It imports `errors`, itself, and of the core what is traced; everything may import it but the core, the configuration and
the sandbox. Begin with `clock`."""
