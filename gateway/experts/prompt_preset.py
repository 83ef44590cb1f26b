"""Prompt presets: the system prompt, examples and parameters that are added to every call of an expert."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from ..config import ExpertConfig
from .types import Call, Fields

encode = msgspec.json.encode
SAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""Two names of one wish: a default must not contradict the request's own."""


class PromptPreset:
    """Turns a client's fields into those the expert is sent; what it does not concern stays byte for byte."""

    def __init__(self, config: ExpertConfig) -> None:
        turns: list[dict[str, str]] = []
        if config.system:
            turns.append({"role": "system", "content": config.system})
        for example in config.examples:
            turns.append({"role": "user", "content": example.user})
            turns.append({"role": "assistant", "content": example.assistant})
        self._before = encode(turns)[1:-1]
        self._defaults = _raw(config.params)
        self._forced = _raw(config.override_params)
        self._cap = config.max_output_tokens
        self.is_plain = not (turns or self._defaults or self._forced or self._cap)

    def apply(self, call: Call) -> Fields:
        """The fields to send; the client's own where there is nothing to change."""
        if self.is_plain or call.endpoint == "embeddings":
            return call.fields
        fields = dict(call.fields)
        for name, value in self._defaults.items():
            if name not in fields and SAME.get(name) not in fields:
                fields[name] = value
        for name, value in self._forced.items():
            fields.pop(SAME.get(name, ""), None)
            fields[name] = value
        if self._cap is not None:
            _shorten(fields, self._cap)
        if self._before and "messages" in fields:
            # Spliced as bytes: decoding and encoding again could change numbers, escapes and the order of
            # keys.
            rest = bytes(fields["messages"]).lstrip()[1:].lstrip()
            between = b"" if rest.startswith(b"]") else b","
            fields["messages"] = Raw(b"[" + self._before + between + rest)
        return fields


def _shorten(fields: Fields, cap: int) -> None:
    """Lower the length asked for to `cap`, under every name it was asked."""
    for name in [name for name in SAME if name in fields] or ["max_tokens"]:
        try:
            asked = msgspec.json.decode(fields.get(name, b"null"), type=int | None)
        except msgspec.MsgspecError:
            continue  # no length at all: the upstream says so better
        if asked is None or asked > cap:
            fields[name] = Raw(encode(cap))


def _raw(values: Mapping[str, Any]) -> Fields:
    return {name: Raw(encode(value)) for name, value in values.items()}
