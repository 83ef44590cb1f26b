"""Gemini's `generateContent` and `streamGenerateContent`."""

import json
import re
from typing import Any

from .server import ARGUMENTS, JSON_TEXT, KEY, Request, Response, find_command

FIELDS = frozenset(
    [
        "cachedContent",
        "contents",
        "generationConfig",
        "labels",
        "safetySettings",
        "serviceTier",
        "systemInstruction",
        "system_instruction",
        "toolConfig",
        "tools",
        "store",
    ]
)
SETTINGS = frozenset(
    """
    candidateCount enableEnhancedCivicAnswers frequencyPenalty logprobs maxOutputTokens
    mediaResolution presencePenalty responseJsonSchema responseLogprobs responseMimeType
    responseModalities responseSchema seed speechConfig stopSequences temperature
    thinkingConfig topK topP
""".split()  # noqa: SIM905 (a list of words reads better)
)
KINDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 64,
    "candidatesTokenCount": 8,
    "thoughtsTokenCount": 12,
    "totalTokenCount": 120,
}


class GeminiRules:
    """What the Gemini API takes and answers."""

    path = re.compile(r"/(?:v1beta/)?models/[\w.-]+:(?P<method>generateContent|streamGenerateContent)")
    fields = FIELDS
    settings = SETTINGS

    def answer(self, request: Request) -> Response:
        match = self.path.fullmatch(request.path)
        if match is None:
            return refuse(404, f"{request.path} is not found for API version v1beta")
        refusal = (
            self._check_access(request, match)
            or self._check_fields(request.body)
            or self._fail_if_asked(request.body)
        )
        return refusal or self._complete(request, match["method"] == "streamGenerateContent")

    def _check_access(self, request: Request, match: re.Match[str]) -> Response | None:
        if KEY not in (request.headers.get("x-goog-api-key"), request.query.get("key")):
            return refuse(400, "API key not valid. Please pass a valid API key.", "API_KEY_INVALID")
        return None

    def _check_fields(self, body: dict[str, Any]) -> Response | None:
        # Google's JSON takes a field by its name in the protocol buffer too: max_output_tokens.
        settings = {_camel(name): value for name, value in body.get("generationConfig", {}).items()}
        for name in [*(body.keys() - self.fields), *(settings.keys() - self.settings)]:
            return refuse(400, f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
        if not body.get("contents"):
            return refuse(400, "* GenerateContentRequest.contents: contents is not specified")
        if len(settings.get("stopSequences") or ()) > 5:
            return refuse(400, "The number of stop sequences must be at most 5")
        for turn in body["contents"]:
            if turn.get("role", "user") not in ("user", "model", "function"):
                return refuse(400, "Please use a valid role: user, model.")
        return None

    def _fail_if_asked(self, body: dict[str, Any]) -> Response | None:
        command = find_command(json.dumps(body["contents"]))
        if command == "too long":
            return refuse(
                400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
            )
        if command == "429":
            return self._refuse_rate()
        return refuse(int(command), "An internal error has occurred.") if command else None

    def _refuse_rate(self) -> Response:
        return refuse(429, "You exceeded your current quota. Please retry in 7s.", retry="7s")

    def _complete(self, request: Request, streams: bool) -> Response:
        body = request.body
        texts = _parts(body)
        head: dict[str, Any] = {"modelVersion": "gemini-2.5-flash", "responseId": "r-1"}
        settings = {_camel(name): value for name, value in body.get("generationConfig", {}).items()}
        n_candidates = settings.get("candidateCount", 1)
        if not streams:
            candidates = [_candidate(texts, n, "STOP") for n in range(n_candidates)]
            return Response.of_json({**head, "candidates": candidates, "usageMetadata": USAGE})
        if request.query.get("alt") != "sse":
            return refuse(400, "this server streams events only: alt=sse")
        chunks: list[dict[str, Any]] = [
            {**head, "candidates": [_candidate([part], 0)]} for part in _split(texts)
        ]
        chunks[-1] |= {"usageMetadata": USAGE}
        chunks[-1]["candidates"][0]["finishReason"] = "STOP"
        return Response.of_events(*chunks, done=False)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)


def _parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    for tool in body.get("tools", ()):
        for function in tool.get("functionDeclarations", tool.get("function_declarations", ())):
            return [{"functionCall": {"name": function["name"], "args": ARGUMENTS}}]
    settings = {_camel(name): value for name, value in body.get("generationConfig", {}).items()}
    if settings.get("responseMimeType") == "application/json":
        return [{"text": JSON_TEXT}]
    sees = re.search(r"inline_?[dD]ata|file_?[dD]ata", json.dumps(body["contents"]))
    return [{"text": "I see a picture." if sees else "Hello from afar."}]


def _split(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"text": text} for part in parts if "text" in part for text in (part["text"][:5], part["text"][5:])
    ] or parts


def _candidate(parts: list[dict[str, Any]], index: int, end: str | None = None) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": parts}, "index": index}
    return {**candidate, "finishReason": end} if end else candidate


def refuse(status: int, message: str, reason: str | None = None, retry: str | None = None) -> Response:
    details: list[dict[str, Any]] = []
    if reason:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason})
    if retry:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": retry})
    error = {"code": status, "message": message, "status": KINDS.get(status, "NOT_FOUND"), "details": details}
    return Response.of_json({"error": error}, status)


GEMINI = GeminiRules()
