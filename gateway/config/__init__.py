"""`thalamus.yaml`: its schema, strict loading with a line in every error, discovery and import."""

from .expert_schema import (
    DEFAULT_LIMITS,
    Ability,
    AnswerLimits,
    DeploymentConfig,
    ExpertConfig,
    RunnerConfig,
    TimeoutConfig,
)
from .loading import ConfigError, config_warnings, load_config, parse_config, read_config_text
from .policy_schema import PolicyConfig, Weights
from .schema import (
    BASE_EMBEDDER,
    Config,
    EmbeddingsConfig,
    JournalConfig,
    LimitsConfig,
    RedisConfig,
    ServerConfig,
)
from .secrets import Secret
from .values import size_bytes, split_command

__all__ = [
    "BASE_EMBEDDER",
    "DEFAULT_LIMITS",
    "Ability",
    "AnswerLimits",
    "Config",
    "ConfigError",
    "DeploymentConfig",
    "EmbeddingsConfig",
    "ExpertConfig",
    "JournalConfig",
    "LimitsConfig",
    "PolicyConfig",
    "RedisConfig",
    "RunnerConfig",
    "Secret",
    "ServerConfig",
    "TimeoutConfig",
    "Weights",
    "config_warnings",
    "load_config",
    "parse_config",
    "read_config_text",
    "size_bytes",
    "split_command",
]
