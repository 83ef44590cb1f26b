"""Who can be asked, where, and how local engines share memory."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .secrets import Secret
from .values import Count, DeviceName, IsoDate, Labels, Name, NotNegative, Seconds, Share, Size, StrictStruct


class TimeoutConfig(StrictStruct, frozen=True):
    """Seconds allowed per attempt: for a local engine to be loaded and have room; then to connect, to the
    first token, between two tokens, and in all.
    """

    load_s: Seconds = 180.0
    connect_s: Seconds = 5.0
    first_token_s: Seconds = 30.0
    between_tokens_s: Seconds = 30.0
    total_s: Seconds = 600.0


class DeploymentConfig(StrictStruct, frozen=True):
    """One place where an expert is served; several are balanced by load and health.

    `model` is the name sent upstream where it differs from the expert's.
    """

    api_base: str | None = None
    api_key: Secret | None = None
    model: str | None = None
    region: str | None = None
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    max_parallel: Count | None = None


class RunnerConfig(StrictStruct, frozen=True):
    """A local engine that the gateway starts, watches, loads and unloads.

    `cmd` is the command line of the engine `command`; `${PORT}` in it or in `env` becomes a free port,
    `${API_KEY}` the key that is sent (in `env` no process list shows it). `memory` is what it holds on
    `device` while loaded; measured where it is not given. `ttl` seconds of idleness unload it; `pinned`, it
    is loaded at the start and never makes room for another. vLLM is started with further `args` and unloaded
    by sending it to `sleep` (1, or 2 to drop its weights; 0 ends it). An Ollama daemon is at `url`.
    """

    model: str
    engine: Literal["llama.cpp", "transformers", "vllm", "ollama", "command"] = "llama.cpp"
    context_tokens: Count = 4096
    n_threads: Count | None = None
    n_gpu_layers: Annotated[int, Meta(ge=0)] | None = None
    n_parallel: Count = 2
    args: tuple[str, ...] = ()
    cmd: str | tuple[str, ...] = ()
    env: dict[str, Secret] = msgspec.field(default_factory=dict)
    url: str | None = None
    health_path: Annotated[str, Meta(pattern="^/")] | None = None
    device: DeviceName | None = None
    memory: Size | None = None
    ttl: Count | None = None
    pinned: bool = False
    sleep: Literal[0, 1, 2] | None = None
    canary: bool = True


class RunnersConfig(StrictStruct, frozen=True):
    """How the local engines share memory.

    `memory` is what they may hold on each device (`16GiB`, or `{cpu: 16GiB, "cuda:0": 80GiB}`); what a device
    has, less a tenth, where nothing is said. `evict` says who makes room first, and nobody waits longer than
    `max_wait_s` while others are served. What the engines write is kept in `logs`.
    """

    memory: str | dict[str, str] | None = None
    evict: Literal["lookahead", "lru", "lfu"] = "lookahead"
    max_wait_s: Seconds = 60.0
    logs: str = ".thalamus/runners"


class ExampleTurn(StrictStruct, frozen=True):
    """One turn shown to the expert before the conversation."""

    user: str
    assistant: str


class RatingsConfig(StrictStruct, frozen=True):
    """The operator's own marks, on any scale: more is better. What weights on these goals go by."""

    security: float | None = None
    readability: float | None = None

    def as_pairs(self) -> frozenset[tuple[str, float]]:
        """Those that were given, by name."""
        marks = {"security": self.security, "readability": self.readability}
        return frozenset((name, mark) for name, mark in marks.items() if mark is not None)


class ExpertConfig(StrictStruct, frozen=True):
    """A servable model: remote (`model`, `api_base`, `deployments`), local (`runner`), or a tool (`tool`).

    `params` are used where the request says nothing, `override_params` whatever it says; no answer is longer
    than `max_output_tokens`, whatever either says. `local` declares
    that prompts sent there do not leave the house; runners and tools are local anyway. `parameters_b` counts
    billions; where it is not given, a model's name may tell it (`llama-3.1-8b`).
    """

    name: Name
    model: str = ""
    api_base: str | None = None
    api_key: Secret | None = None
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    max_parallel: Count | None = None
    deployments: tuple[DeploymentConfig, ...] = ()
    runner: RunnerConfig | None = None
    tool: Literal["calculator"] | None = None
    system: str | None = None
    examples: tuple[ExampleTurn, ...] = ()
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    override_params: dict[str, Any] = msgspec.field(default_factory=dict)
    max_output_tokens: Count | None = None
    input_cost_per_token: NotNegative | None = None
    output_cost_per_token: NotNegative | None = None
    context_window: Count | None = None
    abilities: frozenset[Literal["vision", "tools", "json"]] | None = None
    region: str | None = None
    local: bool = False
    labels: Labels = msgspec.field(default_factory=dict)
    quality: Share | None = None
    latency_s: Seconds | None = None
    parameters_b: Annotated[float, Meta(gt=0)] | None = None
    released: IsoDate | None = None
    ratings: RatingsConfig = RatingsConfig()
    timeouts: TimeoutConfig | None = None
    embeds: bool = False

    @property
    def provider(self) -> str:
        """The part of `model` before the first slash, as LiteLLM names providers."""
        return self.model.partition("/")[0]

    @property
    def upstream_model(self) -> str:
        """The name the upstream knows: `model` without its provider."""
        return self.model.partition("/")[2] or self.model

    @property
    def is_local(self) -> bool:
        """Whether what is sent there stays here."""
        return self.local or self.runner is not None or self.tool is not None

    def effective_deployments(self) -> tuple[DeploymentConfig, ...]:
        """All deployments; an expert without a list has one, made of its own fields."""
        own = DeploymentConfig(
            api_base=self.api_base,
            api_key=self.api_key,
            region=self.region,
            headers=self.headers,
            max_parallel=self.max_parallel,
        )
        return tuple(_inherit(place, own) for place in self.deployments) or (own,)


def _inherit(place: DeploymentConfig, own: DeploymentConfig) -> DeploymentConfig:
    return DeploymentConfig(
        api_base=place.api_base or own.api_base,
        api_key=place.api_key or own.api_key,
        model=place.model,
        region=place.region or own.region,
        headers={**own.headers, **place.headers},
        max_parallel=place.max_parallel or own.max_parallel,
    )
