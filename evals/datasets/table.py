"""Outcome tables of our own, to select from or merge."""

from pathlib import Path

from routers import OutcomeTable


def read_table(source: Path) -> OutcomeTable:
    """An outcome table as `OutcomeTable.save` writes it."""
    return OutcomeTable.load(source)
