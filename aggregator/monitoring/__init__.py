"""What others watch us by: figures for Prometheus, and answers to probes. It writes nothing to the ledger.

Whatever listens asks the functions of `endpoints`, each of which gives a status, a content type and a body.
It imports the wiring and what that is made of; the daemon, the page and commands import it. Begin with `endpoints`."""
