"""Parsed requests as tests of the router need them."""

from gateway.experts import Call
from gateway.requests.options import RoutingOptions
from gateway.requests.parsing import ToPolicy
from policies import Policy, RoutingHints
from routers import Query, query_of


def to_policy(query: Query | str, policy: Policy, hints: RoutingHints | None = None) -> ToPolicy:
    """A request for a policy, of which only query and hints matter."""
    query = query_of(query) if isinstance(query, str) else query
    return ToPolicy(Call("chat/completions", {}), RoutingOptions(), policy, query, hints)
