"""A server process that misbehaves on request; speaks the same control protocol as the real ones.

Used as `python runner_child.py MODE`: `crash` ends at once, `mute` never reports, `serve` answers 200.
"""

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer


class Ok(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(mode: str) -> None:
    control = socket.socket(fileno=0)
    orders = control.makefile("rb")
    orders.readline()
    if mode == "crash":
        sys.exit("out of luck")
    if mode == "serve":
        server = HTTPServer(("127.0.0.1", 0), Ok)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        control.sendall(json.dumps({"address": address}).encode() + b"\n")
    while orders.readline():
        pass


if __name__ == "__main__":
    main(sys.argv[1])
