"""Decisions as values: which expert answers, under which constraints, at what price, and why no other."""

from .admission import Admission, AdmissionRule, Admitted, QueueState, Rejected, admit
from .arrivals import Arrivals
from .batching import Group, order_groups
from .constraints import tighten
from .engine import Consult, Engine, Scale
from .errors import Infeasible, PoliciesError, UnknownFlag, Unreachable
from .eviction import EvictionRule
from .flags import Flag, FlaggedText, apply_flags, check_flags, extract_flags
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
from .objectives import resolve_target
from .panel import Panel
from .plans import (
    PLANS,
    Attempt,
    Gather,
    GatherResult,
    Plan,
    PlanBase,
    Single,
    Step,
    StepResult,
    Verdict,
    decode_plan,
    register_plan,
)
from .record import decision_record, explain
from .recruiting import PanelRule
from .residency import ResidencyRule, decide_residency
from .shadow import Shadow
from .turns import TurnRule, order_queues, queue_weight
from .types import Decision, EncoderUse, Fleet, Goal, Objective, Policy, PriorityGoal, Require, RoutingHints
from .voting import detect_form, extract_answer, vote

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
    "FlaggedText",
    "Fleet",
    "Gather",
    "GatherResult",
    "Goal",
    "Group",
    "Hold",
    "Infeasible",
    "Load",
    "Loadable",
    "Objective",
    "Panel",
    "PanelRule",
    "Plan",
    "PlanBase",
    "PoliciesError",
    "Policy",
    "PriorityGoal",
    "Queue",
    "QueueState",
    "Refuse",
    "Rejected",
    "Require",
    "ResidencyRule",
    "Resident",
    "ResidentState",
    "RoutingHints",
    "Scale",
    "Shadow",
    "Single",
    "Snapshot",
    "Step",
    "StepResult",
    "TurnRule",
    "UnknownFlag",
    "Unreachable",
    "Verdict",
    "Wait",
    "admit",
    "apply_flags",
    "check_flags",
    "decide_residency",
    "decision_record",
    "decode_plan",
    "detect_form",
    "explain",
    "extract_answer",
    "extract_flags",
    "order_groups",
    "order_queues",
    "queue_weight",
    "register_plan",
    "resolve_target",
    "tighten",
    "vote",
]
