"""Decisions as values: who answers, under which constraints, at what price, and why nobody else."""

from .constraints import tighten
from .engine import Consult, Engine, Scale
from .errors import Infeasible, PoliciesError
from .plans import Attempt, Plan, Single, Verdict
from .record import decision_record, explain
from .types import Decision, EncoderUse, Fleet, Hints, Objective, Policy, Require

__all__ = [
    "Attempt",
    "Consult",
    "Decision",
    "EncoderUse",
    "Engine",
    "Fleet",
    "Hints",
    "Infeasible",
    "Objective",
    "Plan",
    "PoliciesError",
    "Policy",
    "Require",
    "Scale",
    "Single",
    "Verdict",
    "decision_record",
    "explain",
    "tighten",
]
