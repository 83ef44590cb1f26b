"""`GET /v1/decisions/{id}`: an earlier decision and its outcome, from the journal."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import EndpointNotFound
from .answers import get_services, json_response

# No id is longer. Such a path is neither looked up nor repeated in full.
MAX_ID_CHARS = 128


class DecisionNotFound(EndpointNotFound):
    code = "decision_not_found"


async def get_decision(request: Request) -> Response:
    """The journal entry of a decision.

    Raises:
        DecisionNotFound: it never existed, or the journal has deleted it.
    """
    decision_id = request.path_params["decision_id"]
    known = len(decision_id) <= MAX_ID_CHARS
    found = await get_services(request).journal.get(decision_id) if known else None
    if found is None:
        raise DecisionNotFound(
            f"there is no decision '{decision_id[:MAX_ID_CHARS]}' in the journal", param="decision_id"
        )
    return json_response(found)


ROUTES = [Route("/v1/decisions/{decision_id}", get_decision, methods=["GET"])]
