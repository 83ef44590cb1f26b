from collections.abc import Iterator, Sequence
from itertools import combinations
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import Group, Loadable, PoliciesError, batching, order_groups


def local(names: str, size: int = 10, load_s: float = 10.0) -> list[Loadable]:
    return [Loadable(name, size, load_s) for name in names]


def names(groups: Sequence[Group]) -> list[str]:
    return [group.name for group in groups]


def load_seconds(
    order: Sequence[Group],
    loadable: Sequence[Loadable],
    capacity: int,
    resident: frozenset[str] = frozenset(),
) -> float:
    """Seconds of loading an order takes at best: over every choice of who leaves."""
    sizes = {one.expert: one.size_bytes for one in loadable}
    load_s = {one.expert: one.load_s for one in loadable}
    states = {resident: 0.0}
    for group in order:
        if group.expert not in sizes:
            continue
        after: dict[frozenset[str], float] = {}
        for cached, spent in states.items():
            hit = group.expert in cached
            for kept in subsets(cached):
                now = kept | {group.expert}
                if sum(sizes[one] for one in now) <= capacity and (not hit or group.expert in kept):
                    cost = spent + (0.0 if hit else load_s[group.expert])
                    after[now] = min(after.get(now, cost), cost)
        states = after
    return min(states.values())


def subsets(values: frozenset[str]) -> Iterator[frozenset[str]]:
    for n in range(len(values) + 1):
        yield from map(frozenset, combinations(sorted(values), n))


def orders(groups: Sequence[Group], done: tuple[Group, ...] = ()) -> Iterator[tuple[Group, ...]]:
    """Every order that the dependencies allow."""
    left = [group for group in groups if group not in done]
    if not left:
        yield done
    for group in left:
        if group.after <= set(names(done)):
            yield from orders(groups, (*done, group))


def test_the_resident_expert_comes_first() -> None:
    groups = [Group("a", "a"), Group("b", "b")]
    assert names(order_groups(groups, local("ab"), 10, frozenset("b"))) == ["b", "a"]


def test_groups_of_one_expert_stay_together() -> None:
    groups = [Group("a1", "a"), Group("b", "b"), Group("a2", "a")]
    assert names(order_groups(groups, local("ab"), 10)) == ["a1", "a2", "b"]


def test_an_aggregator_comes_after_its_members() -> None:
    groups = [Group("aggregate", "a", frozenset({"b", "c"})), Group("b", "b"), Group("c", "c")]
    assert names(order_groups(groups, local("abc"), 10))[-1] == "aggregate"


def test_a_member_that_also_aggregates_is_put_off_until_it_can_do_both() -> None:
    groups = [
        Group("a", "a"),
        Group("b", "b"),
        Group("c", "c"),
        Group("aggregate", "a", frozenset({"a", "b", "c"})),
    ]
    assert names(order_groups(groups, local("abc"), 10)) == ["b", "c", "a", "aggregate"]


def test_with_room_for_two_the_one_needed_again_is_kept() -> None:
    groups = [
        Group("a", "a"),
        Group("b", "b"),
        Group("c", "c"),
        Group("by a", "a", frozenset({"b"})),
        Group("by b", "b", frozenset({"by a", "c"})),
    ]
    order = order_groups(groups, local("abc"), 20)
    assert load_seconds(order, local("abc"), 20) == 30.0


def test_who_is_dear_to_load_is_kept_rather_than_loaded_twice() -> None:
    groups = [Group("a", "a"), Group("b", "b", frozenset("a")), Group("a2", "a", frozenset("b"))]
    loadable = [Loadable("a", 10, 30.0), Loadable("b", 10, 5.0), Loadable("c", 10, 5.0)]
    assert load_seconds(order_groups(groups, loadable, 20), loadable, 20) == 35.0


def test_remote_experts_are_asked_as_early_as_may_be() -> None:
    groups = [Group("a", "a"), Group("far", "far"), Group("judge", "far", frozenset({"a"}))]
    assert names(order_groups(groups, local("a"), 10)) == ["far", "a", "judge"]


@pytest.mark.parametrize("after", ["b", "absent"])
def test_what_can_never_begin_is_said(after: str) -> None:
    groups = [Group("a", "a", frozenset({after})), Group("b", "b", frozenset("a"))]
    with pytest.raises(PoliciesError, match="wait for each other or for a group that does not exist: a, b"):
        order_groups(groups, local("ab"), 10)


def test_a_hundred_experts_and_panels_are_ordered_with_each_loaded_once() -> None:
    experts = [f"e{n}" for n in range(100)]
    loadable = [Loadable(name, 10, 10.0) for name in experts]
    groups = [Group(name, name) for name in experts]
    groups.append(Group("aggregate", "e0", frozenset(experts)))
    order = order_groups(groups, loadable, 20)
    assert load_seconds(order, loadable, 20) == 1000.0


def test_a_panel_of_everybody_by_everybody_keeps_what_it_can() -> None:
    experts = [f"e{n}" for n in range(12)]
    groups = [Group(name, name) for name in experts]
    groups += [Group(f"{name} aggregates", name, frozenset(experts)) for name in experts]
    loadable = [Loadable(name, 10, 10.0) for name in experts]
    assert load_seconds(order_groups(groups, loadable, 20), loadable, 20) == 220.0


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_no_order_that_may_be_takes_less_loading(seed: int) -> None:
    random = Random(seed)
    loadable = [Loadable(name, random.randint(1, 3), random.choice([5.0, 10.0])) for name in "abc"]
    groups: list[Group] = []
    for n in range(random.randint(1, 5)):
        after = frozenset(g.name for g in groups if random.random() < 0.3)
        groups.append(Group(str(n), random.choice("abcd"), after))
    random.shuffle(groups)
    capacity, resident = random.randint(3, 6), frozenset(random.sample("abc", 1))
    best = min(load_seconds(order, loadable, capacity, resident) for order in orders(groups))
    order = order_groups(groups, loadable, capacity, resident)
    assert order in set(orders(groups))
    assert load_seconds(order, loadable, capacity, resident) == best


def test_a_cheap_expert_that_would_evict_two_dear_ones_comes_last() -> None:
    loadable = [Loadable("cheap", 10, 5.0), Loadable("b", 5, 20.0), Loadable("c", 5, 20.0)]
    groups = [
        Group("c1", "c"),
        Group("b1", "b"),
        Group("c2", "c", frozenset({"c1", "b1"})),
        Group("d", "cheap", frozenset({"c1"})),
        Group("b2", "b", frozenset({"c2"})),
    ]
    order = order_groups(groups, loadable, 10)
    assert names(order)[-1] == "d"
    assert load_seconds(order, loadable, 10) == 45.0


def test_a_remote_group_that_waits_counts_as_no_loading() -> None:
    loadable = [Loadable("a", 10, 0.125), Loadable("b", 10, 0.5)]
    groups = [
        Group("b1", "b"),
        Group("a1", "a"),
        Group("r1", "remote", frozenset({"a1", "b1"})),
        Group("b2", "b", frozenset({"r1"})),
    ]
    assert names(order_groups(groups, loadable, 10)) == ["a1", "b1", "r1", "b2"]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), limit=st.integers(0, 20))
def test_past_the_limit_of_states_an_order_is_still_found(seed: int, limit: int) -> None:
    random = Random(seed)
    groups: list[Group] = []
    for n in range(random.randint(1, 7)):
        after = frozenset(g.name for g in groups if random.random() < 0.3)
        groups.append(Group(str(n), random.choice("abcd"), after))
    random.shuffle(groups)
    loadable = [Loadable(name, random.randint(1, 3), random.choice([5.0, 10.0])) for name in "abc"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "MAX_STATES", limit)
        order = order_groups(groups, loadable, random.randint(3, 6))
    assert sorted(names(order)) == sorted(names(groups))
    done: set[str] = set()
    for group in order:
        assert group.after <= done
        done.add(group.name)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[frozenset[str], frozenset[str]]]:
    """The groups done and the residents of every state that the search followed."""
    states: list[tuple[frozenset[str], frozenset[str]]] = []
    successors = batching._Search.successors

    def record(search: Any, state: Any) -> Iterator[Any]:
        states.append((state.done, state.cached))
        return successors(search, state)

    monkeypatch.setattr(batching._Search, "successors", record)
    return states


EVERY_EXPERT_TWICE = [
    *(Group(name, name) for name in "abcd"),
    *(Group(f"{name} aggregates", name, frozenset("abcd")) for name in "abcd"),
]


def test_equal_states_are_followed_once(steps: list[Any]) -> None:
    order_groups(EVERY_EXPERT_TWICE, local("abcd"), 20)
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize(("limit", "n_followed"), [(0, 6), (1, 6)])
def test_past_the_limit_of_states_one_state_a_load_is_followed(
    monkeypatch: pytest.MonkeyPatch, steps: list[Any], limit: int, n_followed: int
) -> None:
    monkeypatch.setattr(batching, "MAX_STATES", limit)
    order = order_groups(EVERY_EXPERT_TWICE, local("abcd"), 20)
    assert load_seconds(order, local("abcd"), 20) == 10.0 * len(steps) == 10.0 * n_followed


def test_groups_that_wait_keep_their_place_behind_those_that_need_no_load() -> None:
    groups = [Group("second", "far", frozenset({"first"})), Group("first", "far"), Group("other", "far")]
    assert names(order_groups(groups, [], 10)) == ["first", "other", "second"]


def test_a_resident_that_is_not_loadable_takes_no_room() -> None:
    groups = [Group("a", "a"), Group("b", "b"), Group("both", "a", frozenset("ab"))]
    order = order_groups(groups, local("ab"), 20, frozenset({"gone", "a"}))
    assert names(order) == ["a", "b", "both"]


def test_no_groups_are_an_empty_order() -> None:
    assert order_groups([], local("ab"), 10) == ()


def test_an_expert_as_large_as_the_memory_evicts_all_others() -> None:
    loadable = [Loadable("a", 5, 10.0), Loadable("b", 5, 10.0), Loadable("all", 10, 10.0)]
    groups = [
        Group("a", "a"),
        Group("b", "b"),
        Group("all", "all", frozenset("a")),
        Group("a2", "a", frozenset({"all"})),
    ]
    order = order_groups(groups, loadable, 10)
    assert load_seconds(order, loadable, 10) == 40.0


def test_past_the_limit_of_states_one_that_was_dropped_may_be_followed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "MAX_STATES", 4)
    groups = [
        Group("1", "b"),
        Group("2", "c", frozenset({"0"})),
        Group("6", "b", frozenset({"0", "2", "4", "5"})),
        Group("0", "c"),
        Group("3", "b"),
        Group("4", "far", frozenset({"2", "3"})),
        Group("5", "c", frozenset({"0", "4"})),
    ]
    order = order_groups(groups, [Loadable("b", 1, 5.0), Loadable("c", 3, 10.0)], 3)
    assert sorted(names(order)) == list("0123456")


def test_where_each_expert_is_loaded_once_the_search_goes_straight_on(steps: list[Any]) -> None:
    experts = "abcdefgh"
    order_groups([Group(name, name) for name in experts], local(experts), 10)
    assert len(steps) == len(experts)


def test_as_many_residents_are_kept_beside_a_load_as_fit(steps: list[Any]) -> None:
    groups = [Group("c", "c"), Group("a", "a", frozenset("c")), Group("b", "b", frozenset("c"))]
    assert names(order_groups(groups, local("abc"), 20, frozenset("ab")))[0] == "c"
    # The load of c leaves room for one of a and b, so that one more load is left.
    assert [sorted(cached) for _, cached in steps] == [["a", "b"], ["a", "c"]]
