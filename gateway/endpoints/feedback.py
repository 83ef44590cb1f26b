"""`POST /v1/feedback`: what a client says of an answer, by the id of its decision."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import BadRequest, InvalidField
from ..storage.feedback import FeedbackRecord
from .answers import decode_body, get_services, json_response
from .decisions import MAX_ID_CHARS, DecisionNotFound, read_body

MAX_COMMENT_CHARS = 4000
MAX_AMONG = 16
MAX_FEEDBACK_BYTES = 64 * 1024
"""More than all of its fields take, even where every character is escaped."""
MAX_VOICES = 1000
"""So many users may speak of one decision."""
THUMBS = {"up": 1.0, "down": 0.0}

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body: a decision, and at least one statement about its answer.

    `among` are decisions whose answers were shown beside; this one was chosen, so theirs count 0 and this 1.
    `chosen` is the member of a panel that answered best. `user` tells users behind one key apart.
    """

    decision_id: Id
    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    thumbs: Literal["up", "down"] | None = None
    among: Annotated[list[Id], Meta(min_length=1, max_length=MAX_AMONG)] | None = None
    chosen: Annotated[str, Meta(max_length=256)] | None = None
    comment: Annotated[str, Meta(max_length=MAX_COMMENT_CHARS)] | None = None
    user: Annotated[str, Meta(max_length=256)] | None = None


_decoder = msgspec.json.Decoder(FeedbackRequest)


class JournalOff(BadRequest):
    status = 409
    code = "journal_disabled"


async def give_feedback(request: Request) -> Response:
    """Keep what is said of an answer. Said again it is the same; said otherwise the later word counts.

    Raises:
        InvalidField: a field has an invalid value.
        DecisionNotFound: this key has no such decision.
        StorageError: the journal cannot be written now.
    """
    services = get_services(request)
    body = _read_feedback(await read_body(request, MAX_FEEDBACK_BYTES))
    if not services.config.journal.enabled:
        raise JournalOff("this gateway keeps no decisions (journal: {enabled: false})")
    key_name: str | None = request.state.key_name
    score = _read_score(body)
    entry = await _find_decision(request, body.decision_id, "decision_id")
    if score is not None and entry["expert_answered"] is None:
        raise InvalidField(
            f"the decision '{body.decision_id}' has no answer that could be rated", param="decision_id"
        )
    _check_chosen(body, entry)
    voices = {one["user"] for one in entry["feedback"]}
    if len(voices) >= MAX_VOICES and body.user not in voices:
        raise InvalidField(f"{MAX_VOICES} users have spoken of this decision already", param="user")
    others = [one for one in dict.fromkeys(body.among or ()) if one != body.decision_id]
    for other in others:
        await _find_decision(request, other, "among")
    now = time.time()
    said = FeedbackRecord(
        decision_id=body.decision_id,
        time=now,
        key_id=key_name,
        user=body.user,
        score=score,
        chosen=body.chosen,
        comment=body.comment,
    )
    beaten = [
        FeedbackRecord(decision_id=other, time=now, key_id=key_name, user=body.user, score=0.0)
        for other in others
    ]
    await services.journal.add_feedback([said, *beaten])
    return json_response({"object": "feedback", "decision_id": body.decision_id, **said.to_json()})


def _read_feedback(body: bytes) -> FeedbackRequest:
    """The body as a struct.

    Raises:
        InvalidField, InvalidJson: it is none; names the field.
    """
    try:
        return decode_body(_decoder, body)
    except InvalidField as error:
        if error.param == "score":
            raise InvalidField("'score' must be a number from 0 to 1", param="score") from None
        raise


def _read_score(body: FeedbackRequest) -> float | None:
    """The score that is said in one of three ways.

    Raises:
        InvalidField: it is said twice, or nothing is said at all.
    """
    ways = {"score": body.score, "thumbs": body.thumbs, "among": body.among}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InvalidField(f"'{given[0]}' and '{given[1]}' say the same; send one", param=given[1])
    if not given and not (body.chosen or body.comment):
        raise InvalidField("nothing is said: send 'score', 'thumbs', 'among', 'chosen' or 'comment'")
    if body.thumbs is not None:
        return THUMBS[body.thumbs]
    return 1.0 if body.among is not None else body.score


async def _find_decision(request: Request, decision_id: str, param: str) -> Mapping[str, Any]:
    """The journal's entry; that of another key does not exist for this one.

    Raises:
        DecisionNotFound: this key has no such decision.
    """
    found = await get_services(request).journal.get(decision_id)
    if found is None or found["key_id"] != request.state.key_name:
        raise DecisionNotFound(f"there is no decision '{decision_id}' of yours in the journal", param=param)
    return found


def _check_chosen(body: FeedbackRequest, entry: Mapping[str, Any]) -> None:
    """Refuse a choice that was none.

    Raises:
        InvalidField: the expert is not one of several that answered.
    """
    if body.chosen is None:
        return
    members = find_members(entry)
    if body.chosen not in members:
        known = f"; these did: {', '.join(members)}" if members else ": it was no panel"
        raise InvalidField(
            f"'{body.chosen}' did not answer beside others for '{body.decision_id}'{known}", param="chosen"
        )


def find_members(entry: Mapping[str, Any]) -> list[str]:
    """The members of a panel that answered, in the order of their answers; empty for other plans."""
    return [
        attempt["expert"]
        for attempt in entry["attempts"]
        if attempt.get("role") == "member" and attempt["verdict"] == "answered"
    ]


ROUTES = [Route("/v1/feedback", give_feedback, methods=["POST"])]
