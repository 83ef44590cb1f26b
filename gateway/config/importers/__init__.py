"""From the configurations of other tools to ours; what has no counterpart is listed."""

from .litellm import import_litellm
from .llama_swap import import_llama_swap
from .result import ImportedConfig, ImportFailedError, ImportNotes

__all__ = ["ImportFailedError", "ImportNotes", "ImportedConfig", "import_litellm", "import_llama_swap"]
