from collections.abc import Sequence
from itertools import combinations
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Device,
    Effect,
    Evict,
    EvictionRule,
    Hold,
    Load,
    Loadable,
    Queue,
    Refuse,
    ResidencyRule,
    Resident,
    ResidentState,
    Snapshot,
    TurnRule,
    Wait,
    decide_residency,
)

NAMES = "abcdef"


def snapshot(
    resident: Sequence[Resident] = (),
    queues: Sequence[Queue] = (),
    capacity: int = 10,
    free: int | None = None,
    sizes: dict[str, int] | None = None,
    now_s: float = 100.0,
    settled: bool = True,
    pinned: str = "",
    **known: Any,
) -> Snapshot:
    """One device on which experts `a` … `f` take 10 each unless `sizes` says otherwise."""
    sizes = {**dict.fromkeys(NAMES, 10), **(sizes or {})}
    loadable = tuple(Loadable(name, size, 10.0, pinned=name in pinned) for name, size in sizes.items())
    devices = (Device("gpu", capacity, free, settled),)
    return Snapshot(now_s, devices, loadable, tuple(resident), tuple(queues), **known)


def make_held(expert: str, size: int = 10, **known: Any) -> Resident:
    return Resident(expert, "gpu", size, **known)


def make_queue(expert: str, n: int = 1, since_s: float = 100.0, priority: int = 0) -> Queue:
    return Queue(expert, n, since_s, priority)


def test_an_expert_that_fits_is_loaded() -> None:
    assert decide_residency(snapshot(queues=[make_queue("a")])) == (Load("a", "gpu", prefetch=False),)


def test_a_resident_that_is_asked_for_needs_nothing() -> None:
    assert decide_residency(snapshot([make_held("a")], [make_queue("a")])) == ()


def test_eviction_comes_first_and_loading_waits_for_it() -> None:
    effects = decide_residency(snapshot([make_held("a")], [make_queue("b")]))
    assert effects == (Evict("a", wanted_by="b"), Wait("b", "memory"))


def test_nothing_is_loaded_before_the_memory_is_measured_as_free() -> None:
    lagging = snapshot(queues=[make_queue("b")], free=3, settled=False)
    assert decide_residency(lagging) == (Wait("b", "memory"),)
    assert decide_residency(snapshot(queues=[make_queue("b")], free=10)) == (Load("b", "gpu"),)


def test_memory_still_on_its_way_back_costs_nobody_else_their_place() -> None:
    lagging = snapshot([make_held("a")], [make_queue("b")], capacity=20, free=2, settled=False)
    assert decide_residency(lagging) == (Wait("b", "memory"),)


def test_memory_that_somebody_else_took_is_made_up_for() -> None:
    taken = snapshot([make_held("a")], [make_queue("b")], capacity=20, free=2)
    assert decide_residency(taken)[0] == Evict("a", wanted_by="b")


def test_nobody_leaves_for_an_expert_that_would_not_fit_even_so() -> None:
    taken = snapshot([make_held("a")], [make_queue("b", since_s=0.0)], capacity=30, free=0, sizes={"b": 25})
    assert decide_residency(taken) == (Wait("b", "taken"),)


def test_what_is_being_loaded_is_not_given_away_while_it_does_not_show_yet() -> None:
    loading = snapshot([make_held("a", state="loading")], [make_queue("b")], capacity=30, free=19)
    assert decide_residency(loading)[-1] == Wait("b", "turn")
    loading = snapshot([make_held("a", state="loading")], [make_queue("b")], capacity=30, free=20)
    assert decide_residency(loading) == (Load("b", "gpu"),)


def test_an_expert_larger_than_every_device_is_refused() -> None:
    assert decide_residency(snapshot(queues=[make_queue("a")], sizes={"a": 11})) == (Refuse("a", 11),)


def test_an_expert_that_pinned_ones_leave_no_room_for_is_refused() -> None:
    full = snapshot([make_held("a")], [make_queue("b")], pinned="a")
    assert decide_residency(full) == (Refuse("b", 10),)


def test_a_busy_resident_is_held_until_it_falls_idle_and_evicted_then() -> None:
    busy = snapshot([make_held("a", n_busy=1)], [make_queue("b")])
    assert decide_residency(busy) == (Hold("a", wanted_by="b"), Wait("b", "busy"))
    idle = snapshot([make_held("a", held=True)], [make_queue("b"), make_queue("a", n=9)])
    assert decide_residency(idle)[0] == Evict("a", wanted_by="b")


def test_a_resident_once_held_goes_before_the_others() -> None:
    both = [make_held("a", held=True, last_used_s=99.0), make_held("b", last_used_s=1.0)]
    assert decide_residency(snapshot(both, [make_queue("c")], capacity=20))[0] == Evict("a", wanted_by="c")


def test_an_idle_resident_leaves_rather_than_a_busy_one() -> None:
    residents = [make_held("a", n_busy=1, last_used_s=1.0), make_held("b", last_used_s=99.0)]
    assert decide_residency(snapshot(residents, [make_queue("c")], capacity=20))[0] == Evict("b", "c")


def test_requests_that_an_expert_was_loaded_for_are_served_before_it_leaves() -> None:
    just_loaded = make_held("a", ready_s=95.0)
    queues = [make_queue("a", since_s=90.0), make_queue("b", n=50, since_s=1.0)]
    assert decide_residency(snapshot([just_loaded], queues)) == (Wait("b", "turn"),)
    later = [make_queue("a", since_s=96.0), make_queue("b", n=50, since_s=1.0)]
    assert decide_residency(snapshot([just_loaded], later))[0] == Evict("a", wanted_by="b")


def test_a_turn_lasts_no_longer_than_anybody_may_wait() -> None:
    """The first in line may be of low priority, and others come before it again and again."""
    long_ready = make_held("a", ready_s=30.0)
    queues = [make_queue("a", since_s=29.0), make_queue("b", since_s=20.0)]
    assert decide_residency(snapshot([long_ready], queues))[0] == Evict("a", wanted_by="b")


def test_a_swap_waits_until_more_ask_for_it_than_it_delays() -> None:
    residents = [make_held("a", last_used_s=99.5)]
    flow = {"a": 1.0}
    few = snapshot(residents, [make_queue("b", n=5, since_s=99.0)], rate_per_s=flow)
    assert decide_residency(few) == (Wait("b", "claim"),)
    many = snapshot(residents, [make_queue("b", n=21, since_s=99.0)], rate_per_s=flow)
    assert decide_residency(many)[0] == Evict("a", wanted_by="b")
    overdue = snapshot(residents, [make_queue("b", since_s=50.0)], rate_per_s=flow)
    assert decide_residency(overdue)[0] == Evict("a", wanted_by="b")


def test_a_swap_waits_for_nobody_where_the_other_was_not_used_since() -> None:
    residents = [make_held("a", last_used_s=98.5)]
    quiet = snapshot(residents, [make_queue("b", since_s=99.0)], rate_per_s={"a": 1.0})
    assert decide_residency(quiet)[0] == Evict("a", wanted_by="b")
    answering = [make_held("a", n_busy=1, last_used_s=98.5)]
    busy = snapshot(answering, [make_queue("b", since_s=99.0)], rate_per_s={"a": 1.0})
    assert decide_residency(busy) == (Wait("b", "claim"),)


def test_look_ahead_evicts_what_is_needed_farthest_in_the_future() -> None:
    residents = [make_held("a", last_used_s=1.0), make_held("b", last_used_s=99.0)]
    known = {"a": 5.0, "b": 50.0}
    asked = snapshot(residents, [make_queue("c")], capacity=20, next_use_s=known)
    assert decide_residency(asked)[0] == Evict("b", wanted_by="c")
    by_recency = ResidencyRule("lru")
    assert decide_residency(asked, by_recency)[0] == Evict("a", wanted_by="c")


def test_look_ahead_that_is_not_trusted_goes_back_to_what_recency_would_keep() -> None:
    residents = [make_held("a", last_used_s=1.0), make_held("b", last_used_s=99.0)]
    asked = snapshot(residents, [make_queue("c")], capacity=20, next_use_s={"b": 5.0})
    assert decide_residency(asked)[0] == Evict("a", wanted_by="c")
    assert decide_residency(asked, kept=frozenset("ac"))[0] == Evict("b", wanted_by="c")


def test_among_experts_of_no_known_use_the_longest_unused_leaves() -> None:
    residents = [make_held("a", last_used_s=50.0), make_held("b", last_used_s=2.0)]
    assert decide_residency(snapshot(residents, [make_queue("c")], capacity=20))[0] == Evict("b", "c")


def test_the_least_often_used_leaves_by_frequency() -> None:
    residents = [make_held("a", n_uses=1, last_used_s=99.0), make_held("b", n_uses=9, last_used_s=1.0)]
    asked = snapshot(residents, [make_queue("c")], capacity=20)
    assert decide_residency(asked, ResidencyRule("lfu"))[0] == Evict("a", wanted_by="c")


def test_of_unequal_sizes_the_set_of_least_worth_leaves() -> None:
    sizes = {"a": 4, "b": 4, "c": 8, "d": 6}
    residents = [make_held("a", 4), make_held("b", 4), make_held("c", 8)]
    known = {"a": 90.0, "b": 80.0, "c": 30.0}
    asked = snapshot(residents, [make_queue("d")], 16, sizes=sizes, next_use_s=known)
    assert {e.expert for e in decide_residency(asked) if isinstance(e, Evict)} == {"a", "b"}
    known = {"a": 9.0, "b": 8.0, "c": 30.0}
    asked = snapshot(residents, [make_queue("d")], 16, sizes=sizes, next_use_s=known)
    assert [e.expert for e in decide_residency(asked) if isinstance(e, Evict)] == ["c"]


def test_by_recency_two_long_unused_leave_rather_than_one_used_just_now() -> None:
    sizes = {"a": 4, "b": 4, "c": 8, "d": 8}
    used = {"a": 10.0, "b": 20.0, "c": 99.9}
    residents = [make_held(name, sizes[name], last_used_s=at_s) for name, at_s in used.items()]
    asked = snapshot(residents, [make_queue("d")], 16, sizes=sizes)
    assert list_evicted(decide_residency(asked, ResidencyRule("lru"))) == ["a", "b"]
    hardly_longer = [
        make_held("a", 4, last_used_s=50.0),
        make_held("b", 4, last_used_s=99.0),
        make_held("c", 8, last_used_s=99.01),
    ]
    asked = snapshot(hardly_longer, [make_queue("d")], 16, sizes=sizes)
    assert list_evicted(decide_residency(asked, ResidencyRule("lru"))) == ["c"]


def test_an_expert_that_somebody_waits_for_is_kept_before_one_that_is_only_expected() -> None:
    residents = [make_held("a", ready_s=1.0), make_held("b")]
    queues = [make_queue("a"), make_queue("c", since_s=1.0)]
    asked = snapshot(residents, queues, capacity=20, next_use_s={"b": 5.0})
    assert list_evicted(decide_residency(asked)) == ["b"]


def test_what_was_not_used_for_its_time_leaves_unless_somebody_asks() -> None:
    expired = make_held("a", expires_s=99.0)
    assert decide_residency(snapshot([expired])) == (Evict("a"),)
    assert decide_residency(snapshot([expired], [make_queue("a")])) == ()
    assert decide_residency(snapshot([expired], pinned="a")) == ()
    assert decide_residency(snapshot([make_held("a", expires_s=99.0, n_busy=1)])) == ()


def test_a_pinned_expert_is_loaded_unasked_and_after_those_who_wait() -> None:
    assert decide_residency(snapshot(pinned="a")) == (Load("a", "gpu"),)
    asked = decide_residency(snapshot(queues=[make_queue("b")], pinned="a"))
    assert asked == (Load("b", "gpu"), Wait("a", "turn"))


def test_the_expert_expected_soonest_is_prefetched_into_free_memory_only() -> None:
    soon = {"b": 30.0, "c": 20.0}
    assert decide_residency(snapshot(next_use_s=soon)) == (Load("c", "gpu", prefetch=True),)
    assert decide_residency(snapshot([make_held("a")], next_use_s=soon)) == ()
    assert decide_residency(snapshot(next_use_s={"c": 61.0})) == ()
    assert decide_residency(snapshot(next_use_s=soon), ResidencyRule("lru")) == ()


def test_prefetching_never_takes_room_from_who_waits() -> None:
    asked = snapshot([make_held("a")], [make_queue("b")], capacity=15, sizes={"c": 5}, next_use_s={"c": 1.0})
    assert decide_residency(asked) == (Evict("a", wanted_by="b"), Wait("b", "memory"))


def test_one_expert_at_a_time_is_prefetched() -> None:
    loading = [make_held("a", state="loading")]
    assert decide_residency(snapshot(loading, capacity=30, next_use_s={"b": 1.0})) == ()
    asked = decide_residency(snapshot(queues=[make_queue("a")], capacity=30, next_use_s={"b": 1.0}))
    assert asked == (Load("a", "gpu"),)


def test_the_emptier_device_is_taken() -> None:
    devices = (Device("cpu", 20), Device("gpu", 30))
    loadable = tuple(Loadable(name, 10, 10.0) for name in "ab")
    asked = Snapshot(0.0, devices, loadable, (), (Queue("b", 1, 0.0),))
    assert decide_residency(asked) == (Load("b", "gpu"),)


def test_of_two_full_devices_the_one_gives_way_whose_experts_are_worth_less() -> None:
    devices = (Device("cpu", 10), Device("gpu", 10))
    loadable = tuple(Loadable(name, 10, 10.0) for name in "abc")
    there = (Resident("a", "cpu", 10), Resident("b", "gpu", 10))
    asked = Snapshot(0.0, devices, loadable, there, (Queue("c", 1, 0.0),), {"a": 5.0, "b": 50.0})
    assert decide_residency(asked)[0] == Evict("b", wanted_by="c")
    busy = (there[0], Resident("b", "gpu", 10, n_busy=1, idle_in_s=0.1))
    asked = Snapshot(0.0, devices, loadable, busy, (Queue("c", 1, 0.0),), {"a": 5.0, "b": 50.0})
    assert decide_residency(asked)[0] == Evict("a", wanted_by="c")


def test_by_recency_an_idle_one_leaves_rather_than_a_busy_one_used_longer_ago() -> None:
    residents = [make_held("a", n_busy=1, last_used_s=1.0, idle_in_s=0.1), make_held("b", last_used_s=99.0)]
    asked = snapshot(residents, [make_queue("c")], capacity=20)
    assert decide_residency(asked, ResidencyRule("lru"))[0] == Evict("b", wanted_by="c")


def test_look_ahead_weighs_waiting_for_a_busy_one_against_loading_an_idle_one_again() -> None:
    def first_effect(idle_in_s: float) -> Effect:
        residents = [make_held("a", n_busy=1, idle_in_s=idle_in_s), make_held("b")]
        known = {"b": 1.0}
        return decide_residency(snapshot(residents, [make_queue("c")], capacity=20, next_use_s=known))[0]

    assert first_effect(1.0) == Hold("a", wanted_by="c")
    assert first_effect(30.0) == Evict("b", wanted_by="c")


def test_higher_priority_goes_first_and_is_not_displaced_by_lower() -> None:
    queues = [make_queue("a", n=9), make_queue("b", priority=1)]
    assert decide_residency(snapshot(queues=queues))[0] == Load("b", "gpu")
    ready = [make_held("b", ready_s=99.0)]
    later = [make_queue("a", n=9, since_s=99.5), make_queue("b", since_s=99.5, priority=1)]
    assert decide_residency(snapshot(ready, later)) == (Wait("a", "claim"),)
    urgent = [make_queue("a", since_s=99.5, priority=2), make_queue("b", n=9, since_s=99.5, priority=1)]
    assert decide_residency(snapshot(ready, urgent))[0] == Evict("b", wanted_by="a")


def test_of_two_who_are_due_the_one_that_waited_longer_has_the_room() -> None:
    ready = [make_held("a", ready_s=5.0)]
    both = [make_queue("a", since_s=10.0), make_queue("b", since_s=20.0)]
    assert decide_residency(snapshot(ready, both)) == (Wait("b", "claim"),)
    both = [make_queue("a", since_s=20.0), make_queue("b", since_s=10.0)]
    assert decide_residency(snapshot(ready, both))[0] == Evict("a", wanted_by="b")


def test_age_counts_among_queues_of_equal_length() -> None:
    queues = [make_queue("a", n=2, since_s=99.0), make_queue("b", n=2, since_s=90.0)]
    assert decide_residency(snapshot(queues=queues))[0] == Load("b", "gpu")


def test_an_expert_goes_where_nobody_has_to_leave() -> None:
    devices = (Device("cpu", 10), Device("gpu", 10))
    loadable = tuple(Loadable(name, 10, 10.0) for name in "ab")
    asked = Snapshot(0.0, devices, loadable, (Resident("a", "cpu", 10),), (Queue("b", 1, 0.0),))
    assert decide_residency(asked) == (Load("b", "gpu"),)


def test_an_expert_bound_to_a_device_waits_for_that_one() -> None:
    devices = (Device("cpu", 10), Device("gpu", 10))
    loadable = (Loadable("a", 10, 10.0), Loadable("b", 10, 10.0, devices=("cpu",)))
    asked = Snapshot(0.0, devices, loadable, (Resident("a", "cpu", 10),), (Queue("b", 1, 0.0),))
    assert decide_residency(asked)[0] == Evict("a", wanted_by="b")


def test_a_large_expert_is_not_starved_by_small_ones_behind_it() -> None:
    sizes = {"a": 10, "b": 5, "c": 5}
    residents = [make_held("b", 5, n_busy=1)]
    queues = [make_queue("a", n=9), make_queue("c")]
    effects = decide_residency(snapshot(residents, queues, 10, sizes=sizes))
    assert Load("c", "gpu") not in effects
    assert Hold("b", wanted_by="a") in effects


def draw_snapshot(random: Random) -> Snapshot:
    """Up to six experts of unequal size over one or two devices, booked within their memory."""
    sizes = {name: random.randint(1, 12) for name in NAMES}
    names = random.sample(NAMES, len(NAMES))
    devices, residents = [], []
    for name in ("cpu", "gpu")[: random.randint(1, 2)]:
        there = [names.pop() for _ in range(random.randint(0, 3))]
        capacity = sum(sizes[expert] for expert in there) + random.randint(0, 8)
        free = random.choice([None, random.randint(0, capacity)])
        devices.append(Device(name, capacity, free, random.random() < 0.5))
        residents += [draw_resident(random, expert, name, sizes[expert]) for expert in there]
    loadable = tuple(
        Loadable(name, size, random.uniform(0, 30), pinned=random.random() < 0.1)
        for name, size in sizes.items()
    )
    queues = tuple(
        Queue(
            *(name, random.randint(0, 9), random.uniform(0, 100)),
            *(random.randint(0, 1), random.choice([0.0, random.uniform(0, 60)])),
        )
        for name in NAMES
        if random.random() < 0.5
    )
    known = {name: random.uniform(0, 100) for name in NAMES if random.random() < 0.5}
    rates = {name: random.random() for name in NAMES if random.random() < 0.5}
    return Snapshot(100.0, tuple(devices), loadable, tuple(residents), queues, known, rates)


def draw_resident(random: Random, expert: str, device: str, size: int) -> Resident:
    states: list[ResidentState] = ["ready", "ready", "ready", "loading", "leaving"]
    state = random.choice(states)
    return Resident(
        expert,
        device,
        size,
        state,
        n_busy=random.randint(0, 2) if state == "ready" else 0,
        last_used_s=random.uniform(0, 100),
        ready_s=random.uniform(0, 100),
        expires_s=random.choice([None, random.uniform(0, 200)]),
        held=state == "ready" and random.random() < 0.2,
        idle_in_s=random.choice([float("inf"), random.uniform(0, 30)]),
    )


def snapshots() -> st.SearchStrategy[Snapshot]:
    return st.integers(0, 2**32).map(lambda seed: draw_snapshot(Random(seed)))


rules = st.builds(ResidencyRule, st.sampled_from(["lookahead", "lru", "lfu"]), st.just(TurnRule()))


def list_evicted(effects: Sequence[Effect]) -> list[str]:
    return [effect.expert for effect in effects if isinstance(effect, Evict)]


@given(snapshots(), rules)
def test_neither_busy_nor_pinned_nor_unready_residents_are_evicted(at: Snapshot, rule: ResidencyRule) -> None:
    for expert in list_evicted(decide_residency(at, rule)):
        resident = at.resident[expert]
        assert resident.state == "ready"
        assert not resident.n_busy
        assert not at.is_pinned(expert)


@given(snapshots(), rules)
def test_who_leaves_for_somebody_frees_enough_and_nobody_in_vain(at: Snapshot, rule: ResidencyRule) -> None:
    effects = decide_residency(at, rule)
    for wanted in {e.wanted_by for e in effects if isinstance(e, Evict) and e.wanted_by}:
        leaving = [at.resident[e.expert] for e in effects if getattr(e, "wanted_by", None) == wanted]
        assert len({resident.device for resident in leaving}) == 1
        assert isinstance(
            next(e for e in effects if e.expert == wanted and not hasattr(e, "wanted_by")), Wait
        )
        device = next(d for d in at.devices if d.name == leaving[0].device)
        going = {e.expert for e in effects if isinstance(e, Evict | Hold)}
        there = [r for r in at.residents if r.device == device.name and r.state != "leaving"]
        staying = sum(r.size_bytes for r in there if r.expert not in going)
        assert staying + at.by_expert[wanted].size_bytes <= device.capacity_bytes


@given(st.integers(0, 2**32))
def test_no_other_set_that_frees_enough_is_worth_less(seed: int) -> None:
    """All residents are idle and none is asked for: the evicted are compared with every other set."""
    random = Random(seed)
    sizes = {name: random.randint(1, 6) for name in NAMES}
    known = {name: random.uniform(1, 100) for name in NAMES}
    there = [make_held(name, sizes[name]) for name in NAMES[1:]]
    capacity = sum(resident.size_bytes for resident in there)
    asked = snapshot(there, [make_queue("a")], capacity, sizes=sizes, next_use_s=known)
    leaving = list_evicted(decide_residency(asked))

    def sum_lost(names: Sequence[str]) -> float:
        return sum(1.0 / (10.0 + known[name]) for name in names)

    sets = [s for n in range(1, 6) for s in combinations(NAMES[1:], n)]
    enough = [names for names in sets if sum(sizes[name] for name in names) >= sizes["a"]]
    assert leaving if enough else not leaving
    if enough:
        assert sum_lost(leaving) == pytest.approx(min(map(sum_lost, enough)))


@given(snapshots(), rules)
def test_loads_fit_into_memory_that_is_free_by_books_and_by_measure(
    at: Snapshot, rule: ResidencyRule
) -> None:
    loads = [effect for effect in decide_residency(at, rule) if isinstance(effect, Load)]
    for device in at.devices:
        size = sum(at.by_expert[load.expert].size_bytes for load in loads if load.device == device.name)
        there = [r for r in at.residents if r.device == device.name]
        if size:
            assert size + sum(r.size_bytes for r in there) <= device.capacity_bytes
            loading = sum(r.size_bytes for r in there if r.state == "loading")
            assert device.free_bytes is None or size + loading <= device.free_bytes


@given(snapshots(), rules)
def test_where_nothing_is_needed_nothing_is_done(at: Snapshot, rule: ResidencyRule) -> None:
    loadable = tuple(Loadable(one.expert, one.size_bytes, one.load_s) for one in at.loadable)
    residents = tuple(Resident(r.expert, r.device, r.size_bytes, r.state, r.n_busy) for r in at.residents)
    asked = tuple(
        q for q in at.queues if q.expert in at.resident and at.resident[q.expert].state != "leaving"
    )
    assert decide_residency(Snapshot(at.now_s, at.devices, loadable, residents, asked), rule) == ()


@given(snapshots(), rules, st.randoms(use_true_random=False))
def test_the_order_of_the_snapshot_changes_nothing(at: Snapshot, rule: ResidencyRule, random: Any) -> None:
    def shuffle(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(random.sample(values, len(values)))

    other = Snapshot(
        at.now_s,
        shuffle(at.devices),
        at.loadable,
        shuffle(at.residents),
        shuffle(at.queues),
        dict(shuffle(list(at.next_use_s.items()))),
        at.rate_per_s,
    )
    assert sorted(map(repr, decide_residency(other, rule))) == sorted(map(repr, decide_residency(at, rule)))


@given(snapshots(), rules)
def test_everybody_who_waits_is_resident_or_hears_why_not(at: Snapshot, rule: ResidencyRule) -> None:
    effects = decide_residency(at, rule)
    wanted = {e.expert for e in effects if isinstance(e, Load | Wait | Refuse)}
    for queue in at.queues:
        resident = at.resident.get(queue.expert)
        if queue.n_waiting and (resident is None or resident.state == "leaving"):
            assert queue.expert in wanted


@pytest.mark.parametrize("rule", ["lookahead", "lru", "lfu"])
@given(at=snapshots())
def test_performed_again_and_again_whoever_is_due_gets_in(at: Snapshot, rule: EvictionRule) -> None:
    """Requests are answered as soon as their expert is ready and not held; memory comes back at once."""
    wanted = {q.expert for q in at.queues if q.n_waiting}
    devices = tuple(Device(d.name, d.capacity_bytes) for d in at.devices)
    at = Snapshot(at.now_s, devices, at.loadable, at.residents, at.queues, at.next_use_s, at.rate_per_s)
    refused: set[str] = set()
    for _ in range(60):
        effects = decide_residency(at, ResidencyRule(rule))
        refused |= {e.expert for e in effects if isinstance(e, Refuse)}
        at = perform(at, effects)
    assert {q.expert for q in at.queues} & wanted <= refused


def perform(at: Snapshot, effects: Sequence[Effect]) -> Snapshot:
    """Ten seconds later: loads are through, evicted experts gone, what was answered is answered."""
    holds = {e.expert for e in effects if isinstance(e, Hold)}
    there = [
        Resident(
            r.expert,
            r.device,
            r.size_bytes,
            last_used_s=r.last_used_s,
            ready_s=r.ready_s,
            held=r.expert in holds,
        )
        for r in at.residents
        if r.state != "leaving" and r.expert not in list_evicted(effects)
    ]
    now_s = at.now_s + 10.0
    for load in (e for e in effects if isinstance(e, Load)):
        size = at.by_expert[load.expert].size_bytes
        there.append(Resident(load.expert, load.device, size, last_used_s=now_s, ready_s=now_s))
    answering = {r.expert for r in there if not r.held}
    queues = tuple(q for q in at.queues if q.expert not in answering)
    return Snapshot(now_s, at.devices, at.loadable, tuple(there), queues, at.next_use_s, at.rate_per_s)


def test_free_memory_on_one_device_is_used_before_memory_on_its_way_back_on_another() -> None:
    devices = (Device("returning", 40, 0, settled=False), Device("free", 10, 10))
    at = Snapshot(100.0, devices, (Loadable("a", 10, 10.0),), (), (make_queue("a"),))
    assert decide_residency(at) == (Load("a", "free"),)


def test_an_expert_that_is_not_loadable_takes_no_time_to_load() -> None:
    assert snapshot().load_s("remote") == 0.0
    assert snapshot().load_s("a") == 10.0


@pytest.mark.parametrize(("size", "effect"), [(10, Load("b", "gpu")), (11, Refuse("b", 11))])
def test_an_expert_may_take_all_that_pinned_ones_leave(size: int, effect: Effect) -> None:
    pinned = make_held("a", 4)
    asked = snapshot([pinned], [make_queue("b")], 14, sizes={"a": 4, "b": size}, pinned="a")
    assert decide_residency(asked) == (effect,)


def test_an_expert_that_is_not_pinned_may_be_as_large_as_the_device() -> None:
    asked = snapshot([make_held("a", 4)], [make_queue("b")], 14, sizes={"a": 4, "b": 14})
    assert decide_residency(asked) == (Evict("a", "b"), Wait("b", "memory"))


@pytest.mark.parametrize(("free", "effect"), [(10, Load("b", "gpu")), (9, Wait("b", "taken"))])
def test_a_load_needs_all_its_memory_by_measure(free: int, effect: Effect) -> None:
    assert decide_residency(snapshot(queues=[make_queue("b")], capacity=20, free=free)) == (effect,)


@pytest.mark.parametrize(("settled", "blocked"), [(False, "memory"), (True, "taken")])
def test_missing_memory_is_waited_for_only_just_after_an_eviction(settled: bool, blocked: Any) -> None:
    asked = snapshot(queues=[make_queue("b")], free=0, settled=settled)
    assert decide_residency(asked) == (Wait("b", blocked),)


def test_more_free_memory_than_by_the_books_is_not_used() -> None:
    asked = snapshot([make_held("a", n_busy=1)], [make_queue("b")], capacity=19, free=19)
    assert decide_residency(asked) == (Hold("a", "b"), Wait("b", "busy"))


@pytest.mark.parametrize("free", [None, 0])
def test_memory_that_a_leaving_expert_frees_is_enough_and_no_other_leaves(free: int | None) -> None:
    there = [make_held("a", state="leaving"), make_held("c")]
    asked = snapshot(there, [make_queue("b")], capacity=20, free=free)
    assert decide_residency(asked) == (Wait("b", "memory"),)


def test_an_expert_leaves_for_what_a_leaving_one_does_not_free() -> None:
    there = [make_held("a", 4, state="leaving"), make_held("c", 6)]
    asked = snapshot(there, [make_queue("b")], 10, sizes={"a": 4, "c": 6})
    assert decide_residency(asked) == (Evict("c", "b"), Wait("b", "memory"))


def test_an_expert_asked_for_while_it_leaves_waits_for_its_memory() -> None:
    assert decide_residency(snapshot([make_held("a", state="leaving")], [make_queue("a")])) == (
        Wait("a", "memory"),
    )


def test_an_expert_that_is_being_loaded_needs_nothing() -> None:
    assert decide_residency(snapshot([make_held("a", state="loading")], [make_queue("a")])) == ()


def test_a_queue_for_an_expert_that_is_not_loadable_has_no_effect() -> None:
    assert decide_residency(snapshot(queues=[make_queue("remote")])) == ()


def test_an_expert_displaced_by_a_queue_before_its_own_waits_for_memory() -> None:
    queues = [make_queue("b", since_s=1.0), make_queue("a")]
    assert decide_residency(snapshot([make_held("a")], queues)) == (
        Evict("a", "b"),
        Wait("b", "memory"),
        Wait("a", "memory"),
    )


def test_two_experts_that_fit_are_loaded_at_once() -> None:
    queues = [make_queue("a"), make_queue("b")]
    assert decide_residency(snapshot(queues=queues, capacity=20)) == (Load("a", "gpu"), Load("b", "gpu"))


def test_an_expert_behind_a_load_that_takes_the_room_waits_for_its_turn() -> None:
    queues = [make_queue("a"), make_queue("b")]
    assert decide_residency(snapshot(queues=queues, capacity=19)) == (Load("a", "gpu"), Wait("b", "turn"))


def test_memory_on_its_way_to_one_expert_is_not_given_to_the_next() -> None:
    sizes = {"a": 10, "b": 12, "c": 5}
    queues = [make_queue("b", n=9), make_queue("c")]
    asked = snapshot([make_held("a", state="leaving")], queues, 15, sizes=sizes)
    assert decide_residency(asked) == (Wait("b", "memory"), Wait("c", "turn"))


def test_what_one_eviction_frees_for_two_is_enough_for_both() -> None:
    sizes = {"c": 5, "d": 5}
    queues = [make_queue("c", n=2), make_queue("d")]
    asked = snapshot([make_held("a"), make_held("b")], queues, 20, sizes=sizes)
    assert decide_residency(asked) == (Evict("a", "c"), Wait("c", "memory"), Wait("d", "memory"))


def test_a_queue_too_weak_for_a_swap_reserves_nothing() -> None:
    sizes = {"b": 12, "c": 5}
    there = [make_held("a", ready_s=1.0)]
    queues = [make_queue("a", n=9), make_queue("b", n=2), make_queue("c")]
    asked = decide_residency(snapshot(there, queues, 15, sizes=sizes))
    assert asked == (Wait("b", "claim"), Load("c", "gpu"))


def test_an_expert_whose_memory_was_taken_reserves_nothing() -> None:
    queues = [make_queue("b", n=2), make_queue("c")]
    asked = decide_residency(snapshot(queues=queues, capacity=15, free=5, sizes={"b": 12, "c": 5}))
    assert asked == (Wait("b", "taken"), Load("c", "gpu"))


def test_a_pinned_expert_in_its_turn_frees_no_memory_by_ending_it() -> None:
    pinned = make_held("a", ready_s=95.0)
    queues = [make_queue("a", since_s=90.0), make_queue("b")]
    asked = snapshot([pinned], queues, 20, free=0, pinned="a")
    assert decide_residency(asked) == (Wait("b", "taken"),)


def test_a_pinned_expert_does_not_leave_for_a_queue_that_is_due() -> None:
    there = [make_held("a", last_used_s=1.0), make_held("c", last_used_s=99.0)]
    asked = snapshot(there, [make_queue("b", since_s=1.0)], 20, pinned="a")
    assert decide_residency(asked)[0] == Evict("c", "b")


def test_pinned_experts_are_loaded_by_name() -> None:
    assert decide_residency(snapshot(capacity=30, pinned="ba")) == (Load("a", "gpu"), Load("b", "gpu"))


def test_a_pinned_expert_is_loaded_once_where_requests_wait_for_it() -> None:
    assert decide_residency(snapshot(queues=[make_queue("a")], capacity=30, pinned="a")) == (
        Load("a", "gpu"),
    )


@pytest.mark.parametrize(("expires_s", "effects"), [(100.0, (Evict("a"),)), (100.1, ()), (None, ())])
def test_an_unused_expert_leaves_at_its_time(expires_s: float | None, effects: tuple[Effect, ...]) -> None:
    assert decide_residency(snapshot([make_held("a", expires_s=expires_s)])) == effects


@pytest.mark.parametrize("state", ["loading", "leaving"])
def test_only_a_ready_expert_leaves_for_being_unused(state: ResidentState) -> None:
    assert decide_residency(snapshot([make_held("a", expires_s=1.0, state=state)])) == ()


def test_memory_of_an_unused_expert_is_counted_on() -> None:
    asked = snapshot([make_held("a", expires_s=1.0), make_held("c")], [make_queue("b")], capacity=20)
    assert decide_residency(asked) == (Evict("a"), Wait("b", "memory"))


def on_two_devices(
    there: Sequence[Resident], queues: Sequence[Queue], free: tuple[int | None, int | None] = (None, None)
) -> tuple[Effect, ...]:
    """What is done with two devices for one expert each."""
    devices = (Device("one", 10, free[0]), Device("two", 10, free[1]))
    loadable = tuple(Loadable(name, 10, 10.0) for name in "abc")
    return decide_residency(Snapshot(100.0, devices, loadable, tuple(there), tuple(queues)))


@pytest.mark.parametrize(
    ("other", "effects"),
    [
        (Resident("c", "two", 10, "leaving"), (Wait("a", "memory"),)),
        (Resident("c", "two", 10), (Evict("c", "a"), Wait("a", "memory"))),
        (Resident("c", "two", 10, n_busy=1, idle_in_s=1.0), (Hold("c", "a"), Wait("a", "busy"))),
    ],
)
def test_an_expert_to_evict_now_or_soon_goes_before_a_turn_that_will_end(
    other: Resident, effects: tuple[Effect, ...]
) -> None:
    there = [Resident("b", "one", 10, ready_s=95.0), other]
    assert on_two_devices(there, [make_queue("a"), make_queue("b", since_s=90.0)]) == effects


def test_memory_on_its_way_goes_before_an_eviction() -> None:
    there = [Resident("b", "one", 10), Resident("c", "two", 10, "leaving")]
    assert on_two_devices(there, [make_queue("a")]) == (Wait("a", "memory"),)


def test_free_memory_goes_before_memory_on_its_way() -> None:
    assert on_two_devices([Resident("b", "one", 10, "leaving")], [make_queue("a")]) == (Load("a", "two"),)


def test_of_equal_devices_the_first_by_name_is_taken() -> None:
    assert on_two_devices([], [make_queue("a")]) == (Load("a", "one"),)


def test_by_recency_a_busy_expert_is_held_where_none_is_idle() -> None:
    there = [make_held("a", n_busy=1)]
    effects = decide_residency(snapshot(there, [make_queue("b")]), ResidencyRule("lru"))
    assert effects == (Hold("a", "b"), Wait("b", "busy"))


def prefetch(in_s: float, capacity: int = 10, **known: Any) -> tuple[Effect, ...]:
    return decide_residency(snapshot(capacity=capacity, next_use_s={"a": in_s}, **known))


@pytest.mark.parametrize(("in_s", "loads"), [(60.0, True), (60.1, False)])
def test_an_expert_is_prefetched_within_the_time_of_the_rule(in_s: float, loads: bool) -> None:
    assert prefetch(in_s) == ((Load("a", "gpu", prefetch=True),) if loads else ())


@pytest.mark.parametrize(("capacity", "loads"), [(10, True), (9, False)])
def test_an_expert_is_prefetched_into_memory_that_it_fills(capacity: int, loads: bool) -> None:
    assert bool(prefetch(1.0, capacity)) is loads


def test_the_smallest_expert_is_prefetched_into_the_smallest_device() -> None:
    assert prefetch(1.0, 1, sizes={"a": 1}) == (Load("a", "gpu", prefetch=True),)


def test_look_ahead_that_is_not_trusted_prefetches_nothing() -> None:
    asked = snapshot(next_use_s={"a": 1.0})
    assert decide_residency(asked, kept=frozenset("a")) == ()


def test_what_cannot_be_prefetched_is_passed_over_for_the_next() -> None:
    soon = {"remote": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0}
    asked = snapshot([make_held("b")], capacity=20, sizes={"c": 11}, next_use_s=soon)
    assert decide_residency(asked) == (Load("d", "gpu", prefetch=True),)


def test_an_expert_that_requests_wait_for_is_not_prefetched_elsewhere() -> None:
    devices = (Device("one", 10), Device("two", 20))
    loadable = (Loadable("a", 15, 10.0, devices=("two",)), Loadable("b", 10, 10.0))
    there = (Resident("b", "two", 10, n_busy=1),)
    at = Snapshot(100.0, devices, loadable, there, (make_queue("a"),), {"a": 1.0})
    assert decide_residency(at) == (Hold("b", "a"), Wait("a", "busy"))


def test_an_expert_is_prefetched_into_the_emptiest_device_that_it_may_use() -> None:
    devices = (Device("one", 30), Device("three", 40), Device("two", 40), Device("xl", 90))
    loadable = (Loadable("a", 10, 10.0, devices=("one", "two", "three")),)
    at = Snapshot(100.0, devices, loadable, next_use_s={"a": 1.0})
    assert decide_residency(at) == (Load("a", "three", prefetch=True),)


def test_an_expert_is_prefetched_beside_a_device_on_which_another_loads() -> None:
    devices = (Device("one", 30), Device("two", 20))
    loadable = (Loadable("a", 10, 10.0), Loadable("b", 10, 10.0))
    there = (Resident("b", "one", 10, "loading"),)
    at = Snapshot(100.0, devices, loadable, there, next_use_s={"a": 1.0})
    assert decide_residency(at) == (Load("a", "two", prefetch=True),)


def test_a_pinned_expert_displaces_one_that_is_not_asked_for() -> None:
    assert decide_residency(snapshot([make_held("b")], pinned="a")) == (Evict("b", "a"), Wait("a", "memory"))


def test_a_pinned_expert_weighs_as_one_request() -> None:
    there = [make_held("b", ready_s=1.0)]
    assert decide_residency(snapshot(there, [make_queue("b")], pinned="a")) == (Wait("a", "claim"),)


def test_of_devices_with_room_the_one_with_most_free_now_is_taken() -> None:
    devices = (Device("free", 20), Device("later", 45))
    loadable = (Loadable("a", 10, 10.0), Loadable("b", 30, 10.0))
    there = (Resident("b", "later", 30, "leaving"),)
    at = Snapshot(100.0, devices, loadable, there, (make_queue("a"),))
    assert decide_residency(at) == (Load("a", "free"),)


def test_patient_requests_are_displaced_at_once_by_others_and_wait_until_those_pause() -> None:
    batch = make_held("a", n_busy=2, n_patient=2, ready_s=99.0, idle_in_s=3.0)
    queues = [make_queue("a", n=9, since_s=50.0, priority=-1), make_queue("b")]
    assert decide_residency(snapshot([batch], queues))[0] == Hold("a", wanted_by="b")
    # Their own requests wait since before the load, and that is no turn; nor are they ever due.
    idle = make_held("a", ready_s=99.0)
    assert decide_residency(snapshot([idle], queues))[0] == Evict("a", wanted_by="b")
    overdue = [make_queue("a", n=9, since_s=0.0, priority=-1), make_queue("b")]
    assert decide_residency(snapshot([idle], overdue))[0] == Evict("a", wanted_by="b")


@pytest.mark.parametrize(("used_s", "since_s", "leaves"), [(70.0, 99.0, True), (85.0, 99.0, False)])
def test_a_batch_takes_memory_back_once_its_user_paused_for_as_long_as_a_swap(
    used_s: float, since_s: float, leaves: bool
) -> None:
    """A swap takes two loads of 10 s; how many wait in the batch's line says nothing."""
    used = make_held("b", n_uses=1, last_used_s=used_s)
    effects = decide_residency(snapshot([used], [make_queue("a", n=500, since_s=since_s, priority=-1)]))
    assert (effects[0] == Evict("b", wanted_by="a")) is leaves


def test_a_batch_is_served_now_and_then_beside_traffic_that_never_pauses() -> None:
    def leaves(age_s: float, n_busy: int = 0) -> bool:
        used = make_held("b", n_uses=9, last_used_s=999.5, n_busy=n_busy)
        waiting = make_queue("a", since_s=1000.0 - age_s, priority=-1)
        at = snapshot([used], [waiting], now_s=1000.0, rate_per_s={"b": 1.0})
        return decide_residency(at)[0] == Evict("b", wanted_by="a")

    # 20 s of loading delay 20 requests, which is (1 + 390 s / 10 s) at 2 a second after 600 s.
    assert [leaves(age_s) for age_s in (500.0, 985.0, 995.0)] == [False, False, True]
    assert not leaves(995.0, n_busy=1)


@pytest.mark.parametrize(
    ("stoppable", "priority", "since_s", "stops"),
    [(True, -1, 99.0, True), (False, -1, 99.0, False), (True, 0, 99.0, False), (True, -1, -501.0, False)],
)
def test_a_load_for_a_batch_is_broken_off_for_others_unless_it_waited_very_long(
    stoppable: bool, priority: int, since_s: float, stops: bool
) -> None:
    loading = make_held("a", state="loading", stoppable=stoppable)
    effects = decide_residency(
        snapshot([loading], [make_queue("a", since_s=since_s, priority=priority), make_queue("b")])
    )
    assert (Evict("a", wanted_by="b") in effects) is stops


def test_the_line_of_a_batch_keeps_no_expert_in_memory_in_place_of_one_that_others_ask_for() -> None:
    both = [make_held("a", last_used_s=99.0), make_held("b", last_used_s=1.0)]
    queues = [make_queue("a", n=9, since_s=99.0, priority=-1), make_queue("c")]
    effects = decide_residency(snapshot(both, queues, capacity=20, next_use_s={"b": 5.0}))
    assert effects[0] == Evict("a", wanted_by="c")
