"""The JSON schema of `thalamus.yaml`, for editors that complete and check while one writes."""

from typing import Any

import msgspec

from .schema import Config
from .secrets import Secret

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """The schema; a secret is a string, best a reference."""
    schema = msgspec.json.schema(Config, schema_hook=_secret)
    return {"$schema": DIALECT, "title": "thalamus.yaml", **schema}


def _secret(kind: type) -> dict[str, Any]:
    if kind is Secret:
        return {"type": "string", "description": "os.environ/NAME or ${NAME}"}
    raise NotImplementedError
