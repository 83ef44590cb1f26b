"""Which local expert's calls come first, so that each is loaded as seldom as can be."""

from collections.abc import Iterable

from policies import Group, Snapshot, order_groups

from ..runners import Runners


def first_local(
    waiting: Iterable[str], aggregations: Iterable[tuple[str, str]], runners: Runners | None
) -> str:
    """The local expert to work off now.

    `aggregations` are pairs of an expert that is waited for and one that will aggregate what it says: that
    one's calls are counted in before there are any.
    """
    if runners is None:
        return min(waiting)
    names = {name: runners[name].name for name in runners}
    return first_of(waiting, aggregations, names, runners.look())


def first_of(
    waiting: Iterable[str],
    aggregations: Iterable[tuple[str, str]],
    runner_of: dict[str, str],
    snapshot: Snapshot,
) -> str:
    """The same, from what is known of the memory; experts may share a runner."""
    members: dict[str, set[str]] = {}
    for member, aggregator in aggregations:
        members.setdefault(aggregator, set()).add(member)
    groups = [Group(name, runner_of.get(name, name)) for name in sorted(waiting)]
    there = {group.name for group in groups}
    for name, asked in sorted(members.items()):
        groups.append(Group(f"{name} of answers", runner_of.get(name, name), frozenset(asked & there)))
    capacity_bytes = sum(device.capacity_bytes for device in snapshot.devices)
    ready = frozenset(resident.expert for resident in snapshot.residents if resident.state == "ready")
    order = order_groups(groups, snapshot.loadable, capacity_bytes, ready)
    return next(group.name for group in order if group.name in there)
