"""A streamed answer, read without I/O: bytes in, chunks out, an error if it was not completed."""

import json
from collections.abc import Iterator

import httpx

from .errors import StreamError
from .exchange import as_text, build_connection_error, parse_error_body
from .values import Chunk


class Transcript:
    """A streamed answer as it comes: bytes in, chunks out, until [DONE]."""

    def __init__(self) -> None:
        self.done = False
        self._events = EventDecoder()

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The chunks that `block` completes.

        Raises:
            StreamError: the gateway reported a failure, or sent what is no chunk.
        """
        for data in self._events.feed(block):
            if self.done:
                return
            # OpenAI's mark for a complete answer; a proxy that cuts the connection sends none.
            if data == "[DONE]":
                self.done = True
                return
            yield _chunk(data)

    def end(self, failure: httpx.RequestError | None = None) -> None:
        """The stream is over; `failure` if the connection broke.

        Raises:
            StreamError: it ended before [DONE]: the answer is not complete.
        """
        if not self.done:
            cause = f": {build_connection_error(failure)}" if failure else ""
            raise StreamError(f"the stream ended before the answer was complete{cause}") from failure


def _chunk(data: str) -> Chunk:
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict):
            raise ValueError("not an object")
        if not raw.get("error"):
            return Chunk.parse(raw)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StreamError("the stream holds an event that is no chunk of an answer") from error
    facts = parse_error_body(data.encode())
    raise StreamError(
        str(facts.get("message") or "the gateway reported a failure"),
        type=as_text(facts.get("type")),
        code=as_text(facts.get("code")),
    )


class EventDecoder:
    """Server-sent events from bytes cut anywhere: within a character, a line end or an event.

    Only the field `data` is kept. Lines end with LF, CR or CRLF, and with nothing else: U+2028 is text.
    """

    def __init__(self) -> None:
        self._line = b""
        self._data: list[str] = []
        self._after_cr = False

    def feed(self, block: bytes) -> Iterator[str]:
        """The data of each event that `block` completes."""
        if self._after_cr and block.startswith(b"\n"):  # the second half of a CRLF whose CR ended a line
            block = block[1:]
        self._after_cr = block.endswith(b"\r")
        # `splitlines` of bytes knows LF, CR and CRLF alone, as the specification does (WHATWG HTML, server-
        # sent events); that of str would also split at U+2028.
        lines = (self._line + block).splitlines(keepends=True)
        self._line = lines.pop() if lines and not lines[-1].endswith((b"\r", b"\n")) else b""
        for line in lines:
            content = line.rstrip(b"\r\n").decode(errors="replace")
            if content:
                self._take(content)
            elif self._data:
                data, self._data = "\n".join(self._data), []
                yield data

    def _take(self, line: str) -> None:
        name, _, value = line.removeprefix("\ufeff").partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
