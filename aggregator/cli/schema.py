"""`aggregator schema`: the JSON Schema of the configuration, for editors."""

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file; editors complete and check it with that."""
    from aggregator.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
