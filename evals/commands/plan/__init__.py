"""`thalamus plan`: which expert for what within a budget, and how much memory for local ones."""

import click

from .mapping import mapping
from .residency import residency


@click.group("plan")
def command() -> None:
    """Which expert for what within a budget, and how much memory for local ones."""


command.add_command(mapping)
command.add_command(residency)
