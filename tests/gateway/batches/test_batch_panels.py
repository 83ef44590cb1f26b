"""Panels in batches: the members' answers with their experts' other calls, then the aggregator's."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import openai

from gateway.app import build_application, build_services
from gateway.batches.planning import choose_local_group
from gateway.config import Config
from gateway.experts.http_client import Transport
from gateway.testing import FakeUpstream
from policies import Device, Loadable, Resident, Snapshot
from tests.fakes.batches import CHAT, jsonl, line, read_content, rows
from tests.fakes.serving import live, secret

QUESTION = "How many legs has a spider?"
PRICE = 1e-3


async def panel(tmp_path: Path, models: str, n_lines: int = 3) -> tuple[list[Any], list[Any], list[str]]:
    """Output and errors of a batch for a panel of the first three models, and the models called."""
    async with FakeUpstream() as upstream:
        experts = [
            {
                "name": name,
                "model": f"openai/{model}",
                "api_base": upstream.base_url,
                "quality": 0.8 - 0.01 * n,
                "input_cost_per_token": PRICE,
                "output_cost_per_token": PRICE,
            }
            for n, (name, model) in enumerate(zip("abcdef", models.split(), strict=False))
        ]
        config = {
            "experts": experts,
            "policies": {"auto": {"plan": {"panel": {"k": 3, "aggregator": "auto"}}}},
            "routing": {"artifact": str(tmp_path / "none")},
            "journal": {"path": str(tmp_path / "j.sqlite3")},
        }
        transport = Transport()
        services = build_services(msgspec.convert(config, Config, dec_hook=secret), transport)
        lines = jsonl(*(line(str(n), "auto", QUESTION) for n in range(n_lines)))
        async with (
            live(build_application(services, transport)) as base,
            openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as ai,
        ):
            file = await ai.files.create(file=("in", lines), purpose="batch")
            batch = await ai.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
            async with asyncio.timeout(20):
                while batch.status != "completed":
                    await asyncio.sleep(0.02)
                    batch = await ai.batches.retrieve(batch.id)
            found = [
                rows((await ai.files.content(one)).content) if one else []
                for one in (batch.output_file_id, batch.error_file_id)
            ]
        return found[0], found[1], [str(call["model"]) for call in upstream.calls]


async def test_the_answer_of_most_members_is_given(tmp_path: Path) -> None:
    output, errors, asked = await panel(tmp_path, "says-6 says-8 says-It_has_8_legs. good")
    assert ([read_content(row) for row in output], errors) == (["8"] * 3, [])
    assert {row["thalamus"]["plan"] for row in output} == {"panel"}
    assert {row["response"]["body"]["usage"]["total_tokens"] for row in output} == {75}
    assert len(asked) == 9


async def test_members_who_do_not_agree_are_made_one_by_the_aggregator(tmp_path: Path) -> None:
    output, errors, asked = await panel(tmp_path, "says-6 says-7 says-8")
    assert ([read_content(row) for row in output], errors) == (["6"] * 3, [])
    assert [row["thalamus"]["cost_usd"] for row in output] == [100 * PRICE] * 3
    assert (len(asked), asked.count("says-6")) == (12, 6)


async def test_a_member_that_fails_is_left_out(tmp_path: Path) -> None:
    output, errors, _ = await panel(tmp_path, "status-400 says-8 says-8")
    assert ([read_content(row) for row in output], errors) == (["8"] * 3, [])


async def test_where_all_members_fail_the_fallbacks_are_asked(tmp_path: Path) -> None:
    output, errors, _ = await panel(tmp_path, "status-401 status-401 status-401 says-b", n_lines=1)
    assert ([read_content(row) for row in output], errors) == (["b"], [])


def memory(*ready: str) -> Snapshot:
    """Room for one of three experts."""
    return Snapshot(
        now_s=0.0,
        devices=(Device("cpu", 10),),
        loadable=tuple(Loadable(name, 8, 1.0) for name in "abc"),
        residents=tuple(Resident(name, "cpu", 8) for name in ready),
        queues=(),
    )


def test_loaded_experts_come_first_and_members_before_their_aggregator() -> None:
    names = {name: name for name in "abc"}
    assert choose_local_group("abc", frozenset(), names, memory("b")) == "b"
    order: list[str] = []
    waiting = set("abc")
    while waiting:
        pairs = frozenset((member, "a") for member in waiting)
        order.append(choose_local_group(waiting, pairs, names, memory(*order[-1:])))
        waiting.discard(order[-1])
    assert order[-1] == "a"
