"""The configuration: what `thalamus.yaml` may say, as frozen structs.

How a file becomes one of these is in `config_file`; what the pool looks like to a router in `profiles`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from policies import Goal, Lead, Objective, PanelRule, Policy, Require

from .secrets import Secret

Name = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$", description="letters, digits and . _ : @ / + -"),
]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Size = Annotated[
    str, Meta(pattern=r"^\d+(\.\d+)?\s*[kKmMgGtT]?i?B?$", description="a size as 16GiB or 500MB")
]
DeviceName = Annotated[str, Meta(pattern=r"^(cpu|cuda:\d+)$", description="cpu, cuda:0, cuda:1 …")]
IsoDate = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$", description="a date as 2024-07-18")]
Labels = dict[str, str]

BASE_EMBEDDER = "minilm"
"""What the bundled encoder is asked for by; it reads every document."""


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping in the file that knows all its keys."""


class TimeoutConfig(Strict, frozen=True):
    """Seconds allowed per attempt: for a local engine to be loaded and have room; then to connect, to the
    first token, between two tokens, and in all.
    """

    load_s: Seconds = 180.0
    connect_s: Seconds = 5.0
    first_token_s: Seconds = 30.0
    between_tokens_s: Seconds = 30.0
    total_s: Seconds = 600.0


class DeploymentConfig(Strict, frozen=True):
    """One place where an expert is served; several are balanced by load and health.

    `model` is the name sent upstream where it differs from the expert's.
    """

    api_base: str | None = None
    api_key: Secret | None = None
    model: str | None = None
    region: str | None = None
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    max_parallel: Count | None = None


class RunnerConfig(Strict, frozen=True):
    """A local engine that the gateway starts, watches, loads and unloads.

    `cmd` is the command line of the engine `command`; `${PORT}` in it becomes a free port, `${API_KEY}` the
    key that is sent. `memory` is what it holds on `device` while loaded; measured where it is not given.
    `ttl` seconds of idleness unload it; `pinned`, it is loaded at the start and never makes room for another.
    vLLM is started with further `args` and unloaded by sending it to `sleep` (1, or 2 to drop its weights; 0
    ends it). An Ollama daemon is at `url`.
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


class RunnersConfig(Strict, frozen=True):
    """How the local engines share memory.

    `memory` is what they may hold on each device (`16GiB`, or `{cpu: 16GiB, "cuda:0": 80GiB}`); what a device
    has, less a tenth, where nothing is said. `evict` says who makes room first, and nobody waits longer than
    `max_wait_s` while others are served. What the engines write is kept in `logs`.
    """

    memory: str | dict[str, str] | None = None
    evict: Literal["lookahead", "lru", "lfu"] = "lookahead"
    max_wait_s: Seconds = 60.0
    logs: str = ".thalamus/runners"


class Example(Strict, frozen=True):
    """One turn shown to the expert before the conversation."""

    user: str
    assistant: str


class RatingsConfig(Strict, frozen=True):
    """The operator's own marks, on any scale: more is better. What weights on these goals go by."""

    security: float | None = None
    readability: float | None = None

    def given(self) -> frozenset[tuple[str, float]]:
        """Those that were given, by name."""
        marks = {"security": self.security, "readability": self.readability}
        return frozenset((name, mark) for name, mark in marks.items() if mark is not None)


class ExpertConfig(Strict, frozen=True):
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
    examples: tuple[Example, ...] = ()
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

    def places(self) -> tuple[DeploymentConfig, ...]:
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


class ObjectiveConfig(Strict, frozen=True):
    """Weights of the soft goals, in quality (see `policies.Objective`); `first` comes before all of them."""

    cost: NotNegative = 0.0
    latency: NotNegative = 0.0
    size: NotNegative = 0.0
    recency: NotNegative = 0.0
    security: NotNegative = 0.0
    readability: NotNegative = 0.0
    brevity: NotNegative = 0.0
    detail: NotNegative = 0.0
    first: tuple[Lead, ...] = ()
    within: Share = 0.02
    max_usd_per_1k: NotNegative | None = None
    target_quality: Share | None = None

    def objective(self) -> Objective:
        """The same, in the words of `policies`."""
        weights = {goal: getattr(self, goal) for goal in get_args(Goal)}
        return Objective(
            cost=self.cost,
            latency=self.latency,
            goals=tuple((goal, weight) for goal, weight in weights.items() if weight),
            first=self.first,
            within=self.within,
            max_usd_per_1k=self.max_usd_per_1k,
            target_quality=self.target_quality,
        )


class FlagsConfig(Strict, frozen=True):
    """Whether prompts may bear flags, `[Flag: Smallest model]`, and what an unknown one gets."""

    in_band: bool = True
    unknown: Literal["refuse", "warn"] = "warn"


class RequireConfig(Strict, frozen=True):
    """What an expert must meet to be eligible at all."""

    local: bool | None = None
    region: str | None = None
    labels: Labels = msgspec.field(default_factory=dict)
    max_cost_usd: NotNegative | None = None
    max_latency_s: Seconds | None = None
    min_quality: Share | None = None
    models: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def require(self) -> Require:
        """The same, in the words of `policies`."""
        labels = set(self.labels.items())
        if self.local is not None:
            labels.add(("local", "true" if self.local else "false"))
        if self.region is not None:
            labels.add(("region", self.region))
        return Require(
            labels=frozenset(labels),
            max_cost_usd=self.max_cost_usd,
            max_latency_s=self.max_latency_s,
            min_quality=self.min_quality,
            models=None if self.models is None else frozenset(self.models),
            exclude=frozenset(self.exclude),
        )


class PanelConfig(Strict, frozen=True):
    """Several experts answer together, and the `aggregator` makes one answer of theirs.

    `vote` only counts; `auto` asks the expert expected to be best where counting does not decide; a name asks
    that expert.
    """

    k: Annotated[int, Meta(ge=2, le=16)] = 3
    aggregator: str = "auto"
    max_cost_usd: NotNegative | None = None


class PlanConfig(Strict, frozen=True):
    """What is done with whom a policy chooses; one expert is asked where nothing is said."""

    panel: PanelConfig | None = None

    def rule(self) -> PanelRule | None:
        """The panel, in the words of `policies`."""
        panel = self.panel
        return None if panel is None else PanelRule(panel.k, panel.aggregator, panel.max_cost_usd)


class PolicyConfig(Strict, frozen=True):
    """How to choose, by name; `auto` is there even when the file says nothing of it.

    `mapping` names the experts of each category, in order; `thalamus plan mapping` finds the best there is.
    """

    predictor: Literal["blend"] = "blend"
    objective: ObjectiveConfig = ObjectiveConfig()
    require: RequireConfig = RequireConfig()
    encoder: Literal["always", "adaptive", "never"] = "adaptive"
    default: str | None = None
    n_fallbacks: Annotated[int, Meta(ge=0, le=16)] = 2
    explore: Share = 0.0
    mapping: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    flags: FlagsConfig = FlagsConfig()
    plan: PlanConfig = PlanConfig()

    def policy(self, name: str) -> Policy:
        """The same, in the words of `policies`."""
        return Policy(
            name=name,
            objective=self.objective.objective(),
            require=self.require.require(),
            encoder=self.encoder,
            default=self.default,
            n_fallbacks=self.n_fallbacks,
            explore=self.explore,
            mapping=self.mapping or None,
            in_band_flags=self.flags.in_band,
            unknown_flags=self.flags.unknown,
            panel=self.plan.rule(),
        )


class JournalConfig(Strict, frozen=True):
    """Where decisions and outcomes are kept, how long, and whether prompts and answers are kept with them."""

    path: str = ".thalamus/journal.sqlite3"
    content: bool = False
    embeddings: bool = False
    enabled: bool = True
    max_rows: Count = 1_000_000
    max_days: Annotated[float, Meta(gt=0)] = 90.0


class RedisConfig(Strict, frozen=True):
    """Where gateways in front of the same upstreams tell each other of health, load and limits.

    Replicas that give the same `prefix` share one configuration of experts.
    """

    url: Secret
    prefix: str = "thalamus"


class BatchConfig(Strict, frozen=True):
    """Files and batches: where they are kept, and how hard a batch may press.

    `path` is a folder; beside the journal where none is given. `max_parallel` bounds the calls at a time to
    an expert that has no bound of its own. One that has failed for `patience_s` without an answer is given
    up: what is left for it goes to the fallbacks.
    """

    path: str | None = None
    max_file_bytes: Count = 512 * 1024 * 1024
    max_parallel: Count = 16
    patience_s: Seconds = 300.0


class ServerConfig(Strict, frozen=True):
    """Where the gateway listens and who may talk to it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    master_key: Secret | None = None
    workers: Count = 1
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: Count = 64 * 1024 * 1024
    drain_s: Seconds = 30.0


class LoadBudgetConfig(Strict, frozen=True):
    """When the encoder may be consulted: at most `n_waiting` queued, `share` of its threads' time spent."""

    n_waiting: Count = 8
    share: Share = 0.1


class RoutingConfig(Strict, frozen=True):
    """What predictions rest on. `load_budget: off` consults whenever the policy wants to."""

    artifact: str = ".thalamus/artifact"
    embedding_cache: Annotated[int, Meta(ge=0)] = 10_000
    encoder: Literal["minilm", "none"] = "minilm"
    encoder_threads: Annotated[int, Meta(ge=1, le=64)] = 1
    load_budget: LoadBudgetConfig | Literal["off"] = LoadBudgetConfig()


class EmbeddingsConfig(Strict, frozen=True):
    """The embedders served here: the base alone, or with experts that read queries against its index.

    `selection` is a directory that `thalamus embedders add` wrote: who reads which queries, by `policy`.
    `experts` gives folders by name, in place of where the selection has them. `input_type` is what texts are
    taken for where a request says nothing: only `document` can do an index no harm. At most `max_waiting`
    texts wait to be read.
    """

    enabled: bool = True
    selection: str | None = None
    experts: dict[Name, str] = msgspec.field(default_factory=dict)
    policy: Literal["improved", "paper"] = "improved"
    input_type: Literal["document", "query"] = "document"
    n_threads: Annotated[int, Meta(ge=1, le=64)] = 1
    max_waiting: Count = 8192


class Config(Strict, frozen=True):
    """The whole file."""

    experts: tuple[ExpertConfig, ...] = ()
    policies: dict[Name, PolicyConfig] = msgspec.field(default_factory=dict)
    server: ServerConfig = ServerConfig()
    routing: RoutingConfig = RoutingConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    journal: JournalConfig = JournalConfig()
    batches: BatchConfig = BatchConfig()
    timeouts: TimeoutConfig = TimeoutConfig()
    runners: RunnersConfig = RunnersConfig()
    redis: RedisConfig | None = None

    @property
    def batches_path(self) -> Path:
        """The folder of files and batches."""
        return Path(self.batches.path) if self.batches.path else Path(self.journal.path).parent / "batches"

    def policies_by_name(self) -> dict[str, Policy]:
        """Every policy a request can name; `auto` always."""
        return {
            name: config.policy(name) for name, config in {"auto": PolicyConfig(), **self.policies}.items()
        }
