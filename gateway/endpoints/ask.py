"""What chat and plain completions have in common: whom the client asks for, and the order that follows."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from policies import Decision, Hints, Policy, Single
from routers import Query

from ..asgi.exchange import Exchange
from ..errors import InvalidField, ModelNotFound
from ..execution.responder import Responder
from ..execution.trace import ExecutionRequest
from ..experts import Call, Fields, ToolExpert, shown_to_tools
from ..experts.types import Endpoint
from ..requests.fields import flag_field, read_fields, text_field
from ..requests.flags import extract_prompt_flags
from ..requests.options import RoutingOptions, parse_routing_options
from ..services import Services

NAMED_POLICY = "named"
NAMED_REASON = "asked for by name"
OURS = ("model", "router")


@dataclass(frozen=True, slots=True)
class Door:
    """One endpoint: where its calls go, what its body must have, and what routing reads of it."""

    endpoint: Endpoint
    check: Callable[[Fields], None]
    query: Callable[[Fields], Query]


@dataclass(frozen=True, slots=True)
class Asked:
    """A body that has been read: what is asked, and of whom; a policy where no expert is named.

    `query` and `wishes` are what the policy decides by, None where there is nothing to decide.
    """

    call: Call
    hints: RoutingOptions
    expert: str | None = None
    policy: Policy | None = None
    query: Query | None = None
    wishes: Hints | None = None
    warnings: tuple[str, ...] = ()


class Reader:
    """Reads bodies for one machine; nothing is decided or called."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._names = expert_names(services)
        self._tools = [e for e in services.experts.values() if isinstance(e, ToolExpert)]

    def read(self, door: Door, fields: Fields, headers: Mapping[bytes, bytes]) -> Asked:
        """What a body asks for.

        Raises:
            BadRequest: it is at fault; `param` says where.
        """
        model = text_field(fields, "model")
        stream = flag_field(fields, "stream")
        door.check(fields)
        hints = parse_routing_options(fields, headers)
        sent = {name: value for name, value in fields.items() if name not in OURS}
        call = Call(door.endpoint, sent, stream)
        expert = self._names.get(model)
        if expert is not None:
            return Asked(call, hints, expert)
        return self._for_policy(door, call, hints, policy_of(model, hints, self._services))

    def _for_policy(self, door: Door, call: Call, hints: RoutingOptions, policy: Policy) -> Asked:
        asked = extract_prompt_flags(call.fields, hints, policy)
        call = replace(call, fields=asked.fields)
        query = shown_to_tools(door.query(asked.fields), self._tools, call)
        return Asked(call, hints, None, policy, query, asked.hints, asked.warnings)

    def named(self, asked: Asked, expert: str) -> ExecutionRequest:
        """Just this expert: the client asked for that one. Fallbacks only where the request lists some.

        Raises:
            InvalidField: a fallback is no expert.
        """
        hints = asked.hints
        for name in hints.fallbacks:
            if name not in self._names:
                known = ", ".join(self._services.experts)
                raise InvalidField(
                    f"no expert is called '{name}'; there are: {known}", param="router.fallbacks"
                )
        behind = dict.fromkeys(self._names[name] for name in hints.fallbacks)
        return ExecutionRequest(
            call=asked.call,
            plan=Single(tuple(dict.fromkeys([expert, *behind]))),
            policy=NAMED_POLICY,
            reason=NAMED_REASON,
            asked=expert,
            explain=hints.explain or hints.debug,
            debug=hints.debug,
            session_id=hints.session_id,
        )


def chosen(asked: Asked, decision: Decision) -> ExecutionRequest:
    """What a policy decided."""
    hints = asked.hints
    return ExecutionRequest(
        call=asked.call,
        plan=decision.plan,
        policy=decision.policy,
        reason=decision.reason,
        decision=decision,
        explain=hints.explain or hints.debug,
        debug=hints.debug,
        session_id=hints.session_id,
        warnings=asked.warnings,
    )


class Asking:
    """Handlers for the endpoints whose expert a policy may choose."""

    def __init__(self, services: Services, responder: Responder) -> None:
        self._services = services
        self._responder = responder
        self._max_bytes = services.config.server.max_body_bytes
        self._reader = Reader(services)

    def handler(self, door: Door) -> Callable[[Exchange], Awaitable[None]]:
        """What the front calls for a door."""

        async def handle(exchange: Exchange) -> None:
            fields = read_fields(await exchange.body(self._max_bytes))
            asked = self._reader.read(door, fields, exchange.headers)
            await self._responder.send(exchange, await self._order(asked))

        return handle

    async def _order(self, asked: Asked) -> ExecutionRequest:
        if asked.policy is None or asked.query is None:
            return self._reader.named(asked, asked.expert or "")
        services = self._services
        fleet = services.fleet.snapshot()
        return chosen(asked, await services.router.decide(asked.query, asked.policy, asked.wishes, fleet))


def policy_of(model: str, hints: RoutingOptions, services: Services) -> Policy:
    """The policy that `auto`, `auto:<policy>` or the hints name.

    Raises:
        ModelNotFound: the model is none of ours.
        InvalidField: the hints name a policy that does not exist.
    """
    word, _, named = model.partition(":")
    if word != "auto" or model == "auto:":
        raise unknown_model(model, services)
    if named and named not in services.policies:
        raise unknown_model(model, services)
    name = named or hints.policy or "auto"
    if name not in services.policies:
        known = ", ".join(services.policies)
        raise InvalidField(f"there is no policy '{name}'; there are: {known}", param="router.policy")
    return services.policies[name]


def expert_names(services: Services) -> Mapping[str, str]:
    """What a client may call an expert → its name; its `provider/model` too, of the first that has it."""
    names: dict[str, str] = {}
    for expert in services.config.experts:
        names.setdefault(expert.model, expert.name)
    names.pop("", None)
    return names | {name: name for name in services.experts}


def unknown_model(model: str, services: Services) -> ModelNotFound:
    """The refusal of a model nobody configured: it lists what there is."""
    there = ["auto", *(f"auto:{name}" for name in services.policies if name != "auto"), *services.experts]
    return ModelNotFound(f"there is no model '{model[:128]}'; there are: {', '.join(there)}", param="model")
