"""The body of a request, field by field: what is not looked at stays as it came."""

import msgspec
from msgspec import Raw

from ..errors import ForbiddenField, InvalidField, InvalidJson
from ..experts.types import Fields

FORBIDDEN = frozenset(
    {
        "api_base",
        "base_url",
        "api_key",
        "api_version",
        "api_type",
        "azure_ad_token",
        "azure_ad_token_provider",
        "azure_endpoint",
        "custom_llm_provider",
        "default_headers",
        "extra_headers",
        "aws_access_key_id",
        "aws_bedrock_runtime_endpoint",
        "aws_profile_name",
        "aws_region_name",
        "aws_role_name",
        "aws_secret_access_key",
        "aws_session_name",
        "aws_session_token",
        "aws_sts_endpoint",
        "aws_web_identity_token",
        "litellm_credential_name",
        "litellm_params",
        "vertex_ai_credentials",
        "vertex_ai_location",
        "vertex_ai_project",
        "vertex_credentials",
        "vertex_location",
        "vertex_project",
    }
)
"""Fields by which a client would choose where its request goes, or with whose key."""

_fields = msgspec.json.Decoder(Fields)
_text = msgspec.json.Decoder(str)


def read_fields(body: bytes) -> Fields:
    """The fields of a JSON object, each as its own bytes.

    Raises:
        InvalidJson: it is no JSON object, or not UTF-8.
        ForbiddenField: it tries to say where the request should go.
    """
    try:
        if not body.isascii():
            body.decode()
        fields = _fields.decode(body)
    except msgspec.ValidationError:
        raise InvalidJson("the body must be a JSON object") from None
    except UnicodeDecodeError as error:
        raise InvalidJson(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except msgspec.DecodeError as error:
        raise InvalidJson(f"the body is not valid JSON: {error}" if body else "the body is empty") from None
    except RecursionError:
        raise InvalidJson("the body is nested too deeply") from None
    for name in FORBIDDEN.intersection(fields):
        raise ForbiddenField(
            f"'{name}' is not for clients to choose: upstreams and keys are the operator's; leave it out",
            param=name,
        )
    return fields


def text_field(fields: Fields, name: str) -> str:
    """A required field that must be a non-empty string.

    Raises:
        InvalidField: it is missing, empty or of another type.
    """
    raw = fields.get(name)
    if raw is None:
        raise InvalidField(f"'{name}' is missing; it must be a string", param=name)
    try:
        text = _text.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidField(f"'{name}' must be a string", param=name) from None
    if not text:
        raise InvalidField(f"'{name}' must not be empty", param=name)
    return text


def flag_field(fields: Fields, name: str) -> bool:
    """An optional boolean; missing and null are False.

    Raises:
        InvalidField: it is something else.
    """
    raw = fields.get(name)
    if raw is None:
        return False
    word = bytes(raw[:6]) if isinstance(raw, bytes) else bytes(memoryview(raw)[:6])
    if word == b"true":
        return True
    if word in (b"false", b"null"):
        return False
    raise InvalidField(f"'{name}' must be true or false", param=name)


def list_field(fields: Fields, name: str) -> Raw:
    """A required field that must be a non-empty list; its items are not looked at.

    Raises:
        InvalidField: it is missing, empty or no list.
    """
    raw = fields.get(name)
    if raw is None:
        raise InvalidField(f"'{name}' is missing; it must be a list", param=name)
    head = bytes(memoryview(raw)[:32])
    if not head.startswith(b"["):
        raise InvalidField(f"'{name}' must be a list", param=name)
    if head[1:].lstrip().startswith(b"]"):
        raise InvalidField(f"'{name}' must not be empty", param=name)
    return raw
