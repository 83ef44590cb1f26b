"""Each way to fail has its class, keeps the key to itself, and is tried again only where that is safe."""

import email.utils
import pickle
import socket
import time
import traceback
from typing import Any

import httpx
import pytest

from gateway import (
    AsyncClient,
    AuthenticationError,
    BadRequest,
    Client,
    ConnectionFailed,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    StatusError,
    ThalamusError,
    TimedOut,
    UnexpectedResponse,
)
from tests.fakes.scripted_gateway import Scripted, ScriptedGateway, json_answer, refusal

from .conftest import Connect, Flavour

GOOD = json_answer({"model": "m", "choices": [{"message": {"content": "good"}}]})
HANGS_UP = Scripted(status=0, ending="cut")
SILENT = Scripted(status=0, ending="hold")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streaming"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, AuthenticationError),
        (403, PermissionDenied),
        (404, NotFound),
        (409, StatusError),
        (422, BadRequest),
        (429, RateLimited),
        (500, ServerError),
        (502, ServerError),
        (503, ServerError),
        (307, StatusError),
    ],
)
def test_each_status_has_its_class_and_keeps_the_gateways_facts(
    server: ScriptedGateway, connect: Connect, status: int, kind: type[StatusError], stream: bool
) -> None:
    server.will(refusal(status, "not like this", x_request_id="req-7"))
    with pytest.raises(kind) as caught:
        connect(max_retries=0).ask("chat", "hi", stream=stream)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.type, error.code, error.param) == (
        status,
        "some_type",
        "some_code",
        "some_param",
    )
    assert error.request_id == "req-7"
    assert str(error) == f"not like this ({status}, code some_code, param some_param, request req-7)"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": null}', b'{"detail": "x"}', b"\xff"])
def test_a_refusal_without_the_envelope_still_has_its_class(
    server: ScriptedGateway, flavour: Flavour, body: bytes
) -> None:
    server.will(Scripted(502, {}, (body,) if body else ()))
    with pytest.raises(ServerError, match=r"the gateway answered Scripted \(502\)"):
        flavour.ask("models")


def test_nobody_there_is_a_failed_connection_that_names_the_address(connect: Connect) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=f"cannot reach the gateway at {address}:"):
            connect(address, max_retries=1).ask("health")


def test_silence_is_a_time_out_and_is_not_asked_again(server: ScriptedGateway, connect: Connect) -> None:
    server.will([SILENT, GOOD])
    with pytest.raises(TimedOut, match="no word from the gateway"):
        connect(timeout=0.05).ask("chat", "hi")
    assert len(server.received) == 1
    assert server.left.wait(5)


def test_an_answer_cut_in_its_middle_is_not_asked_again(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will([Scripted(blocks=(b'{"model"',), ending="cut"), GOOD])
    with pytest.raises(ConnectionFailed, match="broke"):
        flavour.ask("chat", "hi")
    assert len(server.received) == 1


@pytest.mark.parametrize(
    "payload", [None, [], "text", {}, {"choices": []}, {"choices": [{"message": None}], "model": "m"}]
)
def test_an_answer_out_of_protocol_is_unexpected(
    server: ScriptedGateway, flavour: Flavour, payload: Any
) -> None:
    deep = Scripted(blocks=(b"[" * 100_000,))
    server.will([json_answer(payload), Scripted(blocks=(b"<html>",)), json_answer(payload), deep])
    for ask in (("chat", "hi"), ("chat", "hi"), ("decision", "x"), ("models",)):
        with pytest.raises(UnexpectedResponse, match="is base_url right"):
            flavour.ask(*ask)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streaming"])
@pytest.mark.parametrize(
    "failure",
    [HANGS_UP, refusal(503), refusal(429), refusal(429, retry_after="0"), refusal(503, retry_after="x")],
)
def test_what_was_not_worked_on_is_asked_again(
    server: ScriptedGateway, flavour: Flavour, failure: Scripted, stream: bool
) -> None:
    server.will([failure, failure, GOOD])
    flavour.ask("chat", "hi", stream=stream)
    assert len(server.received) == 3
    assert server.received[0].body == server.received[2].body


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(HANGS_UP, ConnectionFailed), (refusal(503), ServerError), (refusal(429), RateLimited)],
)
def test_retries_are_counted(
    server: ScriptedGateway, connect: Connect, failure: Scripted, kind: type[ThalamusError]
) -> None:
    server.will([failure, failure, GOOD])
    with pytest.raises(kind):
        connect(max_retries=1).ask("chat", "hi")
    assert len(server.received) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 422, 500, 502, 504])
def test_other_refusals_are_not_asked_again(server: ScriptedGateway, flavour: Flavour, status: int) -> None:
    server.will([refusal(status), GOOD])
    with pytest.raises(StatusError):
        flavour.ask("chat", "hi")
    assert len(server.received) == 1


def test_a_pause_longer_than_is_sensible_is_left_to_the_caller(
    server: ScriptedGateway, flavour: Flavour
) -> None:
    server.will([refusal(429, retry_after="3600"), GOOD])
    with pytest.raises(RateLimited) as caught:
        flavour.ask("chat", "hi")
    assert caught.value.retry_after_s == 3600
    assert len(server.received) == 1


def test_a_pause_given_as_a_date_is_counted_from_now(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(refusal(429, retry_after=email.utils.formatdate(time.time() + 7200, usegmt=True)))
    with pytest.raises(RateLimited) as caught:
        flavour.ask("chat", "hi")
    assert caught.value.retry_after_s == pytest.approx(7200, abs=60)


@pytest.mark.parametrize("header", ["soon", "nan", "Mon, 99 Foo 2020 00:00:00 GMT"])
def test_a_pause_that_makes_no_sense_is_unknown(
    server: ScriptedGateway, connect: Connect, header: str
) -> None:
    server.will(refusal(429, retry_after=header))
    with pytest.raises(RateLimited) as caught:
        connect(max_retries=0).ask("chat", "hi")
    assert caught.value.retry_after_s is None


def test_the_pause_asked_for_is_kept(server: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("gateway.client.clients.time.sleep", pauses.append)
    server.will([refusal(429, retry_after="2.5"), refusal(503), refusal(503), GOOD])
    with Client(server.url, max_retries=3) as client:
        client.chat("hi")
    assert pauses[0] == 2.5
    assert 0.001 <= pauses[1] <= 0.002
    assert 0.002 <= pauses[2] <= 0.004


def test_the_key_is_in_no_repr_and_no_error(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will([refusal(401, "Incorrect API key provided: sk-secret."), Scripted(blocks=(b"<html>",))])
    record = [repr(flavour.client), repr(vars(flavour.client))]
    for kind in (AuthenticationError, UnexpectedResponse):
        with pytest.raises(kind) as caught:
            flavour.ask("chat", "hi")
        record += [repr(caught.value), str(caught.value), "".join(traceback.format_exception(caught.value))]
    assert "provided: ***." in record[2]
    assert not [text for text in record if "sk-secret" in text]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"base_url": "127.0.0.1:8080"}, "base_url"),
        ({"base_url": ""}, "base_url"),
        ({"base_url": "ftp://host"}, "base_url"),
        ({"base_url": "http://host:notaport"}, "base_url"),
        ({"base_url": "http://user:sk-secret@host"}, "base_url"),
        ({"api_key": "sk-secret\nx-admin: 1"}, "api_key"),
        ({"api_key": "sk-secret-é"}, "api_key"),
        ({"max_retries": -1}, "max_retries"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_without_repeating_a_secret(
    kind: type[Client | AsyncClient], settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        kind(**settings)
    assert "sk-secret" not in str(caught.value)


def test_errors_survive_the_way_between_processes() -> None:
    error = RateLimited("slower", status=429, code="c", retry_after_s=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.retry_after_s) == (RateLimited, str(error), 2.0)


def test_a_client_that_was_brought_along_stays_open(server: ScriptedGateway) -> None:
    server.will([GOOD, GOOD])
    with httpx.Client() as http_client:
        for _ in range(2):
            with Client(server.url, http_client=http_client) as client:
                client.chat("hi")
        assert not http_client.is_closed
