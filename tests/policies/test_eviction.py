"""What keeping a resident is worth, and which set of residents is the cheapest to evict."""

from dataclasses import replace

import pytest

from policies import Device, EvictionRule, Loadable, Queue, Resident, Shadow, Snapshot
from policies.eviction import Worth, build_worth, choose_cheapest, sum_worth

A, B = Resident("a", "gpu", 10), Resident("b", "gpu", 10)
LOAD_S = {"a": 10.0, "b": 20.0}


def find_worth(
    resident: Resident,
    rule: EvictionRule = "lookahead",
    kept: frozenset[str] | None = None,
    load_s: dict[str, float] | None = None,
    queues: tuple[Queue, ...] = (),
    **next_use_s: float,
) -> Worth:
    loadable = tuple(Loadable(name, 10, s) for name, s in (LOAD_S if load_s is None else load_s).items())
    at = Snapshot(100.0, (Device("gpu", 10),), loadable, (resident,), queues, next_use_s)
    return build_worth(rule, at, kept)(resident)


@pytest.mark.parametrize(
    ("next_use_s", "worth"),
    [(0.0, 10.0), (-5.0, 10.0), (15.001, 5.0), (45.003, 2.5)],
)
def test_a_next_use_one_mean_load_away_halves_what_a_load_is_worth(next_use_s: float, worth: float) -> None:
    assert find_worth(A, a=next_use_s)[0] == pytest.approx(worth, rel=1e-9)


def test_the_mean_load_of_one_expert_is_its_own() -> None:
    assert find_worth(A, load_s={"a": 10.0}, a=10.001)[0] == pytest.approx(5.0, rel=1e-9)


def test_a_load_that_takes_no_time_is_worth_nothing() -> None:
    assert find_worth(A, load_s={"a": 0.0}, a=0.0)[0] == 0.0


def test_where_nothing_is_loadable_keeping_is_worth_no_load() -> None:
    assert find_worth(A, load_s={}, a=5.0)[0] == 0.0


def test_an_expert_without_a_forecast_is_worth_no_load() -> None:
    assert find_worth(A)[0] == 0.0


def test_an_expert_that_requests_wait_for_is_worth_its_whole_load() -> None:
    assert find_worth(A, queues=(Queue("a", 1, 99.0),), a=50.0)[0] == pytest.approx(10.0)


def test_a_busy_expert_is_worth_the_wait_for_its_answers_on_top() -> None:
    busy = Resident("a", "gpu", 10, n_busy=1, idle_in_s=3.0)
    assert find_worth(busy, a=15.001)[0] == pytest.approx(8.0)


def test_an_idle_expert_is_worth_no_wait() -> None:
    assert find_worth(Resident("a", "gpu", 10, idle_in_s=3.0), a=15.001)[0] == pytest.approx(5.0)


@pytest.mark.parametrize(("last_used_s", "recency"), [(99.0, 1 / 1.001), (100.0, 1000.0), (105.0, 1000.0)])
@pytest.mark.parametrize("rule", ["lookahead", "lru", "lfu"])
def test_of_equals_the_one_used_later_is_worth_more(
    rule: EvictionRule, last_used_s: float, recency: float
) -> None:
    used = Resident("a", "gpu", 10, last_used_s=last_used_s)
    assert find_worth(used, rule) == pytest.approx((0.0, recency))


def test_by_frequency_the_worth_is_the_number_of_uses() -> None:
    assert find_worth(Resident("a", "gpu", 10, n_uses=7), "lfu", a=0.0)[0] == 7.0


@pytest.mark.parametrize("rule", ["lookahead", "lru"])
@pytest.mark.parametrize(("kept", "worth"), [("a", 1.0), ("b", 0.0)])
def test_without_trust_what_recency_keeps_is_worth_more(rule: EvictionRule, kept: str, worth: float) -> None:
    assert find_worth(A, rule, frozenset(kept), a=1.0)[0] == worth


def choose(need_bytes: int, *there: tuple[str, int, float]) -> str | None:
    """The names of the cheapest set, of residents given as (name, bytes, worth)."""
    residents = [Resident(name, "gpu", size) for name, size, _ in there]
    worth = {name: worth for name, _, worth in there}
    chosen = choose_cheapest(residents, need_bytes, lambda resident: (worth[resident.expert], 0.0))
    return None if chosen is None else "".join(sorted(resident.expert for resident in chosen))


@pytest.mark.parametrize("need_bytes", [0, -1])
def test_where_no_memory_is_needed_no_expert_leaves(need_bytes: int) -> None:
    assert choose(need_bytes, ("a", 10, 1.0)) == ""


@pytest.mark.parametrize(("need_bytes", "chosen"), [(1, "a"), (10, "a"), (11, "ab"), (20, "ab"), (21, None)])
def test_as_many_leave_as_free_the_need_and_none_where_all_are_too_few(
    need_bytes: int, chosen: str | None
) -> None:
    assert choose(need_bytes, ("a", 10, 1.0), ("b", 10, 2.0)) == chosen


def test_of_no_residents_none_frees_anything() -> None:
    assert choose(1) is None


def test_of_equal_worth_the_first_by_name_leaves() -> None:
    assert choose(10, ("b", 10, 1.0), ("a", 10, 1.0)) == "a"


def test_of_sets_that_free_enough_the_cheapest_leaves() -> None:
    there = (("a", 5, 1.0), ("b", 6, 2.0), ("c", 7, 2.5), ("d", 12, 4.0))
    assert choose(12, *there) == "ac"  # 3.5; b and c cost 4.5, d costs 4.0, a and b free 11


def test_a_set_that_frees_more_is_not_taken_for_freeing_more() -> None:
    assert choose(12, ("a", 6, 1.0), ("b", 6, 1.5), ("c", 20, 3.0)) == "ab"


def test_a_second_part_decides_between_sets_whose_first_parts_are_equal() -> None:
    worth = {"a": (0.0, 2.0), "b": (0.0, 2.0), "c": (0.0, 5.0)}
    residents = [Resident("a", "gpu", 5), Resident("b", "gpu", 5), Resident("c", "gpu", 10)]
    chosen = choose_cheapest(residents, 10, lambda resident: worth[resident.expert])
    assert chosen == (residents[0], residents[1])


def test_the_worth_of_a_set_is_added_part_by_part() -> None:
    worth = {"a": (1.0, 10.0), "b": (2.0, 20.0)}
    assert sum_worth([A, B], lambda resident: worth[resident.expert]) == (3.0, 30.0)
    assert sum_worth([], lambda resident: worth[resident.expert]) == (0, 0)


def serve(shadow: Shadow, requests: str, n_places: int = 2, **next_use_s: float) -> Shadow:
    """One request a second from now on, each expert of one place and ten seconds of loading."""
    for n, expert in enumerate(requests):
        loadable = tuple(Loadable(name, 1, 10.0) for name in "abc")
        at = Snapshot(100.0 + n, (Device("gpu", n_places),), loadable, next_use_s=next_use_s)
        shadow = shadow.after(expert, at)
    return shadow


def list_experts(cache: tuple[Resident, ...]) -> list[str]:
    return [resident.expert for resident in cache]


def test_a_simulated_cache_fills_up_before_any_expert_leaves() -> None:
    shadow = serve(Shadow(), "ab")
    assert list_experts(shadow.recent) == list_experts(shadow.ahead) == ["a", "b"]


def test_a_full_simulated_cache_evicts_one_for_one() -> None:
    assert list_experts(serve(Shadow(), "abc").recent) == ["b", "c"]


def test_a_request_for_what_a_simulated_cache_holds_is_a_use_now() -> None:
    shadow = serve(Shadow(), "aba")
    assert {r.expert: r.last_used_s for r in shadow.recent} == {"a": 102.0, "b": 101.0}


def test_an_expert_too_large_for_all_memory_leaves_a_simulated_cache_as_it_is() -> None:
    loadable = (Loadable("a", 1, 10.0), Loadable("big", 3, 10.0))
    at = Snapshot(101.0, (Device("gpu", 2),), loadable)
    shadow = serve(Shadow(), "a").after("big", at)
    assert list_experts(shadow.recent) == list_experts(shadow.ahead) == ["a"]


def test_simulated_caches_see_the_memory_of_all_devices_as_one() -> None:
    loadable = (Loadable("big", 3, 10.0),)
    at = Snapshot(100.0, (Device("one", 1), Device("two", 2)), loadable)
    assert list_experts(Shadow().after("big", at).recent) == ["big"]


def test_loads_that_both_caches_make_change_no_lead() -> None:
    assert serve(Shadow(), "abc").lead_s == 0.0


def test_a_load_that_only_look_ahead_saves_is_its_lead() -> None:
    # Recency lets a go for c, look-ahead b, which is expected later; so only recency loads a again.
    shadow = serve(Shadow(), "abca", a=1.0, b=50.0, c=2.0)
    assert (shadow.lead_s, shadow.trusted, shadow.n_phases) == (10.0, True, 0)


def test_a_load_that_only_look_ahead_makes_ends_trust_in_it() -> None:
    # The forecast calls b, used last, the one needed latest, and the next request is for it.
    shadow = serve(Shadow(), "abcb", a=1.0, b=50.0, c=2.0)
    assert (shadow.lead_s, shadow.trusted, shadow.n_phases) == (-10.0, False, 1)
    assert shadow.kept_experts == frozenset("bc")


def test_a_phase_without_trust_is_counted_once() -> None:
    shadow = serve(Shadow(lead_s=-10.0, trusted=False, n_phases=1), "a")
    assert (shadow.trusted, shadow.n_phases) == (False, 1)


def test_trust_returns_where_look_ahead_is_no_worse_any_more() -> None:
    shadow = Shadow(ahead=(A,), recent=(), lead_s=-10.0, trusted=False, n_phases=1)
    assert (serve(shadow, "a").trusted, serve(shadow, "a").lead_s) == (True, 0.0)


@pytest.mark.parametrize(("lead_s", "bounded_s"), [(90.0, 20.0), (-90.0, -20.0), (15.0, 15.0)])
def test_a_lead_is_at_most_the_time_to_load_what_recency_holds(lead_s: float, bounded_s: float) -> None:
    full = replace(serve(Shadow(), "ab"), lead_s=lead_s)
    assert serve(full, "a").lead_s == bounded_s


def test_at_first_look_ahead_is_trusted() -> None:
    assert Shadow() == Shadow(ahead=(), recent=(), lead_s=0.0, trusted=True, n_phases=0)
    assert Shadow().kept_experts is None


@pytest.mark.parametrize(("lead_s", "trusted"), [(-0.5, False), (0.0, True), (0.5, True)])
def test_look_ahead_is_trusted_while_it_is_not_behind(lead_s: float, trusted: bool) -> None:
    full = replace(serve(Shadow(), "ab"), lead_s=lead_s)
    assert serve(full, "a").trusted is trusted
