"""`thalamus.yaml`: what it may say (`structs`), read strictly (`file`), every complaint with its line."""

from .file import ConfigError, config_warnings, load_config, parse_config
from .secrets import Secret
from .sizes import size_bytes
from .structs import (
    Config,
    DeploymentConfig,
    ExpertConfig,
    JournalConfig,
    PolicyConfig,
    RedisConfig,
    ServerConfig,
    TimeoutConfig,
)

__all__ = [
    "Config",
    "ConfigError",
    "DeploymentConfig",
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
