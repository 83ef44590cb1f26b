"""What LiteLLM's exceptions stand for: the provider's own words count for more than LiteLLM's class."""

import pytest

from gateway.experts.litellm import failure_of


class LiteLLMError(Exception):
    """As LiteLLM's: a status, a response, and a text that begins with its classes."""

    def __init__(self, text: str, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status_code = status
        self.response = type("Response", (), {"headers": headers or {}})()


def build_error(name: str, text: str, status: int, **headers: str) -> Exception:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    error: Exception = type(name, (LiteLLMError,), {})(text, status, named)
    return error


CREDIT = (
    'litellm.BadRequestError: AnthropicException - {"type":"error","error":'
    '{"type":"invalid_request_error","message":"Your credit balance is too low"}}'
)
GOOGLE = (
    'litellm.BadRequestError: GeminiException BadRequestError - {"error": {"code": 400, "message": '
    '"API key not valid.", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}'
)


@pytest.mark.parametrize(
    ("error", "kind", "status", "message"),
    [
        (build_error("BadRequestError", CREDIT, 400), "quota", 429, "Your credit balance is too low"),
        (build_error("BadRequestError", GOOGLE, 400), "status", 401, "check api_key"),
        (
            build_error("BadRequestError", "litellm.BadRequestError: OpenAIException - bad stop", 400),
            "refused",
            400,
            "answered 400: bad stop",
        ),
        (
            build_error(
                "UnsupportedParamsError", "litellm.UnsupportedParamsError: x does not take stop", 400
            ),
            "unsupported",
            400,
            "answered 400: x does not take stop",
        ),
        (
            build_error("NotFoundError", "litellm.NotFoundError: OpenAIException - no", 404),
            "status",
            404,
            "no",
        ),
        (
            build_error(
                "InternalServerError", 'litellm.InternalServerError: AnthropicException - {"broken', 529
            ),
            "status",
            529,
            '{"broken',
        ),
    ],
)
def test_an_exception_is_judged_by_what_the_provider_said(
    error: Exception, kind: str, status: int, message: str
) -> None:
    failure = failure_of(error)
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.message.endswith(message)


def test_a_prompt_that_is_too_long_moves_on() -> None:
    text = (
        "litellm.ContextWindowExceededError: litellm.BadRequestError: AnthropicException - prompt is too long"
    )
    failure = failure_of(build_error("ContextWindowExceededError", text, 400))
    assert (failure.context_too_long, failure.moves_on, failure.faults_expert) == (True, True, False)


def test_a_wait_is_read_from_the_response_in_every_form() -> None:
    error = build_error("RateLimitError", "litellm.RateLimitError: slow down", 429, retry_after_ms="2500")
    assert failure_of(error).retry_after_s == 2.5
    far = build_error("RateLimitError", "no", 429, retry_after="Wed, 21 Oct 99999 07:28:00 GMT")
    assert failure_of(far).retry_after_s is None


class RefreshError(Exception):
    """As google-auth's: the refusal of a token service, or that it cannot be asked now."""

    def __init__(self, text: str, retryable: bool = False) -> None:
        super().__init__(text, {"error": "invalid_grant"})
        self.retryable = retryable


class NoCredentialsError(Exception):
    """As botocore's."""


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (RefreshError("invalid_grant: Invalid JWT Signature."), "invalid_grant: Invalid JWT Signature"),
        (NoCredentialsError("Unable to locate credentials"), "Unable to locate credentials"),
        (ValueError("Missing Gemini API key. Set the GEMINI_API_KEY"), "Missing Gemini API key"),
        (Exception("Missing credentials. Please pass one of"), "Missing credentials"),
        (Exception("Unable to load vertex credentials from x"), "Unable to load vertex credentials from x"),
        (ValueError("Unable to load PEM file. See"), "Unable to load PEM file"),
        (ValueError("Could not resolve project_id"), "Could not resolve project_id"),
    ],
)
@pytest.mark.parametrize("name", ["APIConnectionError", "AuthenticationError", "APIError"])
def test_what_fails_for_want_of_credentials_says_so(cause: Exception, said: str, name: str) -> None:
    error = build_error(name, f"litellm.{name}: {cause}\nTraceback (most recent call last):", 500)
    error.__context__ = cause
    failure = failure_of(error)
    assert (failure.kind, failure.status) == ("status", 401)
    assert failure.message == f"could not sign in ({said})"


def test_a_token_service_that_is_down_is_no_refused_key() -> None:
    error = build_error("APIConnectionError", "litellm.APIConnectionError: x", 500)
    error.__context__ = RefreshError("internal_failure", retryable=True)
    assert (failure_of(error).kind, failure_of(error).status) == ("connect", None)
