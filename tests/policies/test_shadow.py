from collections.abc import Callable, Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Arrivals, Device, Evict, Loadable, Queue, Resident, Shadow, Snapshot, decide_residency

NAMES = "abcdef"
LOADABLE = tuple(Loadable(name, 1, 10.0) for name in NAMES)
Tells = Callable[[str, int], Mapping[str, float]]
"""(the requests, which of them is served) → seconds until each expert's next one, true or not."""


def truth(requests: str, now: int) -> Mapping[str, float]:
    rest = requests[now + 1 :]
    return {name: float(rest.index(name)) for name in NAMES if name in rest}


def lies(requests: str, now: int) -> Mapping[str, float]:
    return {name: 1000.0 - in_s for name, in_s in truth(requests, now).items()}


def no_forecast(requests: str, now: int) -> Mapping[str, float]:
    return {}


def simulate_paging(requests: str, n_places: int, tells: Tells, shadow: Shadow | None) -> tuple[int, int]:
    """Serves one request a second, strictly in order; how often an expert was loaded, and the phases."""
    there: dict[str, Resident] = {}
    n_loads = 0
    for now, expert in enumerate(requests):
        known = tells(requests, now)
        at = snapshot(there, expert, now, n_places, known)
        if shadow is not None:
            shadow = shadow.after(expert, at)
        if expert not in there:
            n_loads += 1
            effects = decide_residency(at, kept=shadow.kept_experts if shadow is not None else None)
            for leaving in [effect.expert for effect in effects if isinstance(effect, Evict)]:
                del there[leaving]
        there[expert] = Resident(expert, "gpu", 1, last_used_s=now)
    return n_loads, shadow.n_phases if shadow is not None else 0


def snapshot(
    there: Mapping[str, Resident], expert: str, now: int, n_places: int, known: Mapping[str, float]
) -> Snapshot:
    device, asked = Device("gpu", n_places), Queue(expert, 1, now)
    return Snapshot(now, (device,), LOADABLE, tuple(there.values()), (asked,), known)


def by_recency(requests: str, n_places: int) -> int:
    there: list[str] = []
    n_loads = 0
    for expert in requests:
        n_loads += expert not in there
        there = [*(name for name in there if name != expert), expert][-n_places:]
    return n_loads


def belady(requests: str, n_places: int) -> int:
    there: set[str] = set()
    n_loads = 0
    for now, expert in enumerate(requests):
        if expert in there:
            continue
        n_loads += 1
        if len(there) == n_places:
            rest = requests[now + 1 :]
            there.remove(max(sorted(there), key=lambda name: (rest + name).index(name)))
        there.add(expert)
    return n_loads


requests = st.integers(0, 2**32).map(
    lambda seed: "".join(Random(seed).choices(NAMES, weights=[32, 16, 8, 4, 2, 1], k=120))
)
places = st.integers(1, 5)


@given(requests, places)
def test_with_the_future_known_it_swaps_as_seldom_as_can_be(requests: str, n_places: int) -> None:
    assert simulate_paging(requests, n_places, truth, Shadow()) == (belady(requests, n_places), 0)


@given(requests, places)
def test_with_nothing_known_it_is_a_cache_by_recency(requests: str, n_places: int) -> None:
    assert simulate_paging(requests, n_places, no_forecast, Shadow())[0] == by_recency(requests, n_places)


@given(requests, places)
def test_a_predictor_that_lies_costs_no_more_than_its_places_a_phase(requests: str, n_places: int) -> None:
    n_loads, n_phases = simulate_paging(requests, n_places, lies, Shadow())
    assert n_loads <= by_recency(requests, n_places) + n_places * n_phases
    assert n_phases <= 1 + len(requests) // 20


def test_without_a_shadow_the_same_lies_cost_many_swaps() -> None:
    requests = "".join(Random(1).choices(NAMES, weights=[32, 16, 8, 4, 2, 1], k=400))
    unguarded, _ = simulate_paging(requests, 3, lies, None)
    guarded, _ = simulate_paging(requests, 3, lies, Shadow())
    assert unguarded > 1.5 * by_recency(requests, 3)
    assert guarded <= by_recency(requests, 3) + 3


def test_a_predictor_that_comes_to_its_senses_is_trusted_again() -> None:
    requests = "".join(Random(2).choices(NAMES, weights=[32, 16, 8, 4, 2, 1], k=600))

    def forecast(requests: str, now: int) -> Mapping[str, float]:
        return lies(requests, now) if now < 200 else truth(requests, now)

    shadow, trusted = Shadow(), []
    there = {name: Resident(name, "gpu", 1) for name in "abc"}
    for now, expert in enumerate(requests):
        shadow = shadow.after(expert, snapshot(there, expert, now, 3, forecast(requests, now)))
        trusted.append(shadow.trusted)
    assert not any(trusted[50:200])
    assert all(trusted[300:])


def test_costs_are_seconds_of_loading_not_counts() -> None:
    """Look-ahead misses twice as often, but what it keeps takes a hundred times as long to load."""
    loadable = (Loadable("big", 1, 100.0), Loadable("b", 1, 1.0), Loadable("c", 1, 1.0))
    shadow = Shadow()
    for now, expert in enumerate(["big", "b", "c", "b", "c", "big"] * 20):
        known = {"big": 6.0, "b": 2.0, "c": 2.0}
        at = Snapshot(now, (Device("gpu", 2),), loadable, (), (Queue(expert, 1, now),), known)
        shadow = shadow.after(expert, at)
    assert shadow.trusted
    assert "big" in {resident.expert for resident in shadow.ahead}


def test_an_expert_that_is_not_loadable_changes_nothing() -> None:
    at = snapshot({}, "a", 0, 2, {})
    assert Shadow().after("far", at) == Shadow()


def test_an_expert_is_expected_after_its_usual_gap() -> None:
    arrivals = Arrivals(weight=0.5)
    for now_s in (0.0, 10.0, 30.0):
        arrivals = arrivals.after("a", now_s)
    assert arrivals.next_use_s(30.0) == {"a": pytest.approx(15.0)}
    assert arrivals.rate_per_s(30.0) == {"a": pytest.approx(1 / 15.0)}


def test_an_expert_not_asked_any_more_is_expected_ever_later() -> None:
    arrivals = Arrivals().after("a", 0.0).after("a", 10.0)
    assert arrivals.next_use_s(12.0) == {"a": 10.0}
    assert arrivals.next_use_s(110.0) == {"a": 100.0}


def test_an_expert_asked_once_is_not_forecast() -> None:
    assert Arrivals().after("a", 0.0).next_use_s(5.0) == {}


def test_experts_asked_more_often_of_late_are_kept() -> None:
    arrivals = Arrivals()
    for now_s, expert in [(0, "a"), (1, "b"), (5, "b"), (9, "b"), (90, "a"), (91, "c"), (92, "c")]:
        arrivals = arrivals.after(expert, now_s)
    there = {"a": Resident("a", "gpu", 1, last_used_s=90), "c": Resident("c", "gpu", 1, last_used_s=92)}
    at = snapshot(there, "d", 93, 2, arrivals.next_use_s(93.0))
    assert decide_residency(at)[0] == Evict("a", wanted_by="d")
