"""The process around a model of `transformers`: OpenAI's routes, what waits together answered together.

Run as a script with a socket for standard input; it ends with its parent. It imports nothing of the gateway.
Requests that come while a batch is under way make up the next one; within a batch each row has its own
length, temperature and stop words, and its tokens are sent as they come.

Why not `transformers serve` (read at transformers 5.24.0, `cli/serve.py` and `cli/serving/`):

- It checks no API key; the gateway gives every engine a key so that other users of the machine cannot use it.
- It generates for one request after another. `--continuous-batching` batches, but takes `temperature` and
  `top_p` for all requests from the first one; each row here has its own.
- It ignores `n` and `stream_options` with a line in its log. A client that asked for three answers would get
  one, without an error.
- It has no context limit of its own, so a long prompt is not refused with `context_length_exceeded`, the code
  on which a plan moves on to an expert with a longer context.
- It needs fastapi, pydantic, uvicorn, rich and openai beside torch; this script needs the standard library.
"""

import ctypes
import json
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GATHER_S = 0.005
LOOK_EVERY_S = 0.5
USUAL_TOKENS = 512


HEEDED = {
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
}
HEEDED |= {"stream", "stream_options"}
HARMLESS = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "cache_prompt",
}
HARMLESS |= {"parallel_tool_calls", "verbosity"}
"""Fields that change nothing in an answer from here."""
NO_WISH: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "top_k": (-1,),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "reasoning_effort": ("none",),
}
"""Values that ask for what is done anyway; for every field, nothing, false, zero and empty are such."""
ZERO_IS_A_WISH = {"seed"}


class RefusedError(Exception):
    """A request that cannot be answered; `code` and `param` as OpenAI has them."""

    def __init__(self, message: str, code: str = "invalid_value", param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def refuse_unheeded(body: dict[str, Any]) -> None:
    """Refuse what would be ignored: an answer without it would look as if it had been heeded.

    Raises:
        RefusedError: a wish that this engine cannot fulfil; its code lets a plan move on.
    """
    for name, value in body.items():
        if name in HEEDED or name in HARMLESS or value is None or value in NO_WISH.get(name, ()):
            continue
        if value or (name in ZERO_IS_A_WISH and value is not False):
            said = f"Unsupported parameter: '{name}' is not supported by the engine transformers"
            raise RefusedError(said, "unsupported_parameter", name)
    for turn in body.get("messages") or ():
        if turn.get("tool_calls") or turn.get("role") in ("tool", "function"):
            raise RefusedError("tool calls are not supported", "unsupported_value", "messages")


class Job:
    """One request: its prompt, its wishes, and the pieces of text as they come; None ends them."""

    def __init__(self, prompt: list[int], body: dict[str, Any], most: int) -> None:
        n_wanted = body.get("max_completion_tokens") or body.get("max_tokens") or USUAL_TOKENS
        stop = body.get("stop") or []
        self.prompt = prompt
        self.max_tokens = min(int(n_wanted), most)
        self.temperature = float(1.0 if body.get("temperature") is None else body["temperature"])
        self.top_p = float(body.get("top_p") or 1.0)
        self.stop = [stop] if isinstance(stop, str) else [str(word) for word in stop]
        self.pieces: queue.Queue[str | None] = queue.Queue()
        self.tokens: list[int] = []
        self.text = ""
        self.finish: str | None = None

    def feed(self, token: int, decode: Any, ends: set[int]) -> None:
        """Take the next token of its row."""
        if self.finish is not None:
            return
        self.tokens.append(token)
        # All tokens again: the text of one can depend on those before it, such as a space or half a
        # character.
        text = decode(self.tokens, skip_special_tokens=True)
        cut = min((at for word in self.stop if (at := text.find(word)) >= 0), default=None)
        if token in ends or cut is not None:
            self.end("stop", text[:cut])
        elif len(self.tokens) >= self.max_tokens:
            self.end("length", text)
        elif not text.endswith("�"):  # half a character: the rest comes with the next token
            self._say(text)

    def end(self, why: str, text: str) -> None:
        """Finish the row for the reason `why`, as `finish_reason` has it."""
        self.finish = why
        self._say(text)
        self.pieces.put(None)

    def _say(self, text: str) -> None:
        if len(text) > len(self.text):
            self.pieces.put(text[len(self.text) :])
            self.text = text


class LoadedModel:
    """Weights and tokenizer, and the one thread that generates."""

    def __init__(self, order: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(order["n_threads"])
        device = order["device"]
        more = {"gguf_file": order["weights_file"]} if order["weights_file"] else {}
        # Many CPUs have no fast bfloat16.
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        # Padded on the left, because generation goes on at the right end of every row.
        self.tokenizer = AutoTokenizer.from_pretrained(order["model"], padding_side="left", **more)
        self.model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=dtype, **more)
        self.model.to(device).eval()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        ends = self.model.generation_config.eos_token_id
        self.ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id} - {None}
        # Of this process alone: what is free on the device changes with those of others.
        self.memory_bytes = torch.cuda.memory_reserved(device) if device.startswith("cuda") else None
        self.context_tokens: int = order["context_tokens"]
        self.jobs: queue.Queue[Job] = queue.Queue()
        self._n_parallel: int = order["n_parallel"]
        threading.Thread(target=self._work, daemon=True).start()

    def create_job(self, body: dict[str, Any], chat: bool) -> Job:
        """The request as tokens.

        Raises:
            RefusedError: it cannot be answered.
        """
        refuse_unheeded(body)
        prompt = self._encode_chat(body) if chat else self._encode_prompt(body)
        room = self.context_tokens - len(prompt)
        if room < 1:
            limit = f"this model's maximum context length is {self.context_tokens} tokens"
            raise RefusedError(f"{limit}; the prompt has {len(prompt)}", "context_length_exceeded")
        return Job(prompt, body, room)

    def _encode_chat(self, body: dict[str, Any]) -> list[int]:
        turns = [{"role": t["role"], "content": read_text(t.get("content"))} for t in body["messages"]]
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        return list(self.tokenizer(f"{text}\nassistant:")["input_ids"])

    def _encode_prompt(self, body: dict[str, Any]) -> list[int]:
        if not isinstance(body["prompt"], str):
            raise RefusedError(
                "prompt must be one text: tokens and lists are not supported", "unsupported_value", "prompt"
            )
        return list(self.tokenizer(body["prompt"])["input_ids"])

    def _work(self) -> None:
        while True:
            jobs = [self.jobs.get()]
            until = time.monotonic() + GATHER_S
            while len(jobs) < self._n_parallel:
                try:
                    jobs.append(self.jobs.get(timeout=max(0.0, until - time.monotonic())))
                except queue.Empty:
                    break
            try:
                self._generate(jobs)
            except Exception as error:  # of one batch; the next may do
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
            for job in jobs:
                if job.finish is None:
                    job.end("error", job.text)

    def _generate(self, jobs: list[Job]) -> None:
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        # `generate` knows one temperature for all rows, so each row is scaled here by its own.
        # ids (n_rows, n_tokens), scores (n_rows, n_vocabulary)
        def choose(ids: Any, scores: Any) -> Any:
            return torch.stack([warp_scores(row, job, torch) for row, job in zip(scores, jobs, strict=True)])

        def tap(ids: Any, scores: Any, **_: Any) -> Any:
            for token, job in zip(ids[:, -1].tolist(), jobs, strict=True):
                job.feed(token, self.tokenizer.decode, self.ends)
            return torch.tensor([job.finish is not None for job in jobs], device=ids.device)

        batch = self.tokenizer.pad({"input_ids": [job.prompt for job in jobs]}, return_tensors="pt")
        # top_k=0 switches off the library's default of 50.
        with torch.inference_mode():
            self.model.generate(
                **batch.to(self.model.device),
                max_new_tokens=max(job.max_tokens for job in jobs),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([choose]),
                stopping_criteria=StoppingCriteriaList([tap]),
            )


def warp_scores(row: Any, job: Job, torch: Any) -> Any:
    """The scores of one row at its own temperature: only the best at 0, the likeliest `top_p` otherwise."""
    if job.temperature <= 0:
        only = torch.full_like(row, float("-inf"))
        only[row.argmax()] = 0.0
        return only
    row = row / job.temperature
    if job.top_p < 1:
        ordered, places = row.sort(descending=True)
        share = ordered.softmax(-1)
        # Nucleus sampling (arXiv:1904.09751). `cumsum - share` is the mass before a token, so the likeliest
        # one always stays.
        row[places[share.cumsum(-1) - share >= job.top_p]] = float("-inf")
    return row


def read_text(content: Any) -> str:
    """The text of a message.

    Raises:
        RefusedError: there is something else in it.
    """
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    if any(not isinstance(part, dict) or part.get("type") != "text" for part in parts):
        raise RefusedError("only text is supported", "unsupported_value", "messages")
    return "".join(str(part["text"]) for part in parts)


class ChildRequestHandler(BaseHTTPRequestHandler):
    """One connection; the model and the order are the server's."""

    protocol_version = "HTTP/1.1"
    server: "InferenceServer"

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": self.server.order["alias"], "object": "model"}]}
        there: dict[str, dict[str, Any]] = {"/health": {"status": "ok"}, "/v1/models": models}
        self._put(200 if self.path in there else 404, there.get(self.path, {}))

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("authorization") != f"Bearer {self.server.order['api_key']}":
            return self._refuse(401, "this key is not accepted here", "invalid_api_key")
        if self.path not in ("/v1/chat/completions", "/v1/completions"):
            return self._refuse(404, f"there is no {self.path} here", "unknown_url")
        chat = self.path.endswith("/chat/completions")
        try:
            body = json.loads(data)
            job = self.server.model.create_job(body, chat)
        except RefusedError as refused:
            return self._refuse(400, str(refused), refused.code, refused.param)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._refuse(400, f"the request cannot be read: {error!r}", "invalid_value")
        self.server.model.jobs.put(job)
        if body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return self._stream(job, chat, usage)
        return self._send_whole(job, chat)

    def _send_whole(self, job: Job, chat: bool) -> None:
        text = "".join(self._read_pieces(job))
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if job.finish == "error":
            return self._refuse(500, "the model failed; the log says why", "internal_error")
        choice = {"index": 0, **said, "finish_reason": job.finish}
        kind = "chat.completion" if chat else "text_completion"
        return self._put(200, {**self._build_frame(kind), "choices": [choice], "usage": count_usage(job)})

    def _stream(self, job: Job, chat: bool, usage: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        frame = self._build_frame("chat.completion.chunk" if chat else "text_completion")
        try:
            for text in self._read_pieces(job):
                said: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
                self._send({**frame, "choices": [{"index": 0, **said, "finish_reason": None}]})
            if job.finish == "error":
                return self._send({"error": {"message": "the model failed; the log says why"}})
            last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
            self._send({**frame, "choices": [{"index": 0, **last, "finish_reason": job.finish}]})
            if usage:
                self._send({**frame, "choices": [], "usage": count_usage(job)})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            job.finish = job.finish or "gone"
        return None

    def _read_pieces(self, job: Job) -> Iterator[str]:
        """Text as it comes; ends early where the client went away, and the row with it."""
        while True:
            try:
                piece = job.pieces.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                if self._is_client_gone():
                    job.finish = job.finish or "gone"
                    return
                continue
            if piece is None:
                return
            yield piece

    def _is_client_gone(self) -> bool:
        try:
            readable = select.select([self.connection], [], [], 0)[0]
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _build_frame(self, kind: str) -> dict[str, Any]:
        name = f"c-{time.time_ns():x}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.server.order["alias"]}

    def _send(self, value: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    def _refuse(self, status: int, message: str, code: str, param: str | None = None) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        self._put(status, {"error": error})

    def _put(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class InferenceServer(ThreadingHTTPServer):
    """Listens on a free port of this machine."""

    daemon_threads = True

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.model = LoadedModel(order)
        super().__init__(("127.0.0.1", 0), ChildRequestHandler)


def count_usage(job: Job) -> dict[str, int]:
    n_in, n_out = len(job.prompt), len(job.tokens)
    return {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}


def main() -> None:
    """Serve until the parent closes its end of the socket, as any death of it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    control = socket.socket(fileno=0)
    with control.makefile("rb") as orders:
        order = json.loads(orders.readline() or b"null")
        if order is None:
            return
        try:
            server = InferenceServer(order)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            control.sendall(json.dumps({"error": said}).encode() + b"\n")
            sys.exit(1)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        report = {
            "address": f"http://127.0.0.1:{server.server_port}",
            "memory_bytes": server.model.memory_bytes,
        }
        control.sendall(json.dumps(report).encode() + b"\n")
        while orders.readline():
            pass
    os._exit(0)


if __name__ == "__main__":
    main()
