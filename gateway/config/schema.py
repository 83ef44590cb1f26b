"""The configuration: what `thalamus.yaml` may say, as frozen structs.

How a file becomes one of these is in `file.py`; what the pool looks like to a router in `profiles`.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from policies import Policy

from .expert_schema import ExpertConfig, RunnersConfig, TimeoutConfig
from .policy_schema import PolicyConfig
from .secrets import Secret
from .values import Count, Name, Seconds, Share, StrictStruct

BASE_EMBEDDER = "minilm"
"""What the bundled encoder is asked for by; it reads every document."""


class JournalConfig(StrictStruct, frozen=True):
    """Where decisions and outcomes are kept, how long, and whether prompts and answers are kept with them."""

    path: str = ".thalamus/journal.sqlite3"
    content: bool = False
    embeddings: bool = False
    enabled: bool = True
    max_rows: Count = 1_000_000
    max_days: Annotated[float, Meta(gt=0)] = 90.0


class RedisConfig(StrictStruct, frozen=True):
    """Where gateways in front of the same upstreams tell each other of health, load and limits.

    Replicas that give the same `prefix` share one configuration of experts.
    """

    url: Secret
    prefix: str = "thalamus"


class BatchConfig(StrictStruct, frozen=True):
    """Files and batches: where they are kept, and how hard a batch may press.

    `path` is a folder; beside the journal where none is given. `max_parallel` bounds the calls at a time to
    an expert that has no bound of its own. One that has failed for `patience_s` without an answer is given
    up: what is left for it goes to the fallbacks.
    """

    path: str | None = None
    max_file_bytes: Count = 512 * 1024 * 1024
    max_parallel: Count = 16
    patience_s: Seconds = 300.0


class ServerConfig(StrictStruct, frozen=True):
    """Where the gateway listens and who may talk to it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    master_key: Secret | None = None
    workers: Count = 1
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: Count = 64 * 1024 * 1024
    drain_s: Seconds = 30.0


class LoadBudgetConfig(StrictStruct, frozen=True):
    """When the encoder may be consulted: at most `n_waiting` queued, `share` of its threads' time spent."""

    n_waiting: Count = 8
    share: Share = 0.1


class RoutingConfig(StrictStruct, frozen=True):
    """What predictions rest on. `load_budget: off` consults whenever the policy wants to."""

    artifact: str = ".thalamus/artifact"
    embedding_cache: Annotated[int, Meta(ge=0)] = 10_000
    encoder: Literal["minilm", "none"] = "minilm"
    encoder_threads: Annotated[int, Meta(ge=1, le=64)] = 1
    load_budget: LoadBudgetConfig | Literal["off"] = LoadBudgetConfig()


class EmbeddingsConfig(StrictStruct, frozen=True):
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


class Config(StrictStruct, frozen=True):
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
