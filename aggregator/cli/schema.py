"""`aggregator schema`: the JSON Schema of the configuration, for editors."""

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, by which editors complete and check it."""
    from aggregator.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
