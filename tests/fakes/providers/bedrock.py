"""Bedrock's `Converse` and `ConverseStream`, whose events are framed in binary."""

import json
import re
import struct
import zlib
from typing import Any

from .server import ARGUMENTS, CALL_ID, JSON_TEXT, Request, Response, find_command

FIELDS = frozenset(
    """
    messages system inferenceConfig toolConfig guardrailConfig additionalModelRequestFields
    promptVariables additionalModelResponseFieldPaths requestMetadata performanceConfig
    serviceTier outputConfig
""".split()  # noqa: SIM905 (a list of words reads better)
)
KINDS = {
    400: "ValidationException",
    403: "UnrecognizedClientException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
USAGE = {
    "inputTokens": 36,
    "outputTokens": 20,
    "totalTokens": 120,
    "cacheReadInputTokens": 64,
    "cacheWriteInputTokens": 0,
}
TEXTS = {
    "429": "Too many requests, please wait before trying again.",
    "500": "The system encountered an error.",
}
ACCESS_KEY = "AKIAOFTHEPROVIDER001"


class BedrockRules:
    """What the Converse API takes and answers."""

    def answer(self, request: Request) -> Response:
        match = re.fullmatch(r"/model/[\w.:-]+/(converse|converse-stream)", request.path)
        if match is None:
            return refuse(404, "Unknown operation")
        signed = request.headers.get("authorization", "")
        if f"Credential={ACCESS_KEY}/" not in signed or "/us-east-1/bedrock/aws4_request" not in signed:
            return refuse(403, "The security token included in the request is invalid.")
        body = request.body
        for name in body.keys() - FIELDS:
            return refuse(400, f"Unknown field {name}")
        for message in body.get("messages", ()):
            if message["role"] not in ("user", "assistant") or not isinstance(message["content"], list):
                return refuse(400, "A conversation must alternate between user and assistant roles.")
        command = find_command(json.dumps(body["messages"]))
        if command == "too long":
            return refuse(
                400, "The model returned the following errors: Input is too long for requested model."
            )
        if command:
            return refuse(int(command), TEXTS.get(command, "The service failed."))
        return self._complete(body, match[1] == "converse-stream")

    def _complete(self, body: dict[str, Any], streams: bool) -> Response:
        block, end = _block(body)
        metrics = {"latencyMs": 10}
        if not streams:
            message = {"role": "assistant", "content": [block]}
            whole = {"output": {"message": message}, "stopReason": end, "usage": USAGE, "metrics": metrics}
            return Response.of_json(whole)
        events: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
        if tool := block.get("toolUse"):
            start = {"toolUse": {"toolUseId": tool["toolUseId"], "name": tool["name"]}}
            events.append(("contentBlockStart", {"contentBlockIndex": 0, "start": start}))
            text = json.dumps(tool["input"])
            deltas: list[dict[str, Any]] = [{"toolUse": {"input": piece}} for piece in (text[:6], text[6:])]
        else:
            deltas = [{"text": piece} for piece in (block["text"][:5], block["text"][5:])]
        events += [("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta}) for delta in deltas]
        events += [("contentBlockStop", {"contentBlockIndex": 0}), ("messageStop", {"stopReason": end})]
        events.append(("metadata", {"usage": USAGE, "metrics": metrics}))
        return Response(200, [_frame(*event) for event in events], "application/vnd.amazon.eventstream")


def _block(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What is answered, and why it ends."""
    if tools := body.get("toolConfig", {}).get("tools"):
        name = tools[0]["toolSpec"]["name"]
        given = json.loads(JSON_TEXT) if name == "json_tool_call" else ARGUMENTS
        return {"toolUse": {"toolUseId": CALL_ID, "name": name, "input": given}}, "tool_use"
    said = json.dumps(body["messages"])
    return {"text": "I see a picture." if '"image"' in said else "Hello from afar."}, "end_turn"


def _frame(kind: str, payload: dict[str, Any]) -> bytes:
    """One message of application/vnd.amazon.eventstream: lengths, headers, payload, two checksums."""
    headers = b""
    for name, value in (
        (":event-type", kind),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ):
        text = value.encode()
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(text)) + text
    data = json.dumps(payload).encode()
    head = struct.pack(">II", len(headers) + len(data) + 16, len(headers))
    head += struct.pack(">I", zlib.crc32(head))
    message = head + headers + data
    return message + struct.pack(">I", zlib.crc32(message))


def refuse(status: int, message: str) -> Response:
    return Response.of_json(
        {"message": message}, status, x_amzn_errortype=KINDS.get(status, "UnknownOperationException")
    )


BEDROCK = BedrockRules()
