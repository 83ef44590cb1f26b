"""`thalamus.yaml`: what it may say (`structs`), read strictly (`file`), every complaint with its line."""

from .expert_structs import DeploymentConfig, ExpertConfig, TimeoutConfig
from .file import ConfigError, config_warnings, load_config, parse_config
from .policy_structs import PolicyConfig, Weights
from .secrets import Secret
from .sizes import size_bytes
from .structs import BASE_EMBEDDER, Config, EmbeddingsConfig, JournalConfig, RedisConfig, ServerConfig

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
    "Weights",
    "config_warnings",
    "load_config",
    "parse_config",
    "size_bytes",
]
