"""What a client sends and gets, as values read from the gateway's JSON and headers.

Each `parse` takes a decoded answer and raises KeyError, TypeError, ValueError, IndexError or AttributeError
when it is not in the protocol; unknown fields are ignored here and kept in `raw`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar

Json = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hints:
    """What one request asks of the router; None leaves the policy's word. Hints tighten, never loosen.

    `weights` trade quality, in [0, 1], for the other goals: {"cost": 0.3, "latency": 0.1};
    `cost_quality_tradeoff` is a dial in their place: 0 is quality alone, 10 the cheapest; `max_usd_per_1k`
    (expected dollars a thousand queries) or `target_quality` (expected mean score) set it by what it buys.
    `flags` are short wishes: "smallest model", "recency = 0.2". `models` are the
    only experts that may answer, `exclude` those that may not, `fallbacks` stand behind an expert asked for
    by name. `panel` changes the panel of the policy: {"k": 2, "aggregator": "vote", "size": "mass"}.
    """

    policy: str | None = None
    flags: Sequence[str] | None = None
    weights: Mapping[str, float] | None = None
    max_cost_usd: float | None = None
    max_latency_ms: float | None = None
    min_quality: float | None = None
    models: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    fallbacks: Sequence[str] | None = None
    cost_quality_tradeoff: float | None = None
    max_usd_per_1k: float | None = None
    target_quality: float | None = None
    session_id: str | None = None
    panel: Mapping[str, Any] | None = None

    if not TYPE_CHECKING:  # a type checker knows the names

        def __new__(cls, *values: Any, **given: Any) -> "Hints":
            """Raises: TypeError: there is no hint of a name; names the nearest."""
            known = [field.name for field in fields(cls)]
            for name in given:
                if name not in known:
                    near = get_close_matches(name, known, n=1)
                    fix = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
                    raise TypeError(f"there is no hint '{name}'; {fix}")
            return object.__new__(cls)

    def as_json(self) -> dict[str, Any]:
        """The hints that were given, as the field `router` of a body."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Routed:
    """Who answered and why, from the response headers; None where the gateway did not say.

    `cost_usd` is what the call cost; unknown until a stream has ended, so None on streams.
    """

    decision_id: str | None = None
    expert: str | None = None
    policy: str | None = None
    plan: str | None = None
    reason: str | None = None
    cost_usd: float | None = None
    overhead_ms: float | None = None
    request_id: str | None = None
    head: str | None = None

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> "Routed":
        return cls(
            decision_id=headers.get("x-thalamus-decision-id"),
            expert=headers.get("x-thalamus-expert"),
            policy=headers.get("x-thalamus-policy"),
            plan=headers.get("x-thalamus-plan"),
            reason=headers.get("x-thalamus-reason"),
            cost_usd=_parse_number(headers.get("x-thalamus-cost-usd")),
            overhead_ms=_parse_number(headers.get("x-thalamus-overhead-ms")),
            request_id=headers.get("x-request-id"),
            head=headers.get("x-thalamus-head"),
        )


class Answered:
    """An answer that knows how it was routed."""

    __slots__ = ()
    routed: Routed

    @property
    def expert(self) -> str | None:
        return self.routed.expert

    @property
    def policy(self) -> str | None:
        return self.routed.policy

    @property
    def decision_id(self) -> str | None:
        return self.routed.decision_id

    @property
    def cost_usd(self) -> float | None:
        return self.routed.cost_usd


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the expert counted them."""

    input_tokens: int
    output_tokens: int

    @classmethod
    def parse(cls, raw: Json | None) -> "Usage | None":
        if not raw:
            return None
        return cls(raw.get("prompt_tokens") or 0, raw.get("completion_tokens") or 0)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model wants called; `arguments` is the JSON text the model wrote, not checked."""

    id: str
    name: str
    arguments: str

    @classmethod
    def parse(cls, raw: Json) -> "ToolCall":
        return cls(raw["id"], raw["function"]["name"], raw["function"]["arguments"])


@dataclass(frozen=True, slots=True)
class Chat(Answered):
    """An answer. `text` is the first choice's, empty when it only calls tools; `model` really answered."""

    text: str
    model: str
    finish_reason: str | None
    tool_calls: tuple[ToolCall, ...]
    usage: Usage | None
    routed: Routed
    raw: Json

    @classmethod
    def parse(cls, raw: Json, routed: Routed) -> "Chat":
        choice = raw["choices"][0]
        message = choice["message"]
        return cls(
            text=message.get("content") or "",
            model=raw["model"],
            finish_reason=choice.get("finish_reason"),
            # Calls of other kinds, such as custom tools, have no `function`; they stay in `raw`.
            tool_calls=tuple(
                ToolCall.parse(call) for call in message.get("tool_calls") or () if "function" in call
            ),
            usage=Usage.parse(raw.get("usage")),
            routed=routed,
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer. `text` may be empty (role, tool calls, usage): see `raw`."""

    text: str
    finish_reason: str | None
    usage: Usage | None
    raw: Json

    @classmethod
    def parse(cls, raw: Json) -> "Chunk":
        # The last chunk with `stream_options.include_usage` has no choices.
        choice: Json = next(iter(raw.get("choices") or ()), {})
        return cls(
            text=(choice.get("delta") or {}).get("content") or "",
            finish_reason=choice.get("finish_reason"),
            usage=Usage.parse(raw.get("usage")),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Embeddings(Answered):
    """One vector per input, in the inputs' order; (n_inputs, dim).

    `embedders` tell who made each; None where an expert that is served elsewhere does not say.
    """

    vectors: tuple[tuple[float, ...], ...]
    embedders: tuple[str | None, ...]
    model: str
    usage: Usage | None
    routed: Routed
    raw: Json

    @classmethod
    def parse(cls, raw: Json, routed: Routed) -> "Embeddings":
        # The format gives each row an index and promises no order.
        rows = sorted(raw["data"], key=lambda row: row["index"])
        vectors = tuple(tuple(row["embedding"]) for row in rows)
        embedders = tuple(row.get("embedder") for row in rows)
        return cls(vectors, embedders, raw["model"], Usage.parse(raw.get("usage")), routed, raw)


@dataclass(frozen=True, slots=True)
class Model:
    """A name that may be asked for: a policy (`auto`, `auto:…`) or an expert."""

    id: str
    owned_by: str | None
    raw: Json

    @classmethod
    def parse_list(cls, raw: Json) -> "tuple[Model, ...]":
        return tuple(cls(model["id"], model.get("owned_by"), model) for model in raw["data"])


@dataclass(frozen=True, slots=True)
class Candidate:
    """One expert as the decision saw it: what was predicted of it, and why it was not taken.

    `quality` is the expected score in [0, 1]; None is unknown, which is not zero. `reason` says why it was
    taken or not: of an expert that is not `eligible`, the constraint it failed. `evidence`: whether outcomes
    of this expert were measured. `role`: member or aggregator of a panel, or fallback.
    """

    expert: str
    role: str | None = None
    model: str | None = None
    quality: float | None = None
    quality_std: float | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    output_tokens: float | None = None
    utility: float | None = None
    eligible: bool | None = None
    evidence: bool | None = None
    tier: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What was to be done: the kind of plan, and the experts it may call, in order."""

    kind: str
    experts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """The expert that the router chose for one query, and why not the others.

    `tier` is what the predictions rest on: prior (no look at the text), static or encoder. `margin` separates
    the first two candidates, in quality; None when there is no second. `propensity` is the probability with
    which this expert was taken. `head` is the head of the artifact that predicted, if one did. `raw`
    holds what came of it too, when it was fetched by its id.
    """

    id: str
    policy: str
    expert: str
    plan: PlanSummary
    tier: str
    reason: str
    margin: float | None
    propensity: float
    candidates: tuple[Candidate, ...]
    raw: Json
    head: str | None = None

    @classmethod
    def parse(cls, raw: Json) -> "RouteDecision":
        decision = raw.get("decision", raw)
        return cls(
            id=decision["id"],
            policy=decision["policy"],
            expert=decision["expert"],
            plan=PlanSummary(decision["plan"]["kind"], tuple(decision["plan"]["experts"])),
            tier=decision["tier"],
            reason=decision["reason"],
            margin=decision.get("margin"),
            propensity=decision["propensity"],
            candidates=tuple(
                _from_known_fields(Candidate, candidate) for candidate in decision["candidates"]
            ),
            raw=raw,
            head=decision.get("head"),
        )


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the gateway now keeps of what was said of an answer; None is unsaid."""

    decision_id: str
    score: float | None
    chosen: str | None
    comment: str | None
    user: str | None

    @classmethod
    def parse(cls, raw: Json) -> "Feedback":
        return cls(raw["decision_id"], raw["score"], raw["chosen"], raw["comment"], raw["user"])


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the gateway, which lives, would take traffic now; `raw` says what is degraded."""

    ready: bool
    raw: Json


def _from_known_fields(cls: type[T], raw: Json) -> T:
    """A flat value from the fields it knows, so that a newer gateway's additions do no harm."""
    return cls(**{field.name: raw[field.name] for field in fields(cls) if field.name in raw})  # type: ignore[arg-type]


def _parse_number(text: str | None) -> float | None:
    """A header's number; None if it is missing or says in words that it is unknown."""
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if isfinite(number) else None
