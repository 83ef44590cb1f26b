"""Decisions as values: who answers, under which constraints, at what price, and why nobody else."""

from .constraints import tighten
from .engine import Consult, Engine, Scale
from .errors import Infeasible, PoliciesError
from .panel import Panel
from .plans import Attempt, Gather, Gathered, Heard, Plan, Single, Step, Verdict
from .record import decision_record, explain
from .recruiting import PanelRule
from .types import Decision, EncoderUse, Fleet, Hints, Objective, Policy, Require
from .voting import form_asked, said, vote

__all__ = [
    "Attempt",
    "Consult",
    "Decision",
    "EncoderUse",
    "Engine",
    "Fleet",
    "Gather",
    "Gathered",
    "Heard",
    "Hints",
    "Infeasible",
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
    "Verdict",
    "decision_record",
    "explain",
    "form_asked",
    "said",
    "tighten",
    "vote",
]
