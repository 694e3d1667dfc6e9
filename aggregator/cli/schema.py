"""`aggregator schema`: the JSON Schema of the configuration, for editors."""

import click

from aggregator.cli.printing import write_json


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, so that your editor can complete and check it."""
    from aggregator.config import json_schema

    write_json(json_schema())
