"""Where experts are, and what an operator does about a failure: for logs, for clients and for `doctor`."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from ..config import DeploymentConfig, ExpertConfig
from ..config.providers import ADDRESSES, PROVIDERS, api_base_of
from ..config.secrets import Secret, list_secrets
from ..errors import UpstreamError
from ..telemetry.logs import UPSTREAM, Redactor

KEY_VARIABLES = {
    **{name: provider.key_variable for name, provider in PROVIDERS.items() if provider.key_variable},
    "vertex_ai": "GOOGLE_APPLICATION_CREDENTIALS",
    "bedrock": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "cohere_chat": "COHERE_API_KEY",
    "huggingface": "HF_TOKEN",
}
UNEXPLAINED = frozenset({"refused", "busy", "declined", "library"})
LOCAL_HOSTS = frozenset({"localhost", "host.docker.internal"})
KEYLESS = frozenset({"ollama", "ollama_chat", "hosted_vllm", "llamafile", "lm_studio"})
"""Providers whose servers take calls without a key."""


@dataclass(frozen=True, slots=True)
class UpstreamFacts:
    """One address of an expert in words that hold no secret.

    Attributes:
        address: without user, query and fragment; empty where only LiteLLM knows it.
        key: the variable, or the key of the configuration, that holds its key.
        has_key: whether there is one.
        kind: what runs there.
    """

    expert: str
    model: str = ""
    address: str = ""
    key: str = ""
    has_key: bool = True
    kind: str = "upstream"

    @property
    def host(self) -> str:
        """What a client may know of the address."""
        return urlsplit(self.address).netloc or self.address

    @property
    def is_near(self) -> bool:
        """Whether it is a server of the operator's own."""
        host = urlsplit(self.address).hostname or ""
        try:
            return not ip_address(host).is_global
        except ValueError:
            return host in LOCAL_HOSTS or "." not in host or host.endswith((".local", ".internal", ".lan"))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a call failed and what mends it; `lasts` until the operator acts."""

    why: str = ""
    fix: str = ""
    lasts: bool = False


NOTHING = Explanation()


def describe_upstream(expert: ExpertConfig, deployment: DeploymentConfig) -> UpstreamFacts:
    """One deployment of an expert."""
    base = api_base_of(expert.provider, deployment.api_base)
    if base is None:
        base = next((f"https://{host}" for host, name in ADDRESSES.items() if name == expert.provider), "")
    model = deployment.model or expert.upstream_model
    own = f"api_key of expert '{expert.name}'"
    if deployment.api_key is not None:
        key, has_key = " and ".join(deployment.api_key.variables) or own, True
    elif deployment.headers:
        names = {name for value in deployment.headers.values() for name in value.variables}
        key, has_key = " and ".join(sorted(names)) or f"headers of expert '{expert.name}'", True
    elif signs := _list_credentials(expert, deployment):
        key, has_key = " and ".join(signs), True
    elif deployment.api_base and expert.provider in PROVIDERS:
        # The environment's key goes to the provider's own address only.
        key, has_key = own, False
    else:
        key = KEY_VARIABLES.get(expert.provider, f"{expert.provider.upper()}_API_KEY")
        has_key = all(os.environ.get(name) for name in key.split(" and "))
    return UpstreamFacts(
        expert.name, model, show_address(base) or f"provider {expert.provider}", key, has_key
    )


def _list_credentials(expert: ExpertConfig, deployment: DeploymentConfig) -> list[str]:
    """The variables, or the keys of the configuration, that hold the secrets among a provider's settings."""
    settings = deployment.settings
    given = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return [
        " and ".join(value.variables) or f"settings.{name} of expert '{expert.name}'"
        for name, value in given.items()
        if isinstance(value, Secret)
    ]


def show_address(address: str) -> str:
    """An address without what may be secret in it: user, password, query, fragment."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{port}{parts.path.rstrip('/')}" if host else ""


class UpstreamTable:
    """The upstreams of a configuration by expert and deployment."""

    def __init__(
        self, upstreams: Mapping[str, UpstreamFacts] | None = None, secrets: Collection[str] = ()
    ) -> None:
        self._upstreams = dict(upstreams or {})
        self._redact = Redactor(secrets)

    @classmethod
    def of(cls, experts: Iterable[ExpertConfig]) -> "UpstreamTable":
        """Those of these experts; the first deployment stands for the expert where none is named."""
        experts = tuple(experts)
        upstreams: dict[str, UpstreamFacts] = {}
        for expert in experts:
            if expert.tool is not None:
                upstreams[expert.name] = UpstreamFacts(expert.name, kind="tool")
            elif expert.runner is not None:
                upstreams[expert.name] = UpstreamFacts(expert.name, expert.runner.model, kind="runner")
            else:
                for n, deployment in enumerate(expert.effective_deployments(), start=1):
                    upstream = describe_upstream(expert, deployment)
                    upstreams[f"{expert.name}#{n}"] = upstream
                    upstreams.setdefault(expert.name, upstream)
        return cls(upstreams, list_secrets(experts))

    def hide_secrets(self, error: UpstreamError) -> None:
        """Take keys out of what an expert said: some quote the one they were sent."""
        error.message = self._redact(error.message)
        if error.body is not None:
            text = error.body.decode("utf-8", "surrogateescape")
            error.body = self._redact(text).encode("utf-8", "surrogateescape")

    def find(self, expert: str, deployment: str | None = None) -> UpstreamFacts:
        """The upstream of a call."""
        known = self._upstreams.get(deployment or expert) or self._upstreams.get(expert)
        return known or UpstreamFacts(expert)


def explain_failure(upstream: UpstreamFacts, error: UpstreamError) -> Explanation:
    """Why, in words, and what the operator does."""
    # What misses a package names it; a fault of the request is not the operator's.
    if upstream.kind == "tool" or error.context_too_long or error.kind in UNEXPLAINED:
        return NOTHING
    if error.status in (401, 403) and error.kind == "status":
        return _explain_key(upstream, error.status)
    if error.kind == "quota":
        fix = "add credit to its account at the provider, or raise the limit there"
        return Explanation("its account may not be charged for more", fix, lasts=True)
    if error.kind == "connect":
        return _explain_silence(upstream)
    if error.kind in ("timeout", "stall"):
        return Explanation("", f"raise the timeouts of expert '{upstream.expert}', or see why it is slow")
    if error.status == 429:
        return Explanation("", "wait, or give the expert fallbacks or a limit (rpm, tpm)")
    if error.status is not None and (error.status in (404, 410) or 300 <= error.status < 400):
        fix = f"correct model ({upstream.model}) or api_base of expert '{upstream.expert}'"
        return Explanation("", fix, lasts=True)
    if error.kind == "unsupported":
        return NOTHING
    return Explanation("", _look(upstream))


def _explain_key(upstream: UpstreamFacts, status: int) -> Explanation:
    if not upstream.has_key:
        return Explanation("it asks for a key and none is set", f"set {upstream.key}", lasts=True)
    if status == 401:
        return Explanation("its key is refused", f"set a valid key in {upstream.key}", lasts=True)
    fix = f"set a key in {upstream.key} that may use {upstream.model or 'the model'}"
    return Explanation("its key is refused or may not use the model", fix, lasts=True)


def _explain_silence(upstream: UpstreamFacts) -> Explanation:
    if upstream.kind == "runner":
        return Explanation("", f"see why with `thalamus runners logs {upstream.expert}`")
    if not upstream.address.startswith("http"):
        return Explanation("", "check the network and the settings of its provider")
    if upstream.is_near:
        fix = f"start the server at {upstream.address}, or correct api_base of expert '{upstream.expert}'"
    else:
        fix = f"check the network, the proxy and api_base of expert '{upstream.expert}'"
    return Explanation("", fix, lasts=True)


def _look(upstream: UpstreamFacts) -> str:
    if upstream.kind == "runner":
        return f"see why with `thalamus runners logs {upstream.expert}`"
    if upstream.is_near:
        return f"see the log of the server at {upstream.address}"
    return "see the status page of its provider"


def tell_client(upstream: UpstreamFacts, error: UpstreamError, words: str | None = None) -> str:
    """What the expert did, as a client may know it: no address beyond the host, no key, no text of a 401.

    `words` stand for the expert's own, which are for the client of the request alone.
    """
    explanation = explain_failure(upstream, error)
    # Of a refused key, `why` says more than the message: whether there is one, and where it is set.
    said = error.cause if error.status in (401, 403) and explanation.why else words or error.message
    text = f"{said}: {explanation.why}" if explanation.why else said
    if not explanation.lasts:
        return text
    # The address in a fix is the operator's; a client gets the host beside the expert's name.
    fix = explanation.fix.replace(upstream.address, upstream.host) if upstream.address else explanation.fix
    return f"{text}; the operator must {fix}"


def log_failure(upstream: UpstreamFacts, error: UpstreamError) -> None:
    """One line for the operator: expert, address, cause, fix. A fault of the request is no failure of its
    expert. What the upstream said may quote the prompt or the key, and is left out.
    """
    explanation = explain_failure(upstream, error)
    is_fault = error.faults_expert or explanation.lasts
    level = (30 if error.kind == "busy" or error.status in (429, 503, 529) else 40) if is_fault else 20
    if not UPSTREAM.isEnabledFor(level):
        return
    cause = f"{error.cause}: {explanation.why}" if explanation.why else error.cause
    facts = {
        "expert": upstream.expert,
        "address": upstream.address or None,
        "status": error.status,
        "kind": error.kind,
        "cause": cause,
        "fix": explanation.fix or None,
        "retry_after_s": error.retry_after_s,
    }
    where = f" ({upstream.address})" if upstream.address else ""
    fix = f"; fix: {explanation.fix}" if explanation.fix else ""
    text = f"expert {upstream.expert}{where} {cause}{fix}"
    UPSTREAM.log(level, "%s", text, extra={"event": "upstream_failure", "facts": facts})
