"""`GET /v1/decisions/{id}`: a decision made earlier, and what came of it."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import EndpointNotFound
from .answers import get_services, json_response

MAX_ID_CHARS = 128


class DecisionNotFound(EndpointNotFound):
    code = "decision_not_found"


async def get_decision(request: Request) -> Response:
    """The journal's entry.

    Raises:
        DecisionNotFound: there is none, or it is not kept any more.
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
