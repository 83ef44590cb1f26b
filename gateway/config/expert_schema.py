"""The part of `thalamus.yaml` about experts: how each is called, and how local engines share memory.

The text under a field describes the key everywhere: in the JSON schema, in editors and on the reference page.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .secrets import Secret
from .values import Count, DeviceName, IsoDate, Labels, Name, NotNegative, Seconds, Share, Size, StrictStruct

Ability = Literal["vision", "audio", "files", "video", "tools", "json", "audio_output", "image_output"]


class TimeoutConfig(StrictStruct, frozen=True):
    """Time limits of one attempt, in seconds; `total_s` holds over all attempts of a request."""

    load_s: Seconds = 180.0
    """Longest wait until a local engine is loaded and accepts the request."""
    connect_s: Seconds = 5.0
    """Longest wait for a connection to the upstream."""
    first_token_s: Seconds = 300.0
    """Longest silence before the first token of a stream. Any byte ends a silence, also a comment that keeps
    the connection alive; models that think may send nothing for minutes.

    It holds for a whole answer too where another expert or deployment can answer. Such an answer shows
    nothing before it is complete, so an expert is given at least twice the time of its longest of late.
    """
    between_tokens_s: Seconds = 120.0
    """Longest silence after the first token of a stream."""
    total_s: Seconds = 600.0
    """Longest duration of one attempt, and of all attempts of a request together. Where the experts of a plan
    have limits of their own the longest of them counts.
    """


class AnswerLimits(StrictStruct, frozen=True):
    """How much an upstream may send. A call that goes beyond a bound fails as a fault of the expert: before
    the first token the next expert is asked, after it the stream ends with an error event.
    """

    max_bytes: Count = 64 * 1024 * 1024
    """Largest whole answer, in bytes, after decompression."""
    max_embeddings_bytes: Count = 192 * 1024 * 1024
    """Largest answer with embeddings, in bytes, after decompression."""
    max_bytes_in_all: Count = 512 * 1024 * 1024
    """Most bytes of whole answers that are read at the same time. While they are used up, an answer beyond
    1 MiB moves on to the next expert.
    """
    max_error_bytes: Count = 256 * 1024
    """Bytes that are read of an error; the rest is left."""
    max_header_bytes: Count = 8190
    """Longest header of an answer, in bytes. An answer may have 128 headers."""
    max_event_bytes: Count = 16 * 1024 * 1024
    """Largest event of a stream, in bytes."""
    max_bytes_before_token: Count = 1024 * 1024
    """Most bytes of a stream before its first token: comments, and events without a word."""
    max_events_before_token: Count = 20_000
    """Most events of a stream before its first token."""
    max_stream_bytes: Count = 256 * 1024 * 1024
    """Most bytes of a whole stream."""


DEFAULT_LIMITS = AnswerLimits()


class ProviderSettings(StrictStruct, frozen=True):
    """What a provider asks for beside an address and a key, named as LiteLLM names it."""

    api_version: str | None = None
    """Version of the provider's API, such as `2024-10-21` (Azure)."""
    azure_ad_token: Secret | None = None
    """Token of Microsoft Entra ID, used instead of a key."""
    tenant_id: str | None = None
    """Tenant of Microsoft Entra ID."""
    client_id: str | None = None
    """Application that signs in at Microsoft Entra ID."""
    client_secret: Secret | None = None
    """Secret of that application."""
    azure_scope: str | None = None
    """Scope that is asked of Microsoft Entra ID."""
    vertex_project: str | None = None
    """Google Cloud project."""
    vertex_location: str | None = None
    """Google Cloud region, such as `europe-west4`."""
    vertex_credentials: Secret | None = None
    """Google's service account: its JSON, or the path of a file with it."""
    aws_region_name: str | None = None
    """AWS region, such as `us-east-1`."""
    aws_access_key_id: Secret | None = None
    """AWS access key."""
    aws_secret_access_key: Secret | None = None
    """Secret of the AWS access key."""
    aws_session_token: Secret | None = None
    """AWS session token."""
    aws_profile_name: str | None = None
    """Profile of the AWS configuration on this machine."""
    aws_role_name: str | None = None
    """AWS role that is assumed."""
    aws_session_name: str | None = None
    """Name of the session in that role."""
    aws_external_id: str | None = None
    """External identity that the role asks for."""
    aws_web_identity_token: Secret | None = None
    """Token of a web identity that assumes the role."""
    aws_sts_endpoint: str | None = None
    """Address of AWS's token service."""
    aws_bedrock_runtime_endpoint: str | None = None
    """Address of Bedrock, where it is not the region's own."""
    project_id: str | None = None
    """Project of IBM watsonx."""
    space_id: str | None = None
    """Deployment space of IBM watsonx."""
    other: dict[str, Secret] = msgspec.field(default_factory=dict)
    """Settings that are not listed here, such as `{oci_region: eu-frankfurt-1}`, as LiteLLM names them."""

    def as_arguments(self) -> dict[str, str]:
        """What is set, as LiteLLM takes it."""
        given = {name: getattr(self, name) for name in self.__struct_fields__ if name != "other"} | self.other
        return {
            name: value.reveal() if isinstance(value, Secret) else value
            for name, value in given.items()
            if value is not None
        }

    def inherit(self, other: "ProviderSettings") -> "ProviderSettings":
        """These settings, and those of `other` where these have none."""
        missing = {
            name: getattr(other, name) for name in self.__struct_fields__ if getattr(self, name) is None
        }
        return msgspec.structs.replace(self, **missing, other={**other.other, **self.other})


NO_SETTINGS = ProviderSettings()


class DeploymentConfig(StrictStruct, frozen=True):
    """One upstream that serves an expert. Load and health decide which deployment gets a call."""

    api_base: str | None = None
    """Base URL of the OpenAI-compatible API, such as `http://gpu-box:8000/v1`. Default: that of the expert.
    """
    api_key: Secret | None = None
    """Key that is sent to the upstream; write it as a reference. Default: that of the expert."""
    model: str | None = None
    """Model name that is sent to the upstream, where it differs from the expert's."""
    region: str | None = None
    """Region of the deployment, for `require.region`. Default: that of the expert."""
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    """HTTP headers added to every call; they extend those of the expert."""
    max_parallel: Count | None = None
    """Most calls at a time. Default: that of the expert; without one there is no limit."""
    rpm: Count | None = None
    """Most calls in any minute; a further call goes to another deployment or expert. Default: that of the
    expert.
    """
    tpm: Count | None = None
    """Most tokens in any minute, counted when answers end; with them used up, calls go elsewhere. Default:
    that of the expert.
    """
    settings: ProviderSettings = NO_SETTINGS
    """Settings of the provider; they extend those of the expert."""


class LlamaCppConfig(StrictStruct, frozen=True):
    """Settings of llama.cpp beside those that other engines have too, named after what they set."""

    draft_model: str | None = None
    """Small model that proposes tokens for the large one to check: a `.gguf` file or a bundled name."""
    draft_tokens: Count | None = None
    """Most tokens that the draft model proposes at a time. Default: llama.cpp's, 3."""
    draft_gpu_layers: Annotated[int, Meta(ge=0)] | None = None
    """Layers of the draft model kept on the GPU. Default: as many as fit."""
    mmproj: str | None = None
    """Projector that lets the model see or hear, a `.gguf` file; give the expert the ability, too."""
    kv_type: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"] | None = None
    """How the context is kept in memory; `q8_0` halves what it takes. Default: f16."""
    flash_attention: bool | None = None
    """Whether attention is computed in one pass; `kv_type` below f16 needs it. Default: where it can be."""
    grammar: str | None = None
    """Grammar that every answer keeps to, in GBNF or as a `.gbnf` file; a request's own replaces it."""
    pooling: Literal["none", "mean", "cls", "last", "rank"] | None = None
    """How an embedding model makes one vector of many. Default: as the file says."""
    chat_template: str | None = None
    """Template of conversations in Jinja, or a `.jinja` file. Default: that of the model."""
    reasoning: Literal["none", "auto", "deepseek"] | None = None
    """How thoughts are told from the answer: `none` leaves them in its text. Default: `deepseek`, in
    `reasoning_content`.
    """
    loras: tuple[str, ...] = ()
    """LoRA adapters that are always applied to the model, `.gguf` files."""
    batch_tokens: Count | None = None
    """Most tokens of prompts read in one step. Default: llama.cpp's, 2048."""
    ubatch_tokens: Count | None = None
    """Most tokens computed at once. Default: llama.cpp's, 512."""
    rope_freq_base: Annotated[float, Meta(gt=0)] | None = None
    """Base frequency of rotary positions, for windows beyond the trained one. Default: that of the model."""
    rope_freq_scale: Annotated[float, Meta(gt=0)] | None = None
    """Scale of rotary positions. Default: that of the model."""
    context_shift: bool | None = None
    """Whether a full window drops its oldest tokens and goes on. Default: no, the answer ends."""
    kv_on_gpu: bool | None = None
    """Whether the context is kept on the GPU. Default: yes."""
    split_mode: Literal["none", "layer", "row"] | None = None
    """How a model is shared between several GPUs. Default: by layer."""
    tensor_split: tuple[Annotated[float, Meta(ge=0)], ...] = ()
    """Share of the model on each GPU, such as `[3, 1]`. Default: as memory is free."""

    def as_options(self) -> tuple[tuple[str, Any], ...]:
        """What is set, by name."""
        given = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return tuple((name, value) for name, value in given if value not in (None, ()))


NO_LLAMA_CPP = LlamaCppConfig()


class ExampleTurn(StrictStruct, frozen=True):
    """One exchange that is put before the conversation."""

    user: str
    """What the user says."""
    assistant: str
    """What the expert answers."""


class AdapterConfig(StrictStruct, frozen=True):
    """An adapter of a local model, and what its expert has of its own."""

    path: str
    """The adapter: a `.gguf` file or one that is bundled, such as `bundled/smollm2-sort` (llama.cpp), or a
    folder or repository in PEFT's format (vLLM).
    """
    scale: Annotated[float, Meta(gt=0)] = 1.0
    """How strongly it is applied (llama.cpp); 1 is as it was trained."""
    system: str | None = None
    """System message put before every conversation. Default: that of the base model's expert."""
    examples: tuple[ExampleTurn, ...] | None = None
    """Example exchanges put before every conversation; `[]` for none. Default: those of the base model's
    expert.
    """
    params: dict[str, Any] | None = None
    """Request fields that are used where the request does not set them. Default: those of the base model's
    expert.
    """
    quality: Share | None = None
    """Expected quality from 0 to 1, until outcomes are learned. Default: that of the base model's expert."""
    labels: Labels = msgspec.field(default_factory=dict)
    """Labels for `require.labels`; they extend those of the base model's expert."""


class RunnerConfig(StrictStruct, frozen=True):
    """A local engine that the gateway starts, supervises, loads and unloads."""

    model: str
    """What the engine loads: a file, a folder, a repository name, or `bundled/smollm2-135m`."""
    engine: Literal["llama.cpp", "transformers", "vllm", "ollama", "command"] = "llama.cpp"
    """The program that runs the model; `command` runs the command line in `cmd`."""
    context_tokens: Count = 4096
    """Context window of each request, in tokens."""
    n_threads: Count | None = None
    """CPU threads. Default: half of the usable cores."""
    n_gpu_layers: Annotated[int, Meta(ge=0)] | None = None
    """Layers kept on the GPU (llama.cpp). Default: as many as fit."""
    n_parallel: Count | None = None
    """Requests served at a time; further requests wait in the gateway's queue. Default: what the engine can.
    vLLM has its own limit (256 are sent to it), llama.cpp up to 4 slots (8 on a GPU) as memory allows,
    `transformers` 4 (16), Ollama `OLLAMA_NUM_PARALLEL` or 4, a command what its arguments say or 4.
    """
    llama_cpp: LlamaCppConfig = NO_LLAMA_CPP
    """Further settings of llama.cpp, such as a draft model (engine `llama.cpp` only)."""
    adapters: dict[Name, str | AdapterConfig] = msgspec.field(default_factory=dict)
    """LoRA adapters by name (engines `llama.cpp` and `vllm`): a path, or a section. Each becomes an expert of
    that name, like this one but with its adapter; all share one loaded model. This expert itself answers
    without any.
    """
    args: tuple[str, ...] = ()
    """Further command line arguments (engine `vllm` only)."""
    cmd: str | tuple[str, ...] = ()
    """Command line (engine `command` only). `${PORT}` becomes a free port, `${API_KEY}` the key that is sent.
    """
    env: dict[str, Secret] = msgspec.field(default_factory=dict)
    """Environment variables of the process, with the replacements of `cmd`; hidden from process lists."""
    url: str | None = None
    """Address of a running daemon (engine `ollama` only)."""
    health_path: Annotated[str, Meta(pattern="^/")] | None = None
    """Path that answers 200 when the engine is ready (engine `command` only)."""
    device: DeviceName | None = None
    """Device that holds the model. Default: the engine's choice."""
    memory: Size | None = None
    """Memory that the loaded model holds on its device. Default: measured at the first load."""
    ttl: Count | None = None
    """Seconds without a request after which the engine is unloaded. Default: never."""
    pinned: bool = False
    """Load the engine at the start and never evict it to make room for another."""
    sleep: Literal[0, 1, 2] | None = None
    """How vLLM is unloaded: 0 ends the process, 1 moves its weights to main memory, 2 drops its weights.
    Default: 1.
    """
    canary: bool = True
    """Ask a test question after each load, and send no traffic before the answer is sound."""

    def find_adapter(self, name: str) -> AdapterConfig | None:
        """The adapter of this name; None where there is none."""
        given = self.adapters.get(name)
        return AdapterConfig(given) if isinstance(given, str) else given


class RunnersConfig(StrictStruct, frozen=True):
    """How local engines share memory."""

    memory: str | dict[str, str] | None = None
    """What local engines may hold on each device: `16GiB`, or `{cpu: 16GiB, "cuda:0": 80GiB}`. Default: nine
    tenths of what each device has.
    """
    evict: Literal["lookahead", "lru", "lfu"] = "lookahead"
    """Which loaded engine makes room first: the one needed latest, the least recently or the least often
    used.
    """
    max_wait_s: Seconds = 60.0
    """Longest wait for an engine while others are served, in seconds; after it the waiting engine goes first.
    """
    batch_grace_s: Seconds = 5.0
    """Longest time in seconds that calls of batches in flight keep a live request waiting for an engine.
    After it they are cut off and made again later, each time with twice as long.
    """
    logs: str = ".thalamus/runners"
    """Folder for the logs of the engines."""


class RatingsConfig(StrictStruct, frozen=True):
    """Marks given by the operator, on any scale: more is better. Weights on these goals use them."""

    security: float | None = None
    """How well the expert does where security matters."""
    readability: float | None = None
    """How readable the expert's answers are."""

    def as_pairs(self) -> frozenset[tuple[str, float]]:
        """The marks that are set, by name."""
        marks = {"security": self.security, "readability": self.readability}
        return frozenset((name, mark) for name, mark in marks.items() if mark is not None)


class PromptCacheConfig(StrictStruct, frozen=True):
    """The prompt cache of a provider."""

    lifetime_s: Seconds = 300.0
    """Seconds after its last use for which a prompt is kept."""
    least_tokens: Count = 1024
    """Shorter prompts are not kept."""
    step_tokens: Count = 1
    """Prompts are kept in steps of so many tokens."""


class ExpertConfig(StrictStruct, frozen=True):
    """A model that answers requests: remote (`model`), local (`runner`), or a tool (`tool`)."""

    name: Name
    """The name that clients and policies use."""
    model: str = ""
    """`provider/model`, such as `openai/gpt-5-mini`; installed packages can offer more providers. Runners and
    tools need none.
    """
    api_base: str | None = None
    """Base URL of the OpenAI-compatible API. Default: the provider's own."""
    api_key: Secret | None = None
    """Key that is sent to the upstream; write it as a reference: `os.environ/OPENAI_API_KEY`."""
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    """HTTP headers added to every call."""
    settings: ProviderSettings = NO_SETTINGS
    """Settings of the provider, such as `api_version`, `vertex_project` or `aws_region_name`."""
    max_parallel: Count | None = None
    """Most calls at a time to each deployment. Default: no limit."""
    rpm: Count | None = None
    """Most calls in any minute to each deployment. Default: no limit."""
    tpm: Count | None = None
    """Most tokens in any minute of each deployment, as its answers count them, else estimated. Default: no
    limit.
    """
    deployments: tuple[DeploymentConfig, ...] = ()
    """Several upstreams of the same model. What a deployment leaves out, it takes from the expert."""
    runner: RunnerConfig | None = None
    """A local engine that the gateway runs itself."""
    tool: str | None = None
    """A tool that answers without a language model: `calculator`, or one that an installed package offers."""
    system: str | None = None
    """System message put before every conversation."""
    examples: tuple[ExampleTurn, ...] = ()
    """Example exchanges put before every conversation."""
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    """Request fields that are used where the request does not set them, such as `{temperature: 0}`."""
    override_params: dict[str, Any] = msgspec.field(default_factory=dict)
    """Request fields that replace those of the request."""
    unsupported_params: Literal["drop", "refuse"] = "drop"
    """What happens to a wish that the model does not take, such as `temperature` at a reasoning model: `drop`
    leaves it out and warns in `x-thalamus-warning`, `refuse` asks the next expert instead.
    """
    max_output_tokens: Count | None = None
    """Longest answer in tokens; it limits the request and `params` too."""
    input_cost_per_token: NotNegative | None = None
    """Price of an input token in USD. Default: LiteLLM's price table; 0 for local experts."""
    output_cost_per_token: NotNegative | None = None
    """Price of an output token in USD. Default: LiteLLM's price table; 0 for local experts."""
    cached_input_cost_per_token: NotNegative | None = None
    """Price of an input token that the provider reads from its prompt cache, in USD. Default: LiteLLM's price
    table.
    """
    prompt_cache: PromptCacheConfig | None = None
    """What the provider keeps of a prompt, and how long. Default: what is published of OpenAI, Anthropic,
    DeepSeek and Gemini; of others what their counts of cached tokens show.
    """
    context_window: Count | None = None
    """Context window in tokens. Default: that of the runner, or LiteLLM's table."""
    abilities: frozenset[Ability] | None = None
    """What the expert supports beyond text: it reads `vision`, `audio`, `files` or `video`, answers with
    `audio_output` or `image_output`, and takes `tools` or `json`. Default: LiteLLM's table; nothing for local
    experts.
    """
    content_parts: frozenset[str] = frozenset()
    """Types of content parts that the expert reads beside OpenAI's, such as `pointcloud`."""
    region: str | None = None
    """Where the expert is served, for `require.region`."""
    local: bool = False
    """Whether prompts stay with the operator, for `require.local`. Runners and tools are always local."""
    labels: Labels = msgspec.field(default_factory=dict)
    """Labels of your own, for `require.labels`."""
    quality: Share | None = None
    """Expected quality from 0 to 1, used until outcomes of this expert are learned.

    Beside experts with outcomes it counts for at most their mean.
    """
    latency_s: Seconds | None = None
    """Expected latency in seconds, used until outcomes of this expert are learned."""
    parameters_b: Annotated[float, Meta(gt=0)] | None = None
    """Size in billions of parameters, for the goals `size` and `smallest`. Default: read from a model name
    such as `llama-3.1-8b`.
    """
    released: IsoDate | None = None
    """Release date, for the goals `recency` and `latest`."""
    ratings: RatingsConfig = RatingsConfig()
    """Your own marks, for the goals `security` and `readability`."""
    timeouts: TimeoutConfig | None = None
    """Time limits of this expert. Default: the section `timeouts`."""
    embeds: bool = False
    """Whether this is an embedding model. It is called by name only, never by `auto`."""

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
        """Whether prompts that are sent there stay with the operator."""
        return self.local or self.runner is not None or self.tool is not None

    def derive_adapters(self) -> "Iterator[ExpertConfig]":
        """An expert for each adapter of the runner; they have the same runner, so that they share it."""
        runner = self.runner
        for name in runner.adapters if runner is not None else ():
            if runner is not None and (adapter := runner.find_adapter(name)) is not None:
                # Evidence belongs to a name and a model: with another file or scale it is another model.
                strength = "" if adapter.scale == 1.0 else f"*{adapter.scale:g}"
                yield msgspec.structs.replace(
                    self,
                    name=name,
                    model=f"{self.model}+{adapter.path}{strength}",
                    system=self.system if adapter.system is None else adapter.system,
                    examples=self.examples if adapter.examples is None else adapter.examples,
                    params=self.params if adapter.params is None else adapter.params,
                    quality=self.quality if adapter.quality is None else adapter.quality,
                    labels={**self.labels, **adapter.labels},
                )

    def effective_deployments(self) -> tuple[DeploymentConfig, ...]:
        """All deployments; an expert without a list has one, made of its own fields."""
        own = DeploymentConfig(
            api_base=self.api_base,
            api_key=self.api_key,
            region=self.region,
            headers=self.headers,
            max_parallel=self.max_parallel,
            rpm=self.rpm,
            tpm=self.tpm,
            settings=self.settings,
        )
        # `or (own,)`: callers loop over deployments and need no case for an expert without a list.
        return tuple(_inherit(deployment, own) for deployment in self.deployments) or (own,)


def _inherit(deployment: DeploymentConfig, own: DeploymentConfig) -> DeploymentConfig:
    return DeploymentConfig(
        api_base=deployment.api_base or own.api_base,
        api_key=deployment.api_key or own.api_key,
        model=deployment.model,
        region=deployment.region or own.region,
        headers={**own.headers, **deployment.headers},
        max_parallel=deployment.max_parallel or own.max_parallel,
        rpm=deployment.rpm or own.rpm,
        tpm=deployment.tpm or own.tpm,
        settings=deployment.settings.inherit(own.settings),
    )
