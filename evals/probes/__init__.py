"""Probes: prompts whose answers code can grade, in kinds and template families. See README.md."""

from .files import load_probes
from .split import held_out_families
from .types import Probe, ProbeError

__all__ = ["Probe", "ProbeError", "held_out_families", "load_probes"]
