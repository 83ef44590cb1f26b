"""`make fuzz`: odd bodies, uploads, request heads and upstream answers against a real gateway process.

    python tools/fuzz.py [--cases 2000] [--seconds 120] [--seed 1] [--only body,form,head,upstream,litellm]

Each case changes something that works, at random from one seed: a value of a JSON tree, bytes, parts, headers,
events. A fault is a 5xx answer (but 502, 503 and 504 that tell of an odd upstream), an error that is no OpenAI
error object, no end within 20 s, an exception in the gateway's log, and a gateway that does not answer afterwards.
All load stays on loopback; the upstream is part of this process. Exit status 1 where a fault was found.
"""

# ruff: noqa: E501 - tables of odd things

import argparse
import asyncio
import json
import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HANG_S = 20
N_AT_ONCE = 32
N_ODD = 250
"""Experts of the odd upstream, one after the other: a circuit that opens for one hides none of the others."""
DECISION, FILE = "dec_" + "0" * 28, "file-" + "0" * 32
"""In requests: the decision and the file that `prepare` makes."""
KINDS = ("body", "form", "head", "upstream", "litellm")
UPSTREAM_STATUSES = (502, 503, 504)

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, -1e308, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30,
    float("nan"), float("inf"), "", " ", "\0", "a", "auto", "good", "auto:", "auto:x", "odd", "\ud800", "é" * 300, "x" * 5000,
    "0", "true", "null", "../../etc/passwd", "%00", "[Flag: Smallest model]", "data: [DONE]\n\n", "\r\nx: y", [], {},
    [[]], [{}], [None], {"": None}, {"a": {"b": []}}, ["a"] * 300, [[[[[[[[]]]]]]]], {"type": "text"},
    {"type": "image_url", "image_url": "x"}, {"role": "user"}, list(range(50)),
)  # fmt: skip
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c", "content": "7"},
    {"role": "user", "content": "And now?"},
]  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
]
ROUTER = {
    "weights": {"cost": 0.5},
    "max_cost_usd": 1,
    "models": ["good"],
    "exclude": ["odd-1"],
    "session_id": "s",
    "fallbacks": ["good"],
    "explain": True,
}
ITEMS = [
    {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": "data:image/png;base64,AA=="}, {"type": "input_file", "file_data": "AA==", "filename": "a"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes.", "annotations": []}, {"type": "refusal", "refusal": "No."}]},
    {"type": "function_call", "call_id": "c", "name": "f", "namespace": "n", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "7"}, {"type": "input_image", "image_url": "x"}]},
    {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
    {"type": "custom_tool_call_output", "call_id": "d", "output": "7"},
    {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "h"}]},
    {"role": "user", "content": "And now?"},
]  # fmt: skip
GIVEN_TOOLS = [
    {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}]},
    {"type": "custom", "name": "g", "description": "d", "format": {"type": "grammar", "syntax": "lark", "definition": "s: x"}},
    {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}},
]  # fmt: skip
TURNS = [
    {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}, {"type": "document", "title": "a", "source": {"type": "text", "media_type": "text/plain", "data": "b"}}]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "Yes."}, {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "is_error": True, "content": [{"type": "text", "text": "7"}, {"type": "image", "source": {"type": "url", "url": "x"}}]}, {"type": "text", "text": "And now?"}]},
    {"role": "system", "content": "s"},
]  # fmt: skip
BODIES: tuple[tuple[str, Any], ...] = (
    ("/v1/responses", {"model": "auto", "input": ITEMS, "instructions": "i", "tools": GIVEN_TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "g"}]}, "max_output_tokens": 99, "stream": False}),
    ("/v1/responses", {"model": "good", "input": "Hi", "stream": True, "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}, "verbosity": "low"}, "reasoning": {"effort": "low", "summary": "auto"}, "include": ["message.output_text.logprobs"], "metadata": {"a": "b"}, "router": ROUTER}),
    ("/v1/responses", {"model": "good", "input": [{"type": "item_reference", "id": "msg_1"}], "previous_response_id": "resp_1", "store": True, "truncation": "auto", "top_logprobs": 2}),
    ("/v1/messages", {"model": "auto", "max_tokens": 99, "messages": TURNS, "system": [{"type": "text", "text": "s"}], "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": True}], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}, "stop_sequences": ["a"], "metadata": {"user_id": "u"}, "stream": False}),
    ("/v1/messages", {"model": "good", "max_tokens": 9, "messages": TURNS[:1], "stream": True, "thinking": {"type": "enabled", "budget_tokens": 5000}, "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}}, "top_k": 4, "router": ROUTER}),
    ("/v1/messages/count_tokens", {"model": "auto", "messages": TURNS, "system": "s"}),
    ("/v1/chat/completions", {"model": "auto", "messages": MESSAGES, "tools": TOOLS, "stream": False, "max_tokens": 9, "stop": ["a"], "seed": 1, "n": 1}),
    ("/v1/chat/completions", {"model": "good", "messages": MESSAGES[:1], "stream": True, "stream_options": {"include_usage": True}, "router": ROUTER}),
    ("/v1/chat/completions", {"model": "auto", "messages": MESSAGES[-1:], "router": ROUTER, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}),
    ("/v1/completions", {"model": "good", "prompt": ["Hi", "Ho"], "max_tokens": 5, "logprobs": 1, "echo": False, "stream": False}),
    ("/v1/embeddings", {"model": "vectors", "input": ["a", "b"], "encoding_format": "float", "dimensions": 8, "input_type": "query"}),
    ("/v1/route", {"model": "auto", "messages": MESSAGES, "router": ROUTER}),
    ("/v1/feedback", {"decision_id": DECISION, "score": 0.5, "comment": "c"}),
    ("/v1/feedback", {"decision_id": DECISION, "chosen": "good", "among": ["good", "odd-1"]}),
    ("/v1/batches", {"input_file_id": FILE, "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"a": "b"}}),
)  # fmt: skip
PATHS = (
    "/", "/health", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/v1/models", "/v1/models/good",
    "/v1/models/%2e%2e", "/v1/files", "/v1/files/file-1", "/v1/files/%00/content", "/v1/batches", "/v1/batches/x",
    "/v1/batches/x/cancel", "/v1/decisions/x", f"/v1/decisions/{DECISION}", f"/v1/files/{FILE}", f"/v1/files/{FILE}/content", "/v1/runners", "/v1/runners/a/load", "/v1/runners/a/unload",
    "/v1/runners/a/logs", "/v1/nothing", "/v1/responses/x", "/v1/responses/x/input_items?limit=x", "/v1/files?limit=-1&after=%ff", "/v1/batches?limit=x", "/v1/models?a=%",
)  # fmt: skip
METHODS = ("GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "TRACE", "get", "X" * 30, "")
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/plain"), (b"content-type", b"application/json; charset=utf-16"), (b"content-type", b""),
    (b"content-type", b"multipart/form-data"), (b"content-type", b"multipart/form-data; boundary="), (b"content-length", b"-1"),
    (b"content-length", b"1, 2"), (b"content-length", b"9" * 30), (b"transfer-encoding", b"chunked, chunked"),
    (b"transfer-encoding", b"gzip"), (b"content-encoding", b"gzip"), (b"expect", b"100-continue"), (b"expect", b"7"),
    (b"upgrade", b"h2c"), (b"upgrade", b"websocket"), (b"host", b"a b"), (b"host", b"[::1"), (b"host", b""),
    (b"origin", b"null"), (b"origin", b"http://x y"), (b"authorization", b"Bearer"), (b"authorization", b"Basic ????"),
    (b"authorization", b"Bearer \xff\xfe"), (b"x-api-key", b"\xc3\x28"), (b"range", b"bytes=9-1"), (b"if-none-match", b"*"),
    (b"accept", b"text/event-stream;q=x"), (b"accept-encoding", b"br;q=-1"), (b"cookie", b"=" * 500),
    (b"x-thalamus-cost", b"nan"), (b"x-thalamus-models", b",,"), (b"x-thalamus-policy", b"\xff"), (b"x-request-id", b"a" * 4000),
    (b"traceparent", b"00-zz"), (b"x-forwarded-for", b"::::"), (b"connection", b"close, host"), (b"te", b"trailers"),
)  # fmt: skip
EVENTS = [
    {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}]}
    for word in ("Yes", ", it is", ".")
] + [
    {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}},
]  # fmt: skip
WHOLE = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6, "prompt_tokens_details": {"cached_tokens": 0}},
}  # fmt: skip
VECTORS = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": n, "embedding": [0.5] * 8} for n in (0, 1)],
           "usage": {"prompt_tokens": 2, "total_tokens": 2}}  # fmt: skip


def change_tree(draw: random.Random, tree: Any) -> Any:
    """The tree with one node replaced, removed, doubled or wrapped."""
    tree = json.loads(json.dumps(tree))
    node, key = tree, None
    path: list[tuple[Any, Any]] = []
    while isinstance(node, dict | list) and node and draw.random() < 0.8:
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
        path.append((node, key))
        node = node[key]
    if not path:
        return draw.choice(ODD_VALUES)
    parent, key = path[-1]
    match draw.randrange(5):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, list):
            parent.extend([node] * draw.choice((1, 3, 200)))
        case 2 if isinstance(parent, dict):
            parent[draw.choice(("", "model", "x" * 300, "stream", "\ud800", "type", "router"))] = draw.choice(
                ODD_VALUES
            )
        case 3:
            parent[key] = [node] if draw.random() < 0.5 else {"a": node}
        case _:
            parent[key] = draw.choice(ODD_VALUES)
    return tree


def change_bytes(draw: random.Random, data: bytes) -> bytes:
    """The bytes with some flipped, cut, doubled or put in."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = draw.choice(
                    (
                        b"\0",
                        b"\xff\xfe",
                        b"\r\n",
                        b"\n\n",
                        b'"',
                        b"{",
                        b"[" * 400,
                        b"\\u",
                        b"\xed\xa0\x80",
                        b"}" * 9,
                    )
                )
            case 3:
                del changed[at : at + draw.randrange(1, 40)]
            case _:
                changed[at:at] = changed[max(0, at - 30) : at]
    return bytes(changed)


def make_json(draw: random.Random, tree: Any, n_changes: int) -> bytes:
    for _ in range(n_changes):
        tree = change_tree(draw, tree)
    data = json.dumps(tree, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    return change_bytes(draw, data) if draw.random() < 0.2 else data


def make_head(method: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1".encode(), *(name + b": " + value for name, value in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def make_request(
    draw: random.Random, method: str, path: str, kind: bytes, body: bytes, odd: bool = False
) -> bytes:
    headers = [
        (b"host", b"127.0.0.1"),
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if not odd:
        return make_head(method, path, headers) + body
    for _ in range(draw.randrange(1, 4)):
        extra = draw.choice(HEADERS)
        if draw.random() < 0.5:
            headers = [header for header in headers if header[0] != extra[0]]
        headers.insert(draw.randrange(len(headers) + 1), extra)
    head = make_head(method, path, headers)
    return (change_bytes(draw, head) if draw.random() < 0.4 else head) + body


def make_body(draw: random.Random) -> bytes:
    path, tree = draw.choice(BODIES)
    return make_request(
        draw, "POST", path, b"application/json", make_json(draw, tree, draw.choice((1, 1, 2, 5)))
    )


def make_form(draw: random.Random) -> bytes:
    """An upload whose parts, names, lines or boundary are odd."""
    line = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "good", "messages": MESSAGES[-1:]},
    }
    lines = b"\n".join(make_json(draw, line, draw.randrange(2)) for _ in range(draw.choice((0, 1, 3))))
    name = draw.choice((*["file"] * 9, "purpose", "", "x" * 300, "file[]", 'f"i'))
    file = draw.choice((*["a.jsonl"] * 9, "", "../a", "é"))
    purpose = draw.choice((*["batch"] * 9, "fine-tune", "", "é", "\0", "x" * 3000))
    long, utf7 = "A" * 3000 + ": b\r\n", "Content-Type: text/plain; charset=utf-7\r\n"
    more = draw.choice((*[""] * 9, utf7, "Content-Transfer-Encoding: base64\r\n", long))
    disposition = "Content-Disposition: form-data; name="
    parts = [
        f'{disposition}"purpose"\r\n\r\n{purpose}'.encode(),
        f'{disposition}"{name}"; filename="{file}"\r\n{more}\r\n'.encode() + lines,
    ]
    draw.shuffle(parts)
    parts = parts[: draw.choice((0, 1, *[2] * 9))] * draw.choice((*[1] * 9, 2, 40))
    edge = draw.choice((*[b"b"] * 9, b"x" * 71, b"'"))
    data = b"".join(b"--" + edge + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + edge + b"--\r\n"
    data = change_bytes(draw, data) if draw.random() < 0.5 else data
    kind = b"multipart/form-data; boundary=" + draw.choice((*[edge] * 9, b'"' + edge + b'"', b"c"))
    return make_request(draw, "POST", "/v1/files", kind, data)


def make_odd_head(draw: random.Random) -> bytes:
    path, tree = draw.choice(BODIES)
    if draw.random() < 0.5:
        return make_request(
            draw, draw.choice(METHODS), draw.choice((*PATHS, path)), b"application/json", b"", odd=True
        )
    return make_request(draw, "POST", path, b"application/json", json.dumps(tree).encode(), odd=True)


def make_call(draw: random.Random) -> bytes:
    """A good request to the odd upstream."""
    model = f"odd-{draw.randrange(N_ODD)}"
    tree: dict[str, Any] = {"model": model, "messages": MESSAGES[-1:], "stream": draw.random() < 0.6}
    path = "/v1/chat/completions"
    if draw.random() < 0.2:
        path, tree = "/v1/embeddings", {"model": f"vectors-{model}", "input": ["a", "b"]}
    elif draw.random() < 0.2:
        path, tree = "/v1/completions", {"model": model, "prompt": "Hi", "stream": draw.random() < 0.5}
    elif draw.random() < 0.3:
        turns = [{"role": "user", "content": f"Hi {draw.random()}"}]
        tree = {"model": model, "max_tokens": 9, "messages": turns, "stream": draw.random() < 0.6}
        path = "/v1/messages"
    elif draw.random() < 0.3:
        path, tree = "/v1/responses", {"model": model, "input": "Hi", "stream": draw.random() < 0.6}
    tree["user"] = str(draw.random())  # different requests, so that no answer is that of another
    return make_request(draw, "POST", path, b"application/json", json.dumps(tree).encode())


def make_translated_call(draw: random.Random) -> bytes:
    """A good request to the odd upstream, through LiteLLM."""
    tree = {
        "model": f"lite-odd-{draw.randrange(N_ODD)}",
        "messages": MESSAGES[-1:],
        "stream": draw.random() < 0.6,
    }
    return make_request(
        draw,
        "POST",
        "/v1/chat/completions",
        b"application/json",
        json.dumps(tree | {"max_tokens": draw.randrange(1, 99)}).encode(),
    )


MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    "body": make_body, "form": make_form, "head": make_odd_head, "upstream": make_call, "litellm": make_translated_call,
}  # fmt: skip


@dataclass
class FuzzUpstream:
    """Answers models with `odd` in their names oddly, at random from the seed, and the others well."""

    draw: random.Random
    n_odd: int = 0

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b""
            request = json.loads(body or b"{}")
            odd = "odd" in str(request.get("model"))
            for part in self.answer(
                head.split(b" ")[1], request.get("stream") is True and b"embed" not in head[:40], odd
            ):
                writer.write(part)
                await writer.drain()
                if odd and self.draw.random() < 0.1:
                    await asyncio.sleep(self.draw.random() / 10)
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def answer(self, path: bytes, stream: bool, odd: bool) -> list[bytes]:
        draw, n_changes = self.draw, 0
        self.n_odd += odd
        if odd:
            n_changes = draw.choice((0, 1, 1, 2, 4))
        if stream:
            parts = [
                b"data: "
                + (make_json(draw, event, 1) if odd and draw.random() < 0.5 else json.dumps(event).encode())
                + b"\n\n"
                for event in EVENTS
            ]
            parts.append(b"data: [DONE]\n\n")
            if odd:
                parts = self.change_events(parts)
        else:
            tree = VECTORS if path.endswith(b"embeddings") else WHOLE
            parts = [make_json(draw, tree, n_changes) if odd else json.dumps(tree).encode()]
        status, headers = (
            b"200 OK",
            [b"content-type: " + (b"text/event-stream" if stream else b"application/json")],
        )
        if odd and draw.random() < 0.4:
            status, headers = self.change_head(headers)
        size = sum(map(len, parts))
        framing = b"content-length: %d" % size
        if odd and draw.random() < 0.3:
            framing = draw.choice((b"content-length: %d" % (size + 5), b"content-length: %d" % max(0, size - 5), b"transfer-encoding: chunked",
                                   b"content-length: -1", b"connection: close", b"content-encoding: gzip", b"content-encoding: br"))  # fmt: skip
            if framing.startswith(b"transfer") and draw.random() < 0.7:
                parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts] + [
                    draw.choice((b"0\r\n\r\n", b"", b"zz\r\n", b"0\r\na: b\r\n\r\n"))
                ]
        head = (
            b"HTTP/1.1 "
            + status
            + b"\r\n"
            + b"\r\n".join([*headers, framing, b"connection: close"])
            + b"\r\n\r\n"
        )
        if odd and draw.random() < 0.05:
            head = change_bytes(draw, head)
        return [head, *parts]

    def change_events(self, parts: list[bytes]) -> list[bytes]:
        draw = self.draw
        for _ in range(draw.choice((0, 1, 2))):
            at = draw.randrange(len(parts))
            match draw.randrange(7):
                case 0:
                    del parts[at:]
                case 1:
                    parts[at:at] = [draw.choice((b": ping\n\n", b"event: error\n\n", b"data:\n\n", b"\xef\xbb\xbf", b"retry: x\n\n", b"data: [DONE]\n\n",
                                                 b'data: {"error": {"message": "no", "code": 500}}\n\n', b'data: {"error": null}\n\n', b"id: \0\n\n"))]  # fmt: skip
                case 2:
                    parts[at] = change_bytes(draw, parts[at])
                case 3:
                    parts[at] = parts[at].replace(b"\n", draw.choice((b"\r\n", b"\r")))
                case 4:
                    parts.insert(at, parts[draw.randrange(len(parts))])
                case 5:
                    draw.shuffle(parts)
                case _:
                    parts = [b"".join(parts)[n : n + 7] for n in range(0, sum(map(len, parts)), 7)]
            if not parts:
                return [b""]
        return parts

    def change_head(self, headers: list[bytes]) -> tuple[bytes, list[bytes]]:
        draw = self.draw
        status = draw.choice((b"200 OK", b"200", b"204 No Content", b"301 Moved", b"304 Not Modified", b"400 Bad", b"401 No", b"404 No", b"418 Tea",
                              b"429 Slow", b"500 Err", b"503 Busy", b"529 Odd", b"599 Odd", b"999 Odd", b"100 Continue", b"-1 x", b"abc"))  # fmt: skip
        more = draw.choice((b"retry-after: -1", b"retry-after: 1e9", b"retry-after: Mon", b"location: http://127.0.0.1:1/", b"set-cookie: a=b",
                            b"content-type: text/html", b"x: \xff", b"content-type: application/json; charset=\xff", b"date: x"))  # fmt: skip
        return status, [*(headers if draw.random() < 0.8 else []), more]


@dataclass
class FuzzReport:
    """Statuses by kind, and the faults with the bytes that made them."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    n_odd: int = 0

    def add(self, kind: str, n: int, sent: bytes, answer: bytes, seconds: float) -> None:
        answer = re.sub(
            rb"^HTTP/1\.1 100 .*?\r\n\r\n", b"", answer, flags=re.DOTALL
        )  # the answer comes after it
        found = re.match(rb"HTTP/1\.1 (\d{3})", answer)
        status = int(found[1]) if found else 0
        self.statuses[(kind, str(status or "closed"))] += 1
        self.slowest_s = max(self.slowest_s, seconds)
        fault = ""
        if seconds >= HANG_S:
            fault = "no end"
        elif status >= 500 and not (kind in ("upstream", "litellm") and status in UPSTREAM_STATUSES):
            fault = f"status {status}"
        elif status >= 400 and not sent.startswith(b"HEAD") and not is_error_object(answer):
            fault = f"status {status} without an error object"
        if fault:
            self.faults.append(f"{kind} {n}: {fault}\n    sent {sent[:600]!r}\n    got {answer[:400]!r}")


def is_error_object(answer: bytes) -> bool:
    try:
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        body = json.loads(rest[: int(length[1])] if length else rest)
        return isinstance(body["error"]["message"], str)
    except (ValueError, KeyError, TypeError):
        return False


async def send(port: int, request: bytes) -> tuple[bytes, float]:
    """The whole answer up to the end of the connection, and the seconds it took."""
    started = time.monotonic()
    answer = b""
    writer = None
    try:
        async with asyncio.timeout(HANG_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            while part := await reader.read(65536):
                answer += part
    except (OSError, TimeoutError):
        pass
    finally:
        if writer is not None:
            writer.close()
    return answer, time.monotonic() - started


async def prepare(port: int) -> dict[bytes, bytes]:
    """Make a decision and a file, for feedback and batches that are well but for what is changed."""
    draw = random.Random(0)
    chat = json.dumps({"model": "auto", "messages": MESSAGES[-1:]}).encode()
    answer, _ = await send(
        port, make_request(draw, "POST", "/v1/chat/completions", b"application/json", chat)
    )
    decision = re.search(rb"x-thalamus-decision-id: (\S+)", answer)
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    line = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": %s}\n' % chat
    form = part % (b"purpose", b"", b"batch") + part % (b"file", b'; filename="a.jsonl"', line) + b"--b--\r\n"
    answer, _ = await send(
        port, make_request(draw, "POST", "/v1/files", b"multipart/form-data; boundary=b", form)
    )
    file = re.search(rb'"id": ?"([^"]+)"', answer)
    if not decision or not file:
        raise SystemExit(f"a good call and a good upload fail: {answer[:300]!r}")
    # As long as what they replace, so that lengths in heads stay true.
    return {DECISION.encode(): decision[1], FILE.encode(): file[1]}


async def run_cases(port: int, kinds: Sequence[str], n_cases: int, seconds: float, seed: int) -> FuzzReport:
    """Send `n_cases` of every kind, as far as `seconds` reach."""
    report = FuzzReport()
    end = time.monotonic() + seconds
    waiting = iter([(kind, n) for n in range(n_cases) for kind in kinds])
    made = await prepare(port)

    async def work() -> None:
        for kind, n in waiting:
            if time.monotonic() > end:
                return
            request = MAKERS[kind](random.Random(f"{seed} {kind} {n}"))
            for name, value in made.items():
                request = request.replace(name, value)
            report.add(kind, n, request, *await send(port, request))

    await asyncio.gather(*(work() for _ in range(N_AT_ONCE)))
    return report


def write_config(folder: Path, upstream: int) -> Path:
    base = f"http://127.0.0.1:{upstream}/v1"
    names = ["good", "vectors", *(f"{kind}odd-{n}" for kind in ("", "vectors-") for n in range(N_ODD))]
    experts = [
        {"name": name, "model": f"openai/{name}", "api_base": base, "embeds": "vectors" in name}
        for name in names
    ]
    # A provider that LiteLLM translates for, at the address of the odd upstream.
    experts += [
        {"name": f"lite-odd-{n}", "model": f"mistral/lite-odd-{n}", "api_base": base, "api_key": "k" * 24}
        for n in range(N_ODD)
    ]
    config = {
        "experts": experts,
        "policies": {"auto": {"require": {"models": ["good"]}}},
        # What is cut off in the middle is given up sooner than usual.
        "server": {"limits": {"head_s": 2, "body_s": 2, "idle_s": 2}},
        "timeouts": {"connect_s": 1, "first_token_s": 3, "between_tokens_s": 3, "total_s": 6},
    }
    path = folder / "thalamus.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def read_log(log: Path) -> str:
    return log.read_text(errors="replace")


async def wait_ready(port: int, log: Path) -> None:
    ask = make_head("GET", "/health/ready", [(b"host", b"127.0.0.1"), (b"connection", b"close")])
    for _ in range(300):
        answer, _ = await send(port, ask)
        if b" 200 " in answer[:20]:
            return
        await asyncio.sleep(0.1)
    raise SystemExit(f"the gateway does not start: {read_log(log)[-500:]}")


async def fuzz(kinds: Sequence[str], n_cases: int, seconds: float, seed: int) -> FuzzReport:
    """Start an upstream and a gateway, run the cases, and look whether the gateway is well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    upstream = FuzzUpstream(random.Random(seed))
    server = await asyncio.start_server(upstream.connect, "127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_config(folder, server.sockets[0].getsockname()[1])
        log = folder / "gateway.log"
        serve = [str(Path(sys.executable).with_name("thalamus")), "serve", "--config", str(config)]
        with log.open("wb") as out:
            child = await asyncio.create_subprocess_exec(
                *serve, "--port", str(port), cwd=folder, stdout=out, stderr=out
            )
        try:
            await wait_ready(port, log)
            report = await run_cases(port, kinds, n_cases, seconds, seed)
            report.n_odd = upstream.n_odd
            await prepare(port)
        finally:
            child.terminate()
            await asyncio.wait_for(child.wait(), 30)
            server.close()
        text = read_log(log)
        if "Traceback" in text:
            report.faults.append("exception in the log: " + text[text.index("Traceback") :][:3000])
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000, help="of each kind")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(KINDS))
    arguments = parser.parse_args()
    report = asyncio.run(fuzz(arguments.only.split(","), arguments.cases, arguments.seconds, arguments.seed))
    for kind in KINDS:
        counts = {status: n for (of, status), n in sorted(report.statuses.items()) if of == kind}
        if counts:
            print(
                f"{kind}: {sum(counts.values())} cases, "
                + ", ".join(f"{n} × {status}" for status, n in counts.items())
            )
    print(
        f"{report.n_odd} odd answers of the upstream; slowest {report.slowest_s:.1f} s; {len(report.faults)} faults"
    )
    for fault in report.faults[:20]:
        print(fault)
    return int(bool(report.faults))


if __name__ == "__main__":
    sys.exit(main())
