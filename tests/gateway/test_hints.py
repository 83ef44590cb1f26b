"""What a request may ask of the router, and how it is refused."""

import msgspec
import pytest

from gateway.errors import InvalidField
from gateway.requests.options import NO_OPTIONS, RoutingOptions, parse_routing_options
from policies import Objective


def read(router: object = None, headers: dict[str, str] | None = None, **fields: object) -> RoutingOptions:
    body = {**fields, **({} if router is None else {"router": router})}
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    return parse_routing_options(
        raw, {name.encode(): value.encode() for name, value in (headers or {}).items()}
    )


def test_a_request_without_hints_costs_nothing() -> None:
    assert read(headers={"content-type": "x", "authorization": "y"}) is NO_OPTIONS


def test_the_router_object_says_policy_limits_weights_and_session() -> None:
    asked = read(
        {
            "policy": "best",
            "weights": {"cost": 0.3},
            "max_cost_usd": 0.01,
            "max_latency_ms": 1500,
            "min_quality": 0.5,
            "models": ["a", "b"],
            "exclude": ["c"],
            "session_id": "s",
        }
    )
    assert asked.hints is not None
    require = asked.hints.require
    assert (asked.policy, asked.session_id) == ("best", "s")
    assert asked.hints.objective == Objective(cost=0.3)
    assert (require.max_cost_usd, require.max_latency_s, require.min_quality) == (0.01, 1.5, 0.5)
    assert (require.models, require.exclude) == (frozenset({"a", "b"}), frozenset({"c"}))


def test_headers_say_the_same() -> None:
    asked = read(
        headers={
            "x-thalamus-policy": "best",
            "x-thalamus-weights": "cost=0.3, latency=0.1",
            "x-thalamus-max-cost-usd": "0.01",
            "x-thalamus-max-latency-ms": "1500",
            "x-thalamus-models": "a, b",
        }
    )
    assert asked.hints is not None
    assert asked.policy == "best"
    assert asked.hints.objective == Objective(cost=0.3, latency=0.1)
    assert asked.hints.require.max_latency_s == 1.5
    assert asked.hints.require.models == frozenset({"a", "b"})


def test_of_two_limits_the_tighter_holds() -> None:
    asked = read(
        {"max_cost_usd": 0.5, "exclude": ["a"]}, {"x-thalamus-max-cost-usd": "0.1", "x-thalamus-exclude": "b"}
    )
    assert asked.hints is not None
    assert asked.hints.require.max_cost_usd == 0.1
    assert asked.hints.require.exclude == {"a", "b"}


def test_the_body_wins_over_headers() -> None:
    assert read({"policy": "a"}, {"x-thalamus-policy": "b"}).policy == "a"


@pytest.mark.parametrize(
    "header",
    [
        "x-thalamus-session-id",
        "x-session-id",
        "x-litellm-session-id",
        "x-claude-code-session-id",
        "session-id",
    ],
)
def test_sessions_are_known_by_the_headers_people_send(header: str) -> None:
    assert read(headers={header: "abc"}).session_id == "abc"


def test_debug_is_asked_for_by_header() -> None:
    assert read(headers={"x-thalamus-debug": "true"}).debug
    assert not read(headers={"x-thalamus-debug": "false"}).debug


@pytest.mark.parametrize(("dial", "cost"), [(0, 0.0), (7, 0.7), (10, 1.0)])
def test_the_cost_quality_dial_is_a_weight_on_cost(dial: int, cost: float) -> None:
    plugin = read(plugins=[{"id": "web"}, {"id": "auto-router", "cost_quality_tradeoff": dial}])
    for asked in (read({"cost_quality_tradeoff": dial}), plugin):
        assert asked.hints is not None
        assert asked.hints.objective == Objective(cost=cost)


def test_plugins_without_a_dial_ask_nothing() -> None:
    assert read(plugins=[{"id": "web", "max_results": 3}]) is NO_OPTIONS


@pytest.mark.parametrize(
    ("router", "param"),
    [
        ({"polcy": "x"}, "router"),
        ({"weights": {"speed": 1}}, "router.weights"),
        ({"weights": {"cost": -1}}, "router.weights.cost"),
        ({"max_cost_usd": "cheap"}, "router.max_cost_usd"),
        ({"max_latency_ms": 0}, "router.max_latency_ms"),
        ({"min_quality": 2}, "router.min_quality"),
        ({"models": "a"}, "router.models"),
        ({"models": [1]}, "router.models[0]"),
        ({"cost_quality_tradeoff": 11}, "router.cost_quality_tradeoff"),
        ([], "router"),
    ],
)
def test_a_wrong_hint_is_refused_and_named(router: object, param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read(router)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(param)


def test_an_unknown_hint_lists_the_known_ones() -> None:
    with pytest.raises(
        InvalidField, match="unknown key 'polcy'; known: policy, flags, weights, max_cost_usd"
    ):
        read({"polcy": "x"})


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-thalamus-max-cost-usd", "cheap"),
        ("x-thalamus-max-cost-usd", "nan"),
        ("x-thalamus-max-cost-usd", "-1"),
        ("x-thalamus-min-quality", "1.5"),
        ("x-thalamus-weights", "speed=1"),
        ("x-thalamus-weights", "cost"),
        ("x-thalamus-policy", ""),
    ],
)
def test_a_wrong_header_is_refused_and_named(header: str, value: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read(headers={header: value})
    assert caught.value.param == header


def test_a_target_in_dollars_or_quality_stands_for_the_weight_on_cost() -> None:
    for asked in (
        read({"max_usd_per_1k": 2.5, "weights": {"latency": 0.1}}),
        read({"weights": {"latency": 0.1}, "max_usd_per_1k": 2.5}, {"x-thalamus-target-quality": "0.5"}),
    ):
        assert asked.hints is not None
        assert asked.hints.objective == Objective(latency=0.1, max_usd_per_1k=2.5)
    headed = read(headers={"x-thalamus-target-quality": "0.5"})
    assert headed.hints is not None
    assert headed.hints.objective == Objective(target_quality=0.5)


@pytest.mark.parametrize(
    "router",
    [
        {"max_usd_per_1k": 2.5, "weights": {"cost": 0.1}},
        {"target_quality": 0.5, "cost_quality_tradeoff": 3},
        {"target_quality": 1.5},
        {"max_usd_per_1k": -1},
    ],
)
def test_a_target_beside_a_weight_on_cost_or_out_of_range_is_refused(router: dict[str, object]) -> None:
    with pytest.raises(InvalidField) as caught:
        read(router)
    assert (caught.value.param or "").startswith("router")
