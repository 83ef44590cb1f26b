"""The outermost layer: who is asking, which handler answers, and what an error looks like.

Endpoints that every request of consequence goes through are called directly; everything else is an
ordinary Starlette application behind the same door.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.types import ASGIApp

from ..errors import INTERNAL_ERROR, GatewayError, MethodNotAllowed
from .authentication import Authenticator
from .exchange import ClientDisconnectedError, Exchange, Message, Receive, Scope, Send

Handler = Callable[[Exchange], Awaitable[None]]
OPEN_PATHS = frozenset({"/health/live", "/health/ready"})

log = logging.getLogger("thalamus")


class Application:
    """ASGI application: POST to a path of `hot` goes straight to its handler, all else to `rest`."""

    def __init__(self, hot: Mapping[str, Handler], rest: ASGIApp, gate: Authenticator) -> None:
        # Inference skips Starlette's routing and middleware: its way is one look-up in a dictionary.
        self._hot = dict(hot)
        self._rest = rest
        self._gate = gate
        self.n_in_flight = 0
        """Requests of `hot` being answered now."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        path = exchange.path
        try:
            if path not in OPEN_PATHS:
                exchange.key_id = self._gate.authenticate(scope["headers"])
            handler = self._hot.get(path)
            if handler is None:
                scope.setdefault("state", {})["key_id"] = exchange.key_id
                await self._rest(scope, receive, self._with_request_id(exchange, send))
            elif scope["method"] != "POST":
                raise MethodNotAllowed(f"{path} takes POST, not {scope['method']}", ["POST"])
            else:
                self.n_in_flight += 1
                try:
                    await handler(exchange)
                finally:
                    self.n_in_flight -= 1
        except GatewayError as error:
            await self._refuse(exchange, error)
        except ClientDisconnectedError:
            pass
        except asyncio.CancelledError:
            # When the client leaves the exchange cancels its own task; other cancellations are the server's.
            if not exchange.gone:
                raise
        except Exception:
            log.exception("request %s failed", exchange.request_id.decode())
            await self._refuse(exchange, GatewayError(INTERNAL_ERROR))
        finally:
            exchange.finish()

    @staticmethod
    def _with_request_id(exchange: Exchange, send: Send) -> Send:
        """The same `send`, that puts the request's id on the response."""

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.responded = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", exchange.request_id)]
            await send(message)

        return send_with_id

    @staticmethod
    async def _refuse(exchange: Exchange, error: GatewayError) -> None:
        if not exchange.responded:
            await exchange.refuse(error)
