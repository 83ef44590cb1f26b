"""Probes: prompts whose answers code can grade, in kinds and template families. See README.md."""

from .files import Probe, ProbeError, choose_held_out_families, load_probes

__all__ = ["Probe", "ProbeError", "choose_held_out_families", "load_probes"]
