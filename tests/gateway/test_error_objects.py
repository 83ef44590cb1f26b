"""Error objects and pages of statuses: whose fault they tell of, and what is said of them."""

import json
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.openai.failures import find_failure, read_failure

BAD = "the value of 'stop' must be a string"


def openai(message: str, **more: object) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **more}}


def failure_of(status: int, body: object) -> UpstreamError:
    return read_failure(status, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai("Unsupported parameter: 'max_tokens' is not supported with this model.")),
        (400, openai("Unsupported value: 'temperature' does not support 0.2", code="unsupported_value")),
        (400, openai("Unrecognized request argument supplied: foo")),
        (400, {"error": "registry.ollama.ai/library/x does not support tools"}),
        (400, openai('"auto" tool choice requires --enable-auto-tool-choice')),
        (422, {"detail": [{"loc": ["body", "foo"], "msg": "Extra inputs are not permitted"}]}),
        (
            402,
            openai(
                "You requested up to 4096 tokens, but can only afford 1000; use fewer max_tokens", code=402
            ),
        ),
        (403, openai("Your input was flagged by moderation", code=403)),
        (400, openai("Failed to call a function", code="tool_use_failed", type="invalid_request_error")),
        (404, openai("no such thing")),
        (405, openai("Method Not Allowed")),
        (409, openai("busy with another")),
        (424, openai("dependency")),
        (451, openai("not here")),
    ],
)
def test_a_request_that_one_expert_cannot_take_moves_on_and_cools_none(status: int, body: object) -> None:
    failure = failure_of(status, body)
    assert (failure.moves_on, failure.faults_expert, failure.can_succeed_later) == (True, False, False)
    assert failure.status == status
    assert failure.body is not None


@pytest.mark.parametrize(
    ("status", "body", "seen"),
    [
        (400, {"__type": "ThrottlingException", "message": "Too many tokens, please wait"}, 429),
        (400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], 401),
        (404, openai("The model `x` does not exist", code="model_not_found"), 404),
        (404, {"error": "model 'x' not found, try pulling it first"}, 404),
        (429, openai("You exceeded your current quota", code="insufficient_quota"), 429),
        (402, openai("Insufficient Balance"), 402),
        (500, b"<html><title>Boom</title></html>", 500),
    ],
)
def test_what_the_operator_must_mend_is_the_experts_fault(status: int, body: object, seen: int) -> None:
    failure = failure_of(status, body)
    assert (failure.status, failure.moves_on, failure.faults_expert) == (seen, True, True)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai(BAD)),
        (400, openai(f"Invalid value: 'rate limit, invalid api key, quota': {BAD}")),
        (500, openai(BAD, code=400, type="BadRequestError")),
        (413, b"<html><head><title>413 Request Entity Too Large</title></head></html>"),
        (422, {"detail": "bad stop"}),
        (400, openai("flagged", code="content_filter")),
    ],
)
def test_a_bad_request_is_the_clients_and_its_words_cool_none(status: int, body: object) -> None:
    failure = failure_of(status, body)
    assert (failure.kind, failure.moves_on, failure.faults_expert) == ("refused", False, False)
    assert failure.status == (400 if status == 500 else status)
    assert failure.body is not None
    assert failure.body[:9] == b'{"error":' or failure.body[:10] == b'{"error": '


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            b"<!DOCTYPE html><title> 502\n Bad&nbsp;gateway </title><h1>x</h1>",
            "answered 502: 502 Bad gateway",
        ),
        (b"<html><style>p {}</style><body><h1>Down for\nrepair</h1>", "answered 502: Down for repair"),
        (b"upstream connect error\nmore", "answered 502: upstream connect error"),
        (b"", "answered 502"),
        (b'{"error": {"message": "two\\nlines"}}', "answered 502: two lines"),
        (b'{"error": {"message": "key sk-abcdefgh12345 refused"}}', "answered 502: key [key] refused"),
    ],
)
def test_b16_a_proxys_page_is_told_in_one_line(body: bytes, line: str) -> None:
    assert read_failure(502, body).message == line


@pytest.mark.parametrize(
    "payload",
    [
        b'{"id": "c", "model": "m"}',
        b'{"type": "ping"}',
        b'{"message": "loading the model"}',
        b'{"choices": [{"delta": {"content": "an \\"error\\" here"}}]}',
        b'{"error": null, "choices": []}',
        b'{"not": "rate limit',
        b"null",
        b"3",
        b"",
    ],
)
def test_what_is_no_error_is_none(payload: bytes) -> None:
    assert find_failure(payload) is None


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b"upstream request timeout", 504),
        (b"Internal Server Error", 500),
        (b"error: 429 too many requests", 429),
        (b"Error: the engine died", None),
        (b'"Service Unavailable"', 503),
    ],
)
def test_a_bare_text_that_tells_of_an_error_is_one(payload: bytes, status: int | None) -> None:
    failure = find_failure(payload)
    assert failure is not None
    assert (failure.status, failure.faults_expert) == (status, True)


def test_a_refused_key_says_what_to_check_and_nothing_of_the_key() -> None:
    body = b'{"error": {"message": "Incorrect API key provided: sk-secret123456"}}'
    assert read_failure(401, body).message == "answered 401: the key was refused, check api_key"
    assert read_failure(403, body).message.startswith("answered 403: access was refused")


@pytest.mark.parametrize("status", [404, 405])
def test_a_page_without_an_error_object_is_no_word_of_a_model(status: int) -> None:
    failure = failure_of(status, b"404: Not Found")
    assert (failure.moves_on, failure.faults_expert, failure.body) == (True, False, None)
    assert failure_of(status, {"error": "model 'x' not found"}).body is not None
