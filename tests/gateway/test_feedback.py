"""`POST /v1/feedback`: what clients say of answers stays with the decisions; a key speaks of its own."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway import AsyncClient, BadRequest, NotFound
from gateway.testing import FakeUpstream
from tests.fakes.serving import KEY, LiveApp, gateway


@contextlib.asynccontextmanager
async def serve(
    tmp_path: Path, upstream: FakeUpstream, key: str | None = KEY, **more: Any
) -> AsyncIterator[LiveApp]:
    experts = [
        {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url}
        for name in ("says-a", "says-b", "status-500")
    ]
    server = {"server": {"master_key": key}} if key else {}
    async with gateway({"experts": experts, **server, **more}, str(tmp_path / "j.sqlite3"), "says-a") as live:
        yield live


async def ask(live: LiveApp, model: str = "says-a", key: str = KEY) -> str:
    answer = await live.chat(model, headers={"authorization": f"Bearer {key}"})
    return answer.headers["x-thalamus-decision-id"]


async def say(live: LiveApp, decision_id: str, key: str = KEY, **said: Any) -> Any:
    body = {"decision_id": decision_id, **said}
    return await live.post("feedback", body, authorization=f"Bearer {key}")


async def read_said(live: LiveApp, decision_id: str) -> list[dict[str, Any]]:
    entry = await live.services.journal.get(decision_id)
    assert entry is not None
    return [{k: v for k, v in one.items() if v is not None and k != "time"} for one in entry["feedback"]]


@pytest.mark.parametrize(
    ("said", "is_kept"),
    [
        ({"score": 0.25}, {"score": 0.25}),
        ({"score": 1}, {"score": 1.0}),
        ({"thumbs": "up"}, {"score": 1.0}),
        ({"thumbs": "down", "comment": "wrong river"}, {"score": 0.0, "comment": "wrong river"}),
        ({"comment": "too long"}, {"comment": "too long"}),
        ({"score": 0.5, "user": "u7"}, {"score": 0.5, "user": "u7"}),
    ],
)
async def test_what_is_said_stays_with_the_decision(
    tmp_path: Path, said: dict[str, Any], is_kept: dict[str, Any]
) -> None:
    async with FakeUpstream() as upstream, serve(tmp_path, upstream) as live:
        decision_id = await ask(live)
        answer = await say(live, decision_id, **said)
        assert (answer.status, answer.json()["object"]) == (200, "feedback")
        assert await read_said(live, decision_id) == [is_kept]
        found = await live.http.get(
            f"{live.base}/decisions/{decision_id}", headers={"authorization": f"Bearer {KEY}"}
        )
        assert [one["score"] for one in (await found.json())["feedback"]] == [is_kept.get("score")]


async def test_said_again_it_is_the_same_and_the_later_word_counts(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream, serve(tmp_path, upstream) as live:
        decision_id = await ask(live)
        for said in ({"score": 0.25}, {"score": 0.25}, {"comment": "hm"}, {"thumbs": "up"}):
            assert (await say(live, decision_id, **said)).status == 200
        assert await read_said(live, decision_id) == [{"score": 1.0, "comment": "hm"}]
        await say(live, decision_id, score=0, user="another")
        assert [one["score"] for one in await read_said(live, decision_id)] == [1.0, 0.0]


async def test_the_chosen_of_several_answers_counts_one_and_the_others_nothing(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream, serve(tmp_path, upstream) as live:
        best, second, third = await ask(live), await ask(live, "says-b"), await ask(live, "says-b")
        assert (await say(live, best, among=[second, third, best])).status == 200
        assert [await read_said(live, one) for one in (best, second, third)] == [
            [{"score": 1.0}],
            [{"score": 0.0}],
            [{"score": 0.0}],
        ]
        other = await ask(live)
        assert (await say(live, other, among=[best, "dec_nothing"])).status == 404
        assert await read_said(live, other) == []
        assert await read_said(live, best) == [{"score": 1.0}]


NO_SCORES: list[Any] = [7, 1.5, -0.1, "good", True, [1], {}]


@pytest.mark.parametrize(
    ("said", "param", "message"),
    [
        ({}, None, "nothing is said"),
        *(({"score": value}, "score", "'score' must be a number from 0 to 1") for value in NO_SCORES),
        ({"thumbs": "sideways"}, "thumbs", "'thumbs': invalid enum value 'sideways'"),
        ({"score": 1, "thumbs": "up"}, "thumbs", "'score' and 'thumbs' say the same; send one"),
        ({"scroe": 1}, "scroe", "'scroe' is not a field here; did you mean 'score'?"),
        ({"chosen": "says-b"}, "chosen", "it was no panel"),
        ({"comment": "x" * 4001}, "comment", "'comment': expected"),
        ({"among": []}, "among", "'among': expected"),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_the_field(
    tmp_path: Path, said: dict[str, Any], param: str | None, message: str
) -> None:
    async with FakeUpstream() as upstream, serve(tmp_path, upstream) as live:
        decision_id = await ask(live)
        answer = await say(live, decision_id, **said)
        assert answer.status == 400
        assert answer.error["param"] == param
        assert message in answer.error["message"]
        assert await read_said(live, decision_id) == []


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"score": 1}', b'{"decision_id": 7, "score": 1}'])
async def test_a_body_that_names_no_decision_is_a_400(tmp_path: Path, body: bytes) -> None:
    async with FakeUpstream() as upstream, serve(tmp_path, upstream) as live:
        answer = await live.post("feedback", body, authorization=f"Bearer {KEY}")
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


async def test_so_many_users_may_speak_of_one_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.endpoints.feedback.MAX_VOICES", 2)
    async with FakeUpstream() as upstream, serve(tmp_path, upstream) as live:
        decision_id = await ask(live)
        for user in ("u1", "u2"):
            assert (await say(live, decision_id, score=1, user=user)).status == 200
        assert (await say(live, decision_id, score=1, user="u3")).error["param"] == "user"
        assert (await say(live, decision_id, score=0, user="u2")).status == 200


async def test_a_key_speaks_of_its_own_decisions_only(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        async with serve(tmp_path, upstream) as live:
            mine = await ask(live)
            assert (await say(live, mine, key="sk-wrong", score=1)).status == 401
            missing = await say(live, "dec_nothing", score=1)
            assert (missing.status, missing.error["code"]) == (404, "decision_not_found")
        # Another key of the same name speaks of what the former one asked; that of another name does not.
        async with serve(tmp_path, upstream, key=KEY + "2") as live:
            assert (await say(live, mine, key=KEY + "2", comment="mine")).status == 200
        keys = {"server": {"master_key": KEY, "keys": {"other": [KEY + "3"]}}}
        async with serve(tmp_path, upstream, key=None, **keys) as live:
            answer = await say(live, mine, key=KEY + "3", score=1)
            assert (answer.status, answer.error["code"]) == (404, "decision_not_found")
            assert await read_said(live, mine) == [{"comment": "mine"}]


async def test_what_was_not_answered_cannot_be_rated_but_commented(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream, serve(tmp_path, upstream) as live:
        failed = await ask(live, "status-500")
        answer = await say(live, failed, score=1)
        assert (answer.status, answer.error["param"]) == (400, "decision_id")
        assert (await say(live, failed, comment="it failed")).status == 200


async def test_without_a_journal_there_is_nothing_to_speak_of(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream, serve(tmp_path, upstream, journal={"enabled": False}) as live:
        answer = await say(live, await ask(live), score=1)
        assert (answer.status, answer.error["code"]) == (409, "journal_disabled")


async def test_a_gateway_without_a_key_takes_feedback_too(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream, serve(tmp_path, upstream, key=None) as live:
        decision_id = await ask(live)
        assert (await live.post("feedback", {"decision_id": decision_id, "thumbs": "down"})).status == 200
        assert await read_said(live, decision_id) == [{"score": 0.0}]


async def test_the_sdk_says_it_with_the_answer_itself(tmp_path: Path) -> None:
    async with (
        FakeUpstream() as upstream,
        serve(tmp_path, upstream) as live,
        AsyncClient(live.base, KEY) as client,
    ):
        first, second = await client.chat("Hi", "says-a"), await client.chat("Hi", "says-b")
        said = await client.feedback(first, 0.75, comment="good")
        assert (said.decision_id, said.score, said.comment) == (first.decision_id, 0.75, "good")
        await client.feedback(second, among=[first])
        stream = await client.chat("Hi", "says-a", stream=True)
        async for _ in stream:
            pass
        await client.feedback(stream, thumbs="up")
        assert [len(await read_said(live, one.decision_id or "")) for one in (first, second, stream)] == [
            1,
            1,
            1,
        ]
        with pytest.raises(BadRequest, match="chosen"):
            await client.feedback(first, chosen="says-b")
        with pytest.raises(NotFound):
            await client.feedback("dec_0", 1)
