"""A decision as JSON values: what `route` prints, the journal keeps and reports read."""

from typing import Any

from .plans import Plan
from .types import Decision


def explain(decision: Decision) -> list[dict[str, Any]]:
    """Every expert of the pool with its reason: the chosen, then by rank, then the rejected."""
    ranked = [decision.experts[e] for e in decision.order.tolist()]
    names = [*ranked, *(name for name in decision.experts if name in decision.rejections)]
    roles = find_roles(decision.plan)
    return [_candidate(decision, name, roles.get(name)) for name in names]


def decision_record(decision: Decision) -> dict[str, Any]:
    """The whole decision; numbers that are not known are None."""
    session = {} if decision.session is None else {"session": describe_session(decision)}
    return {
        **session,
        "policy": decision.policy,
        "expert": decision.chosen,
        "plan": {"kind": decision.plan.kind, **decision.plan.summary()},
        "head": decision.head,
        **({} if decision.skills is None else {"skills": list(decision.skills)}),
        "tier": decision.tier,
        "reason": decision.reason,
        "margin": _number(decision.margin),
        "propensity": decision.propensity,
        "candidates": explain(decision),
    }


def describe_session(decision: Decision) -> dict[str, Any]:
    """The conversation that a query goes on with, and what a switch of its expert gives up."""
    session = decision.session
    if session is None:
        return {}
    return {
        "id": session.id,
        "n_answers": session.n_answers,
        "previous": session.previous,
        "is_tool_loop": session.is_tool_loop,
        "is_stalled": session.is_stalled,
        "cached_tokens": dict(session.cached_tokens),
        "switch_usd": _number(decision.switch_usd or 0.0),
    }


def find_roles(plan: Plan) -> dict[str, str]:
    """What each expert of a plan is in it: member or aggregator of a panel (or both), or fallback."""
    summary = plan.summary()
    members, aggregator = summary.get("members", ()), summary.get("aggregator")
    roles = dict.fromkeys(members, "member")
    if aggregator is not None:
        roles[aggregator] = "member and aggregator" if aggregator in roles else "aggregator"
    later = plan.experts if roles else plan.experts[1:]
    return {**dict.fromkeys(later, "fallback"), **roles}


def _candidate(decision: Decision, name: str, role: str | None) -> dict[str, Any]:
    e = decision.experts.index(name)
    reason = _explain_candidate(decision, name, e)
    return {
        "expert": name,
        "role": role,
        "quality": _number(decision.quality[e]),
        "quality_std": _number(decision.quality_std[e]),
        "output_tokens": _number(decision.output_tokens[e]),
        **_assumptions(decision, e),
        "cost_usd": _number(decision.cost_usd[e]),
        "latency_s": _number(decision.latency_s[e]),
        "utility": _number(decision.utility[e]),
        "tier": decision.tier,
        "evidence": bool(decision.evidence[e]),
        "eligible": name not in decision.rejections,
        "reason": reason if role in (None, "fallback") else f"{role} of the panel; {reason}",
    }


def _assumptions(decision: Decision, e: int) -> dict[str, Any]:
    assumed = decision.assumed_length is not None and bool(decision.assumed_length[e])
    return {"output_tokens_assumed": True} if assumed else {}


def _explain_candidate(decision: Decision, name: str, e: int) -> str:
    if name in decision.rejections:
        return decision.rejections[name]
    if name == decision.chosen:
        return f"chosen: {decision.reason}"
    c = decision.experts.index(decision.chosen)
    behind = decision.utility[c] - decision.utility[e]
    quality = decision.quality[e] - decision.quality[c]
    words = (
        f"utility {behind:.3f} lower"
        if behind >= 0
        else f"utility {-behind:.3f} higher, but {decision.reason}"
    )
    return f"{words}: quality {quality:+.3f}, other goals {-behind - quality:+.3f}"


def _number(value: float) -> float | None:
    """A finite float with six significant digits, None for what is unknown or unbounded."""
    return float(f"{value:.6g}") if abs(value) < float("inf") else None
