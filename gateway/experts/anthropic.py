"""Anthropic's models: straight through for clients that speak its API, by LiteLLM for those of chat."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace

import msgspec
from msgspec import Raw

from ..anthropic.events import MessageEventSplitter, check_message, read_message_text
from ..anthropic.requests import FORMAT, drop_foreign_thinking
from ..config import DeploymentConfig, ExpertConfig, TimeoutConfig
from ..openai.events import EventStream
from ..openai.translation import Translation
from .deployments import (
    CLIENT_ERRORS,
    KEPT_OF_LONGEST,
    build_reader,
    limit_silence_s,
    read_body,
    status_failure,
    transport_failure,
)
from .http_client import Address, Transport, UpstreamResponse
from .litellm import LibraryLoader, LiteLLMDeployment, LiteLLMExpert
from .parameters import Parameters
from .types import Call, Endpoint, Fields, Reply, UpstreamError

ADDRESS = "https://api.anthropic.com"
KEY_VARIABLE = "ANTHROPIC_API_KEY"
VERSION = "2023-06-01"
PASSED_HEADERS = (b"anthropic-version", b"anthropic-beta")
"""What of the client's headers goes on: the form of the request is told there."""
OWN_FIELDS = ("router",)
ENDPOINT: Endpoint = "chat/completions"
encode = msgspec.json.encode


class AnthropicDeployment(LiteLLMDeployment):
    """One address of Anthropic's API."""

    def __init__(
        self,
        name: str,
        model: str,
        config: DeploymentConfig,
        timeouts: TimeoutConfig,
        loader: LibraryLoader,
        parameters: Parameters,
        build_address: Callable[[str], Address],
    ) -> None:
        """`model` is `provider/model`; `build_address` gives the address of a path below `/v1`."""
        super().__init__(name, model, config, timeouts, loader, parameters)
        self._model = Raw(encode(model.partition("/")[2]))
        self._messages = build_address("messages")
        self._count = build_address("messages/count_tokens")

    async def call(self, call: Call, fields: Fields) -> Reply:
        translation = call.translation
        if translation is None or fields is not translation.original:
            return await super().call(call, fields)
        await self.slots.acquire(self._timeouts.first_token_s)
        reply: Reply | None = None
        try:
            body, headers = self._build(translation)
            reply = await (self._stream(body, headers) if call.stream else self._whole(body, headers, call))
        except CLIENT_ERRORS as error:
            raise transport_failure(error) from error
        finally:
            if reply is None or reply.events is None:
                self.slots.release()
        if self.slots.rate is not None:
            reply.when_counted(self.slots.rate.charge, call)
        return reply

    async def count_tokens(self, translation: Translation) -> bytes:
        """Anthropic's own count of a request, as it answers it.

        Raises:
            UpstreamError: there is no answer.
        """
        body, headers = self._build(translation)
        try:
            deadline = asyncio.get_running_loop().time() + self._timeouts.first_token_s
            response = await self._count.send(body, deadline, deadline, headers)
            answer = await read_body(response, self._count.transport, ENDPOINT)
        except CLIENT_ERRORS as error:
            raise transport_failure(error) from error
        if response.status != 200:
            raise status_failure(response, answer)
        return answer

    def _build(self, translation: Translation) -> tuple[bytes, dict[str, str]]:
        """The client's body with the model of this address, and the headers that belong to it."""
        fields = drop_foreign_thinking(translation.original or {})
        sent = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
        given = translation.headers
        passed = {name.decode(): given[name].decode("latin-1") for name in PASSED_HEADERS if name in given}
        return encode({**sent, "model": self._model}), {"anthropic-version": VERSION, **passed}

    async def _whole(self, body: bytes, headers: dict[str, str], call: Call) -> Reply:
        clock = asyncio.get_running_loop().time
        start, total_s = clock(), self._timeouts.total_s
        limit_s = limit_silence_s(call, self._timeouts, self._longest_s)
        response = await self._messages.send(body, start + limit_s, start + total_s, headers)
        answer = await read_body(response, self._messages.transport, ENDPOINT)
        self._longest_s = max(clock() - start, KEPT_OF_LONGEST * self._longest_s)
        if response.status != 200:
            raise status_failure(response, answer)
        return Reply(
            body=answer, usage=check_message(answer), deployment=self.name, read_native=read_message_text
        )

    async def _stream(self, body: bytes, headers: dict[str, str]) -> Reply:
        address, first_token_s = self._messages, self._timeouts.first_token_s
        start = asyncio.get_running_loop().time()
        response = await address.send(body, start + first_token_s, more=headers)
        try:
            if response.status != 200:
                async with asyncio.timeout_at(start + first_token_s):
                    raise status_failure(response, await read_body(response, address.transport, ENDPOINT))
            limits = address.transport.limits
            events = EventStream(
                build_reader(response),
                self._build_closer(response),
                first_token_s=first_token_s,
                between_s=self._timeouts.between_tokens_s,
                end_at=start + self._timeouts.total_s,
                limits=limits,
                splitter=MessageEventSplitter(limits),
            )
            await events.open()
        except BaseException:
            response.close()
            raise
        return Reply(events=events, deployment=self.name, read_native=read_message_text)

    def _build_closer(self, response: UpstreamResponse) -> Callable[[], None]:
        def close() -> None:
            response.close()
            self.slots.release()

        return close


class AnthropicExpert(LiteLLMExpert):
    """An expert of Anthropic's. A prompt preset can be put under a chat request only."""

    def __init__(self, config: ExpertConfig, timeouts: TimeoutConfig, transport: Transport) -> None:
        self._transport = transport
        super().__init__(config, timeouts)

    def build_deployment(
        self,
        n: int,
        place: DeploymentConfig,
        config: ExpertConfig,
        timeouts: TimeoutConfig,
        parameters: Parameters,
    ) -> AnthropicDeployment:
        def build_address(path: str) -> Address:
            key = place.api_key.reveal() if place.api_key else None
            if place.api_base is None:
                key = key or os.environ.get(KEY_VARIABLE)  # it goes to its own address only
            base = (place.api_base or ADDRESS).rstrip("/").removesuffix("/v1")
            headers = {"x-api-key": key} if key else {}
            headers |= {name: value.reveal() for name, value in place.headers.items()}
            return Address(self._transport, f"{base}/v1/{path}", headers, timeouts.connect_s, config.is_local)

        model = f"{config.provider}/{place.model}" if place.model else config.model
        return AnthropicDeployment(
            f"{config.name}#{n}", model, place, timeouts, self.loader, parameters, build_address
        )

    @property
    def formats(self) -> frozenset[str]:
        """The wire formats, beside chat, that it can be asked in."""
        return frozenset({FORMAT}) if self._preset.is_plain else frozenset()

    async def call(self, call: Call) -> Reply:
        translation = call.translation
        if translation is None or translation.format not in self.formats:
            return await super().call(call)
        if translation.original is not None:
            ask = self.deployments[0].call if len(self.deployments) == 1 else self._ask
            return await ask(call, translation.original)
        if translation.native_only:
            said = f"cannot be asked for {translation.native_only[0]} with a flag in the prompt"
            error = {"message": f"expert '{self.name}' {said}", "type": "invalid_request_error"}
            raise UpstreamError("unsupported", said, status=400, body=encode({"error": error}))
        return await super().call(replace(call, translation=None))

    async def count_tokens(self, translation: Translation) -> bytes:
        """As its first deployment counts.

        Raises:
            UpstreamError: there is no answer.
        """
        deployment = self.deployments[0]
        assert isinstance(deployment, AnthropicDeployment), "`build_deployment` builds them"  # noqa: S101
        return await deployment.count_tokens(translation)
