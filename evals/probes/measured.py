"""The bundled outcomes: what the bundled experts made of the bundled probes, by `thalamus profile`."""

from pathlib import Path

import numpy as np

from routers import Bools, OutcomeTable

from .files import load_probes
from .split import held_out_families

OUTCOMES = Path(__file__).with_name("outcomes.jsonl.gz")


def bundled_outcomes() -> tuple[OutcomeTable, OutcomeTable]:
    """The families that are fitted on, and those that are held out, never fitted on."""
    table = OutcomeTable.load(OUTCOMES)
    held = _held_out(table)
    return table.take(~held), table.take(held)


def _held_out(table: OutcomeTable) -> Bools:
    return np.isin(table.families, sorted(held_out_families(load_probes())))
