from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from evals.simulation.serving import Scheme, ServingFigures, ServingResult, SimulatedMachine, serve
from evals.simulation.trace import (
    SYNTHETIC,
    AdversarialForecast,
    MeasuredForecast,
    OracleForecast,
    Synthetic,
    Trace,
)
from policies import Loadable, ResidencyRule, TurnRule

LRU, LOOKAHEAD = ResidencyRule("lru"), ResidencyRule("lookahead")
KINDS = tuple(SYNTHETIC)
PLACES = (2, 3, 4, 5)


def draw_trace(kind: str, n: int = 700, **printed: Any) -> Trace:
    return SYNTHETIC[kind](Synthetic(n, 8, seed=1, **printed))


def page_trace(kind: str, n: int = 700) -> Trace:
    """One request a second that takes no time, so that nothing but memory matters."""
    return replace(draw_trace(kind, n), time_s=np.arange(n, dtype=float), service_s=np.zeros(n))


def machine(trace: Trace, n_places: int, load_s: float = 10.0, **printed: Any) -> SimulatedMachine:
    loadable = tuple(Loadable(name, 1, load_s) for name in trace.experts)
    return SimulatedMachine(n_places, loadable, **printed)


def in_order(trace: Trace, n_places: int, rule: ResidencyRule = LOOKAHEAD, **printed: Any) -> ServingResult:
    at_once = machine(trace, n_places, load_s=1e-3, evict_s=0.0)
    return serve(trace, at_once, Scheme("", rule, in_order=True, **printed))


def belady(trace: Trace, n_places: int) -> int:
    """Loads of the optimal cache: who is needed farthest in the future leaves."""
    requests, n_loads = trace.expert.tolist(), 0
    there: set[int] = set()
    following, last = [0] * len(requests), dict.fromkeys(range(len(trace.experts)), len(requests))
    for at in range(len(requests) - 1, -1, -1):
        following[at] = last[requests[at]]
        last[requests[at]] = at
    needed = dict(last)
    for at, expert in enumerate(requests):
        needed[expert] = following[at]
        if expert not in there:
            n_loads += 1
            if len(there) == n_places:
                there.remove(max(there, key=lambda one: needed[one]))
            there.add(expert)
    return n_loads


def by_recency(trace: Trace, n_places: int) -> int:
    there: list[int] = []
    n_loads = 0
    for expert in trace.expert.tolist():
        n_loads += expert not in there
        there = [*(one for one in there if one != expert), expert][-n_places:]
    return n_loads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_places", PLACES)
def test_seeing_32_requests_ahead_hits_within_a_point_of_belady(kind: str, n_places: int) -> None:
    trace = page_trace(kind).all_at_once()
    ahead = in_order(trace, n_places, window=32)
    assert ahead.hit.mean() >= 1.0 - belady(trace, n_places) / len(trace) - 0.01
    assert ahead.n_loads >= belady(trace, n_places)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_places", PLACES)
def test_seeing_a_few_requests_ahead_hits_no_less_than_lru(kind: str, n_places: int) -> None:
    trace = page_trace(kind, 400)
    least = by_recency(trace, n_places)
    assert in_order(trace, n_places, LRU).n_loads == least
    assert in_order(trace, n_places).n_loads == least
    for n_ahead in (1, 4):
        ahead = in_order(trace, n_places, forecast=partial(OracleForecast, horizon_s=n_ahead))
        assert ahead.n_loads <= least


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_places", PLACES)
def test_a_lying_forecast_swaps_as_lru_and_at_most_its_places_more_a_phase(kind: str, n_places: int) -> None:
    trace = page_trace(kind)
    misled = in_order(trace, n_places, forecast=AdversarialForecast)
    assert misled.n_loads <= by_recency(trace, n_places) + n_places * misled.n_phases
    assert misled.n_phases <= 3
    unwatched = in_order(trace, n_places, forecast=AdversarialForecast, guarded=False)
    assert unwatched.n_loads > 1.2 * misled.n_loads


@pytest.mark.parametrize("kind", KINDS)
def test_a_true_forecast_swaps_as_belady(kind: str) -> None:
    trace = page_trace(kind)
    assert in_order(trace, 3, forecast=OracleForecast).n_loads == belady(trace, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_of_late_swaps_less_than_lru(kind: str) -> None:
    trace = page_trace(kind, 1500)
    assert in_order(trace, 4, forecast=MeasuredForecast).n_loads < 0.95 * by_recency(trace, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rate_per_s", "n_places"), [(0.3, 2), (0.3, 4), (1.0, 2), (1.0, 4)])
def test_no_request_waits_past_the_bound_where_every_turn_comes_within_it(
    kind: str, rate_per_s: float, n_places: int
) -> None:
    trace = draw_trace(kind, 500, rate_per_s=rate_per_s, service_s=3.0)
    rule = ResidencyRule(turns=TurnRule(max_wait_s=90.0))
    served = serve(trace, machine(trace, n_places), Scheme("", rule, forecast=MeasuredForecast))
    assert served.wait_s.max() <= 90.0


def test_without_the_bound_and_age_the_rare_starve() -> None:
    trace = SYNTHETIC["zipf"](Synthetic(1000, 4, exponent=3.0, rate_per_s=2.0, service_s=1.0))
    longest = {}
    for name, rule in {"length": TurnRule(1e9, 1e9), "bounded": TurnRule(max_wait_s=150.0)}.items():
        served = serve(trace, machine(trace, 1), Scheme("", ResidencyRule(turns=rule)))
        longest[name] = served.wait_s.max()
    assert longest["bounded"] <= 1.1 * 150.0  # drain times are told as means
    assert longest["length"] > 2 * longest["bounded"]


def test_traffic_a_b_a_a_c_goes_by_turns_with_fewer_swaps_and_a_shorter_tail() -> None:
    trace = SYNTHETIC["zipf"](Synthetic(1000, 3, rate_per_s=0.5, service_s=2.0, seed=3))
    first = ServingFigures.of(serve(trace, machine(trace, 1), Scheme("", LRU, in_order=True)))
    turns = ServingFigures.of(
        serve(trace, machine(trace, 1), Scheme("", LOOKAHEAD, forecast=MeasuredForecast))
    )
    assert turns.swaps_per_1k < first.swaps_per_1k / 3
    assert turns.latency_s["p95"] < first.latency_s["p95"] / 12


@pytest.mark.parametrize("rule", ["lookahead", "lru", "lfu"])
@pytest.mark.parametrize("in_order", [False, True])
def test_every_request_is_answered_once_and_in_its_time(rule: str, in_order: bool) -> None:
    trace = draw_trace("sessions", 500, rate_per_s=0.5)
    loadable = tuple(Loadable(name, 1 + e % 4, 5.0 + e) for e, name in enumerate(trace.experts))
    scheme = Scheme("", ResidencyRule(rule), in_order=in_order, forecast=MeasuredForecast)  # type: ignore[arg-type]
    served = serve(trace, SimulatedMachine(6, loadable), scheme)
    assert (served.wait_s >= 0.0).all()
    assert served.latency_s - served.wait_s == pytest.approx(trace.service_s)
    waited = served.wait_s[np.unique(trace.expert, return_index=True)[1]]
    assert (waited >= 5.0).all()


def test_the_same_trace_is_served_the_same_way() -> None:
    trace = draw_trace("phases", 300)
    scheme = Scheme("", LOOKAHEAD, forecast=MeasuredForecast)
    first, second = (serve(trace, machine(trace, 3), scheme) for _ in range(2))
    assert (first.latency_s == second.latency_s).all()


def test_seeds_draw_the_same_trace_again_and_another() -> None:
    one, same, other = (SYNTHETIC["sessions"](Synthetic(200, seed=seed)) for seed in (1, 1, 2))
    assert (one.expert == same.expert).all()
    assert (one.time_s == same.time_s).all()
    assert (one.expert != other.expert).any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_comes_in_order_at_about_its_rate(kind: str) -> None:
    trace = draw_trace(kind, 8000, rate_per_s=2.0)
    assert len(trace) == 8000
    assert (np.diff(trace.time_s) >= 0).all()
    assert len(trace) / trace.time_s[-1] == pytest.approx(2.0, rel=0.15)
    assert trace.service_s.mean() == pytest.approx(1.0, rel=0.1)


def test_popularity_changes_with_the_phase_and_sessions_stay_with_their_expert() -> None:
    draw_phases = draw_trace("phases", 5000)
    often = [np.bincount(part, minlength=8).argmax() for part in np.array_split(draw_phases.expert, 10)]
    assert len(set(often)) > 2
    draw_sessions, draw_zipf = draw_trace("sessions", 5000, rate_per_s=0.02), draw_trace("zipf", 5000)
    again = [float((np.diff(trace.expert) == 0).mean()) for trace in (draw_sessions, draw_zipf)]
    assert again[0] > 2 * again[1]
