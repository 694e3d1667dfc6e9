"""The process and its host: clocks, the log, the terminal, the embedded Postgres, and what is kept on the disk.

Nothing here knows what usage is.
It imports `errors` and itself; everything may import it but the core, the configuration and the sandbox. Begin with
`clock`."""
