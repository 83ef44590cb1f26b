"""Probes: prompts whose answers code can grade, in kinds and template families. See README.md."""

from .files import choose_held_out_families, load_probes
from .formats import Probe, ProbeError

__all__ = ["Probe", "ProbeError", "choose_held_out_families", "load_probes"]
