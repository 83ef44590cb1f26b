"""Probes: prompts whose answers code can grade, in kinds and template families. See README.md."""

from .files import Probe, ProbeError, held_out_families, load_probes

__all__ = ["Probe", "ProbeError", "held_out_families", "load_probes"]
