"""An expert behind one or several deployments: who is called, and when another is."""

from collections.abc import Sequence
from time import monotonic
from typing import Generic, Protocol, TypeVar

from ..config import DeploymentConfig
from ..fleet.circuit_breaker import CircuitBreaker
from ..waiting import ConcurrencyLimit, RateLimit
from .parameters import Parameters
from .prompt_preset import PromptPreset
from .types import Call, Fields, Reply, UpstreamError
from .upstreams import UpstreamTable, log_failure


class CallableDeployment(Protocol):
    """One address of an expert, with its health and its limit."""

    name: str
    breaker: CircuitBreaker
    slots: ConcurrencyLimit

    async def call(self, call: Call, fields: Fields) -> Reply:
        """Ask this deployment.

        Raises:
            UpstreamError: there is no answer.
        """


D = TypeVar("D", bound=CallableDeployment)


class DeployedExpert(Generic[D]):
    """An expert behind one or several deployments.

    A call goes to the healthy deployment with the least load; where it fails in a way that another may not,
    the next is tried, each once.
    """

    def __init__(
        self,
        name: str,
        preset: PromptPreset,
        deployments: Sequence[D],
        parameters: Parameters,
        upstreams: UpstreamTable,
    ) -> None:
        """`upstreams` is what the log says of the deployments."""
        self.name = name
        self._upstreams = upstreams
        self._preset = preset
        self._parameters = parameters
        self.deployments = tuple(deployments)
        self._turn = 0

    async def call(self, call: Call) -> Reply:
        # Most experts have no preset: the client's own bytes go upstream.
        fields = call.fields if self._preset.is_plain else self._preset.apply(call)
        if call.endpoint == "embeddings":
            return await self._ask(call, fields)
        while True:
            sent, warnings = self._parameters.adapt(fields)
            try:
                reply = await self._ask(call, sent)
            except UpstreamError as error:
                form = self._parameters.learn(error, sent) if error.kind == "unsupported" else None
                # Ends: each field has two names, and a name that was refused is not tried again.
                if form != "renamed":
                    error.can_adapt = form == "left_out"
                    raise
            else:
                reply.warnings = (*warnings, *reply.warnings)
                return reply

    async def _ask(self, call: Call, fields: Fields) -> Reply:
        """Ask the deployments, one after another."""
        if len(self.deployments) == 1:
            return await self.deployments[0].call(call, fields)
        untried = list(self.deployments)
        while True:
            deployment = self._pick(untried)
            untried.remove(deployment)
            try:
                reply = await deployment.call(call, fields)
            except UpstreamError as error:
                error.deployment = deployment.name
                _note(deployment, error)
                # Another deployment of the same model has the same window: a long prompt moves the plan on
                # instead.
                same = error.context_too_long or error.kind == "unsupported"
                if not error.moves_on or same or not untried:
                    raise
                # The last failure is the expert's, which the plan's executor logs.
                log_failure(self._upstreams.find(self.name, deployment.name), error)
            except BaseException:
                deployment.breaker.release()
                raise
            else:
                deployment.breaker.record_success()
                return reply

    def _pick(self, deployments: Sequence[D]) -> D:
        """The least loaded of those that may be called, in turn among equals; if none may, of all."""
        now = monotonic()
        # Equal load is the usual case: without a turn the first deployment would get everything.
        self._turn += 1
        ready = [
            deployment for deployment in deployments if deployment.breaker.is_available(now)
        ] or deployments
        n = self._turn % len(ready)
        chosen = min([*ready[n:], *ready[:n]], key=lambda deployment: deployment.slots.load)
        chosen.breaker.admit(now)
        return chosen

    def share(self, n_replicas: int) -> None:
        for deployment in self.deployments:
            deployment.slots.share(n_replicas)

    async def close(self) -> None:
        """Nothing is held: connections are the transport's."""


def _note(deployment: CallableDeployment, error: UpstreamError) -> None:
    if error.faults_expert:
        deployment.breaker.record_failure(error, monotonic())
    else:
        deployment.breaker.release()


def build_limit(deployment: DeploymentConfig) -> ConcurrencyLimit:
    """The limit of a deployment's calls, at a time and in a minute."""
    is_rated = deployment.rpm is not None or deployment.tpm is not None
    return ConcurrencyLimit(
        deployment.max_parallel, RateLimit(deployment.rpm, deployment.tpm) if is_rated else None
    )
