"""The parts of a running gateway, together: what endpoints are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policies import Policy
from routers import ExpertProfile

if TYPE_CHECKING:
    from .asgi.authentication import Authenticator
    from .batches.store import BatchStore
    from .config import Config
    from .embedding import EmbedderPool
    from .experts import Expert
    from .fleet.health import FleetState
    from .fleet.replicas import Replicas
    from .requests.parsing import RequestParser
    from .routing.router import Router
    from .routing.sessions import SessionTable
    from .runners import Runners
    from .storage.journal import Journal
    from .storage.responses import ResponseStore


@dataclass(frozen=True, slots=True)
class Services:
    """Built once by `create_app`; endpoints find it at `request.app.state.services`."""

    config: "Config"
    profiles: tuple[ExpertProfile, ...]
    policies: Mapping[str, Policy]
    experts: "Mapping[str, Expert]"
    fleet: "FleetState"
    parser: "RequestParser"
    router: "Router"
    embedders: "EmbedderPool | None"
    journal: "Journal"
    runners: "Runners"
    authenticator: "Authenticator"
    replicas: "Replicas | None"
    store: "BatchStore"
    responses: "ResponseStore | None"
    sessions: "SessionTable"
