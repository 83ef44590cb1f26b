"""Lines whose texts are read here: in the embedders' own threads, a few lines at a time."""

from collections.abc import Awaitable, Callable
from time import perf_counter

from ..embedding import EmbedderPool
from ..endpoints.embeddings import read_here, ready, room
from ..errors import GatewayError, to_envelope
from ..execution.trace import ExecutionTrace
from ..experts.types import Call
from ..journal import AttemptRecord
from ..requests.fields import text_field
from ..requests.options import parse_routing_options
from ..requests.texts import parse_embedding_request
from .lines import EMBEDDED_HERE, NO_HEADERS
from .outcomes import Failure, Outcome

LOOK_AGAIN_S = 0.3


async def embedded_here(
    call: Call, pool: EmbedderPool | None, pause: Callable[[float], Awaitable[None]]
) -> Outcome:
    """What came of a line: the very answer a live client gets, once there is room for its texts.

    `pause` waits so many seconds, or raises where the batch is to stop.
    """
    start = perf_counter()
    if pool is None:
        return _failed(GatewayError("no embedder is served here any more"), start)
    fields = call.fields
    try:
        await ready(pool)
        hints = parse_routing_options(fields, NO_HEADERS)
        asked = parse_embedding_request(text_field(fields, "model"), fields, hints, pool)
        while pool.turns.crowded(len(asked.texts)):
            await pause(LOOK_AGAIN_S)
        with room(asked, pool):
            order, read = await read_here(asked, fields, hints, pool)
            reply = await read(order, ExecutionTrace(""))
    except GatewayError as error:
        return _failed(error, start)
    record = AttemptRecord(EMBEDDED_HERE, "answered", 200, None, perf_counter() - start)
    return Outcome(record, reply.body, reply.usage)


def _failed(error: GatewayError, start: float) -> Outcome:
    record = AttemptRecord(EMBEDDED_HERE, "refused", error.status, error.message, perf_counter() - start)
    failure = Failure("refused", error.message, error.status, to_envelope(error))
    return Outcome(record, failure=failure)
