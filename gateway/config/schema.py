"""What `thalamus.yaml` may contain, as frozen structs: the whole file, and what is about the gateway itself.

The text under a field describes the key everywhere: in the JSON schema, in editors and on the reference page.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from policies import Policy

from .client_keys import MASTER
from .expert_schema import AnswerLimits, ExpertConfig, RunnersConfig, TimeoutConfig
from .policy_schema import PolicyConfig
from .secrets import OneOrMoreSecrets, Secret
from .values import AliasName, Count, Days, KeyName, Name, Seconds, Share, StrictStruct

BASE_EMBEDDER = "minilm"
"""Name of the built-in embedder, which reads every document."""


class JournalConfig(StrictStruct, frozen=True):
    """Where decisions and outcomes of requests are kept, and how long."""

    path: str = ".thalamus/journal.sqlite3"
    """SQLite file of the journal."""
    content: bool = False
    """Whether prompts and answers are kept too."""
    enabled: bool = True
    """Whether anything is kept at all."""
    max_rows: Count = 1_000_000
    """Most requests that are kept; older ones are deleted."""
    max_days: Annotated[float, Meta(gt=0)] = 90.0
    """Days after which a request is deleted."""


class RedisConfig(StrictStruct, frozen=True):
    """Shared state of several gateways in front of the same upstreams: waits, load and limits."""

    url: Secret
    """Address, `redis://`, `rediss://` or `unix://`; write it as a reference where it holds a password."""
    prefix: str = "thalamus"
    """Prefix of all keys and channels. Gateways with the same prefix must have the same experts."""


class BatchConfig(StrictStruct, frozen=True):
    """Files and batches."""

    path: str | None = None
    """Folder of files and batches. Default: `batches` beside the journal."""
    max_file_bytes: Count = 512 * 1024 * 1024
    """Largest file that can be uploaded, in bytes."""
    max_stored_bytes_per_key: Count = 16 * 1024**3
    """Most bytes of files and results that belong to one key. Above it the key's uploads and new batches get
    status 413.
    """
    max_stored_bytes: Count = 64 * 1024**3
    """Most bytes of files and results of all keys. Above it uploads and new batches get status 507."""
    file_days: Days | None = 30.0
    """Days after which an uploaded file is deleted, where its upload has no `expires_after`. An empty value
    keeps it until it is deleted.
    """
    output_days: Days | None = 30.0
    """Days after which the results of a batch are deleted, where it has no `output_expires_after`. An empty
    value keeps them until they are deleted.
    """
    max_parallel: Count = 16
    """Most calls of a batch at a time to an expert that has no `max_parallel`."""
    patience_s: Seconds = 300.0
    """Seconds without an answer after which a failing expert is given up, and its lines go to the fallbacks.
    """


class ResponsesConfig(StrictStruct, frozen=True):
    """The responses of `/v1/responses` that clients go on from, with what was asked and answered."""

    enabled: bool = True
    """Whether responses are kept where a client does not send `store: false`. Without it a client sends the
    whole conversation each time.
    """
    path: str | None = None
    """SQLite file of the responses. Default: `responses.sqlite3` beside the journal."""
    days: Days = 30.0
    """Days after which a response is deleted."""
    max_bytes_per_key: Count = 1024**3
    """Most bytes of the responses that belong to one key; above it its oldest are deleted."""
    max_bytes: Count = 4 * 1024**3
    """Most bytes of the responses of all keys; above it the oldest are deleted."""


class LimitsConfig(StrictStruct, frozen=True):
    """What clients may take: bytes, time, connections and turns. All but the last three hold before a key is
    checked. Each of several workers takes an even part of `max_connections`, `max_held_bytes`, `max_running`
    and `max_waiting`, and counts `max_connections_per_address` for itself.
    """

    max_head_bytes: Annotated[int, Meta(ge=1024, le=1024 * 1024)] = 64 * 1024
    """Largest head of a request, its line and all headers, in bytes. It bounds trailers and the framing of
    chunks too.
    """
    max_headers: Count = 128
    """Most headers of a request."""
    max_url_bytes: Count = 8 * 1024
    """Longest address in a request line, in bytes."""
    head_s: Seconds = 10.0
    """Seconds in which a head has to arrive."""
    body_s: Seconds = 600.0
    """Seconds in which a body has to arrive."""
    min_body_bytes_per_s: Annotated[int, Meta(ge=0)] = 1024
    """Least pace of a body after its first ten seconds; 0 asks for none."""
    idle_s: Seconds = 75.0
    """Seconds that a connection may stay open without a request."""
    write_s: Seconds = 30.0
    """Seconds in which a client has to read some of what waits for it; then its connection is closed and its
    upstream call ends.
    """
    max_connections: Count = 4096
    """Most connections. Above it the one that waits longest without a request is closed for a new one; where
    all have one, a new connection gets status 503, except for the health endpoints.
    """
    max_connections_per_address: Count | None = None
    """Most connections from one address. Default: no such bound, as clients may share a proxy."""
    max_held_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 256 * 1024 * 1024
    """Most bytes of request bodies in memory. Above it the largest unfinished one gets status 503."""
    max_running: Count = 1024
    """Most requests that are worked on at once; health endpoints and `/metrics` count as none."""
    max_waiting: Count = 1024
    """Most requests that wait for their turn. Keys take turns; where all places are taken, the key that has
    most of them loses its last one to a key that has fewer.
    """
    max_wait_s: Seconds = 2.0
    """Longest wait for a turn; a request that would wait longer gets status 503 at once."""


class ServerConfig(StrictStruct, frozen=True):
    """Where the gateway listens and which clients it admits."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    """Port to listen on; 0 takes a free one."""
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """Processes that answer requests. More than one use several cores; a further process then owns local
    engines, batches and the journal.
    """
    master_key: Secret | None = None
    """Key that clients must send; write it as a reference, or as `sha256:` and its hash. Without a key here
    or under `keys`, only this machine is admitted.
    """
    keys: dict[KeyName, OneOrMoreSecrets] = msgspec.field(default_factory=dict)
    """Keys of further clients by name, written as `master_key` is, or a list of them while a key is changed.
    Files, batches and decisions belong to the name, so that a new key finds what the former one left.
    """
    allowed_hosts: tuple[str, ...] = ()
    """Further values of the `Host` header that are admitted while there is no key."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the gateway from a browser."""
    max_body_bytes: Count = 64 * 1024 * 1024
    """Largest request body in bytes."""
    max_text_bytes: Count = 8 * 1024 * 1024
    """Most bytes of a request body beside pictures, other attachments, and the middle of long texts."""
    drain_s: Seconds = 30.0
    """Seconds that running requests are given to end after SIGTERM."""
    limits: LimitsConfig = LimitsConfig()
    """What clients may take: bytes, time and connections."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged. `info` has a line for each request, `warning` only what went wrong, `debug`
    also health checks and scrapes. No level logs prompts, answers or keys.
    """
    log_format: Literal["text", "json"] = "text"
    """How the log is written to standard error: lines of text, or of JSON with the same facts."""

    def keys_by_name(self) -> dict[str, tuple[Secret, ...]]:
        """The keys of every client, that of `master_key` under the name `master`."""
        return {**({} if self.master_key is None else {MASTER: (self.master_key,)}), **self.keys}

    @property
    def has_keys(self) -> bool:
        """Whether clients must send a key."""
        return self.master_key is not None or bool(self.keys)


class LoadBudgetConfig(StrictStruct, frozen=True):
    """How much load the encoder may add under the setting `encoder: adaptive`."""

    n_waiting: Count = 8
    """Most prompts that wait for the encoder; further ones are decided without it."""
    share: Share = 0.1
    """Largest share of the time of its threads that the encoder may use."""


class WrappingsConfig(StrictStruct, frozen=True):
    """What programs put around the words of a user, beside what Thalamus knows itself. Routing and tools read
    a prompt without it; experts get every prompt as it came.
    """

    request: tuple[str, ...] = ()
    """Names of elements whose content is the request: `my_ask` for `<my_ask>`, `[MY ASK]` and their like."""
    context: tuple[str, ...] = ()
    """Names of elements that are left out."""
    instructions: tuple[str, ...] = ()
    """Names of elements that are left out and tell how to answer: no tool answers such a request."""
    openings: tuple[str, ...] = ()
    """First words of paragraphs that are left out."""


class SessionsConfig(StrictStruct, frozen=True):
    """Conversations in memory: hashes of their turns, who answered, and what prompt caches hold."""

    max_turns: Count = 20_000
    """Most turns of all conversations that are remembered; the oldest are forgotten first."""
    ttl_s: Seconds = 3600.0
    """Seconds after which a turn is forgotten."""


class RoutingConfig(StrictStruct, frozen=True):
    """What predictions are made with."""

    artifact: str = ".thalamus/artifact"
    """Folder that `thalamus fit` wrote: what was learned about the experts."""
    embedding_cache: Annotated[int, Meta(ge=0)] = 10_000
    """How many prompts the encoder remembers; 0 remembers none."""
    encoder: str = "minilm"
    """The encoder that reads prompts after the static embedder: `minilm`, an encoder's folder, ONNX file, or
    hub id, such as `intfloat/e5-small-v2`; `none` never loads one. It is the one that `thalamus fit
    --encoder` was given.
    """
    encoder_threads: Annotated[int, Meta(ge=1, le=64)] = 1
    """CPU threads of the encoder."""
    load_budget: LoadBudgetConfig | Literal["off"] = LoadBudgetConfig()
    """How much load the encoder may add; `off` uses it whenever the policy asks for it."""
    sessions: SessionsConfig = SessionsConfig()
    """How conversations are remembered, for policies with `affinity`."""
    wrappings: WrappingsConfig = WrappingsConfig()
    """What your programs put around the words of a user, so that prompts are routed without it."""


class EmbeddingsConfig(StrictStruct, frozen=True):
    """The embedding models served at `/v1/embeddings`: a base, and experts that read queries."""

    enabled: bool = True
    """Whether the gateway serves embeddings itself."""
    selection: str | None = None
    """Folder that `thalamus embedders add` wrote: which expert reads which queries."""
    experts: dict[Name, str] = msgspec.field(default_factory=dict)
    """Folders of embedding experts by name, where they have moved since the selection was made."""
    policy: Literal["improved", "paper"] = "improved"
    """The rule by which `auto` chooses an embedding expert: the published one, or the improved one."""
    input_type: Literal["document", "query"] = "document"
    """What texts are where a request does not say. A wrong `query` would damage an index; a wrong `document`
    costs some accuracy.
    """
    n_threads: Annotated[int, Meta(ge=1, le=64)] = 1
    """CPU threads of the embedders."""
    max_waiting: Count = 8192
    """Most texts that wait to be read; further requests get status 429."""


class Config(StrictStruct, frozen=True):
    """The whole file."""

    experts: tuple[ExpertConfig, ...] = ()
    """The models that answer requests."""
    policies: dict[Name, PolicyConfig] = msgspec.field(default_factory=dict)
    """How an expert is chosen, by name: `model: auto` uses the policy `auto`, `model: auto:best` the policy
    `best`.
    """
    aliases: dict[AliasName, str] = msgspec.field(default_factory=dict)
    """Further names for `model`, each with the expert, `auto`, `auto:<policy>` or built-in embedder it stands
    for: `{gpt-4o: auto, cheap: "auto:frugal"}`.
    """
    server: ServerConfig = ServerConfig()
    """Where the gateway listens and which clients it admits."""
    routing: RoutingConfig = RoutingConfig()
    """What predictions are made with."""
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    """The embedding models served here."""
    journal: JournalConfig = JournalConfig()
    """Where decisions and outcomes are kept."""
    batches: BatchConfig = BatchConfig()
    """Files and batches."""
    responses: ResponsesConfig = ResponsesConfig()
    """Responses that are kept for clients of the Responses API."""
    timeouts: TimeoutConfig = TimeoutConfig()
    """Time limits of experts that have none of their own."""
    answers: AnswerLimits = AnswerLimits()
    """How much an upstream may send."""
    runners: RunnersConfig = RunnersConfig()
    """How local engines share memory."""
    redis: RedisConfig | None = None
    """Shared state of several gateways. Default: each gateway is on its own."""

    @property
    def batches_path(self) -> Path:
        """The folder of files and batches."""
        return Path(self.batches.path) if self.batches.path else Path(self.journal.path).parent / "batches"

    @property
    def responses_path(self) -> Path:
        """The file of responses."""
        beside = Path(self.journal.path).parent / "responses.sqlite3"
        return Path(self.responses.path) if self.responses.path else beside

    def policies_by_name(self) -> dict[str, Policy]:
        """Every policy a request can name; `auto` always."""
        return {
            name: config.policy(name) for name, config in {"auto": PolicyConfig(), **self.policies}.items()
        }
