"""Decisions as values: who answers, under which constraints, at what price, and why nobody else."""

from .constraints import tighten
from .engine import Consult, Engine, Scale
from .errors import Infeasible, PoliciesError, UnknownFlag, Unreachable
from .flags import Flag, Flagged, known_flags, take_flags, wish
from .objectives import dialled
from .panel import Panel
from .plans import Attempt, Gather, Gathered, Heard, Plan, Single, Step, Verdict
from .record import decision_record, explain
from .recruiting import PanelRule
from .types import Decision, EncoderUse, Fleet, Goal, Hints, Lead, Objective, Policy, Require
from .voting import form_asked, said, vote

__all__ = [
    "Attempt",
    "Consult",
    "Decision",
    "EncoderUse",
    "Engine",
    "Flag",
    "Flagged",
    "Fleet",
    "Gather",
    "Gathered",
    "Goal",
    "Heard",
    "Hints",
    "Infeasible",
    "Lead",
    "Objective",
    "Panel",
    "PanelRule",
    "Plan",
    "PoliciesError",
    "Policy",
    "Require",
    "Scale",
    "Single",
    "Step",
    "UnknownFlag",
    "Unreachable",
    "Verdict",
    "decision_record",
    "dialled",
    "explain",
    "form_asked",
    "known_flags",
    "said",
    "take_flags",
    "tighten",
    "vote",
    "wish",
]
