"""Experts that speak OpenAI's protocol: bodies pass through, several deployments share the work."""

from ..config import DeploymentConfig, ExpertConfig, TimeoutConfig
from ..config.providers import api_base_of, api_key_of
from .deployments import DeployedExpert, Deployment, build_limit
from .http_client import Address, Transport
from .parameters import Parameters
from .prompt_preset import PromptPreset
from .types import Endpoint
from .upstreams import UpstreamTable

ENDPOINTS: tuple[Endpoint, ...] = ("chat/completions", "completions", "embeddings")


class OpenAIExpert(DeployedExpert[Deployment]):
    """An expert that speaks OpenAI's protocol."""


def openai_expert(config: ExpertConfig, timeouts: TimeoutConfig, transport: Transport) -> OpenAIExpert:
    """The expert that a configuration describes.

    Raises:
        ValueError: neither the configuration nor the provider gives its address, or a header cannot be sent.
    """
    deployments = [
        _build_deployment(n, deployment, config, timeouts, transport)
        for n, deployment in enumerate(config.effective_deployments(), start=1)
    ]
    upstreams = UpstreamTable.of([config])
    return OpenAIExpert(
        config.name, PromptPreset(config), deployments, Parameters(config), upstreams, timeouts.total_s
    )


def _build_deployment(
    n: int, deployment: DeploymentConfig, config: ExpertConfig, timeouts: TimeoutConfig, transport: Transport
) -> Deployment:
    base = api_base_of(config.provider, deployment.api_base)
    if base is None:
        raise ValueError(
            f"experts '{config.name}': api_base is missing; {config.provider} has no address of its own"
        )
    key = api_key_of(
        config.provider, deployment.api_key.reveal() if deployment.api_key else None, deployment.api_base
    )
    headers = {"authorization": f"Bearer {key}"} if key else {}
    headers |= {name: value.reveal() for name, value in deployment.headers.items()}
    try:
        addresses = {
            endpoint: Address(
                transport, f"{base.rstrip('/')}/{endpoint}", headers, timeouts.connect_s, config.is_local
            )
            for endpoint in ENDPOINTS
        }
    except ValueError as error:
        raise ValueError(f"experts '{config.name}': {error}") from error
    return Deployment(
        f"{config.name}#{n}",
        deployment.model or config.upstream_model,
        addresses,
        timeouts,
        build_limit(deployment),
    )
