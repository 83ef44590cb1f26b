"""An Ollama daemon as far as a runner sees it, with one model that can be loaded."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KNOWN = "smollm2:135m"


class OllamaDaemon:
    """`loaded` is what it holds now: model → seconds it is kept after its last request."""

    def __init__(self) -> None:
        self.loaded: dict[str, int] = {}
        daemon = self

        class OllamaHandler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                models = [{"name": n, "model": n, "size": 9_000_000, "size_vram": 0} for n in daemon.loaded]
                there = {"/api/version": {"version": "0.40.12"}, "/api/ps": {"models": models}}
                self.put(200 if self.path in there else 404, there.get(self.path, {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.put(*daemon.answer(self.path, body))

            def put(self, status: int, value: object) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), OllamaHandler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str, body: dict[str, object]) -> tuple[int, object]:
        model = str(body["model"])
        if model != KNOWN:
            return 404, {"error": f"model '{model}' not found"}
        if path == "/api/generate":
            keep = body["keep_alive"]
            assert isinstance(keep, int)
            if keep:
                self.loaded[model] = keep
            else:
                self.loaded.pop(model, None)
            return 200, {"model": model, "response": "", "done_reason": "load" if keep else "unload"}
        if path == "/v1/completions":
            return 200, {"choices": [{"index": 0, "text": "Paris.", "finish_reason": "stop"}]}
        if path == "/v1/chat/completions":
            message = {"role": "assistant", "content": "Paris."}
            return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return 404, {"error": "not found"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
