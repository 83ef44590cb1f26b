"""Decisions as values: who answers, under which constraints, at what price, and why no other expert."""

from .admission import Admission, AdmissionRule, Admitted, Line, Rejected, admit
from .arrivals import Arrivals
from .batching import Group, order_groups
from .constraints import tighten
from .engine import Consult, Engine, Scale
from .errors import Infeasible, PoliciesError, UnknownFlag, Unreachable
from .eviction import EvictionRule
from .flags import Flag, Flagged, known_flags, take_flags, wish
from .memory import (
    Blocked,
    Device,
    Effect,
    Evict,
    Hold,
    Load,
    Loadable,
    Queue,
    Refuse,
    Resident,
    ResidentState,
    Snapshot,
    Wait,
)
from .objectives import dialled
from .panel import Panel
from .plans import (
    PLANS,
    Attempt,
    Gather,
    Gathered,
    Heard,
    Plan,
    PlanBase,
    Single,
    Step,
    Verdict,
    decode_plan,
    register_plan,
)
from .record import decision_record, explain
from .recruiting import PanelRule
from .residency import ResidencyRule, decide_residency
from .shadow import Shadow
from .turns import TurnRule, claim, serving_order
from .types import Decision, EncoderUse, Fleet, Goal, Hints, Lead, Objective, Policy, Require
from .voting import form_asked, said, vote

__all__ = [
    "PLANS",
    "Admission",
    "AdmissionRule",
    "Admitted",
    "Arrivals",
    "Attempt",
    "Blocked",
    "Consult",
    "Decision",
    "Device",
    "Effect",
    "EncoderUse",
    "Engine",
    "Evict",
    "EvictionRule",
    "Flag",
    "Flagged",
    "Fleet",
    "Gather",
    "Gathered",
    "Goal",
    "Group",
    "Heard",
    "Hints",
    "Hold",
    "Infeasible",
    "Lead",
    "Line",
    "Load",
    "Loadable",
    "Objective",
    "Panel",
    "PanelRule",
    "Plan",
    "PlanBase",
    "PoliciesError",
    "Policy",
    "Queue",
    "Refuse",
    "Rejected",
    "Require",
    "ResidencyRule",
    "Resident",
    "ResidentState",
    "Scale",
    "Shadow",
    "Single",
    "Snapshot",
    "Step",
    "TurnRule",
    "UnknownFlag",
    "Unreachable",
    "Verdict",
    "Wait",
    "admit",
    "claim",
    "decide_residency",
    "decision_record",
    "decode_plan",
    "dialled",
    "explain",
    "form_asked",
    "known_flags",
    "order_groups",
    "register_plan",
    "said",
    "serving_order",
    "take_flags",
    "tighten",
    "vote",
    "wish",
]
