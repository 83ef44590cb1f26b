"""`thalamus.yaml`: what it may say (`structs`), read strictly (`file`), every complaint with its line."""

from .file import ConfigError, config_warnings, load_config, parse_config
from .secrets import Secret
from .sizes import size_bytes
from .structs import (
    BASE_EMBEDDER,
    Config,
    DeploymentConfig,
    EmbeddingsConfig,
    ExpertConfig,
    JournalConfig,
    PolicyConfig,
    RedisConfig,
    ServerConfig,
    TimeoutConfig,
)

__all__ = [
    "BASE_EMBEDDER",
    "Config",
    "ConfigError",
    "DeploymentConfig",
    "EmbeddingsConfig",
    "ExpertConfig",
    "JournalConfig",
    "PolicyConfig",
    "RedisConfig",
    "Secret",
    "ServerConfig",
    "TimeoutConfig",
    "config_warnings",
    "load_config",
    "parse_config",
    "size_bytes",
]
