"""From a judge's verdicts to answers: imported as win rates, fitted, mapped by category, served over HTTP."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from click.testing import CliRunner

from evals.commands.fit import command as fit
from evals.commands.import_ import command as import_
from evals.commands.plan import command as plan
from gateway.app import build_application, build_services
from gateway.config import Config
from gateway.experts.http_client import Transport
from gateway.testing import FakeUpstream
from tests.fakes.serving import LiveApp, live, secret

ASKED = {"sum": "please add two numbers, plus", "fact": "who was the king of England around"}


def run(command: Any, *args: object) -> str:
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """An artifact and a mapping made of verdicts alone: `adder` wins at sums, `scholar` at facts, mostly."""
    folder = tmp_path_factory.mktemp("verdicts")
    rows = []
    for n in range(240):
        kind = "sum" if n % 12 < 5 else "fact"
        better, other = ("adder", "scholar") if kind == "sum" else ("scholar", "adder")
        prompt = {"prompt": f"{ASKED[kind]} {n}", "task": kind}
        rows.append({**prompt, "model_a": better, "model_b": other, "winner": "a" if n % 7 else "tie"})
        rows.append({**prompt, "model_a": other, "model_b": better, "winner": better})
    (folder / "verdicts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table, artifact = folder / "o.jsonl", folder / "artifact"
    run(import_, folder / "verdicts.jsonl", table)
    run(fit, table, artifact, "--heads", "constant,coe,blend", "--encoder", "none")
    points = run(plan, "mapping", table, "--along", "experts", "--budget", "2", "--json")
    return artifact, json.loads(points)["points"][0]["mapping"]


@pytest_asyncio.fixture
async def gateway(verdicts: tuple[Path, dict[str, list[str]]], tmp_path: Path) -> AsyncIterator[LiveApp]:
    """A gateway with that mapping beside two heads of quality, and one of them without it."""
    artifact, mapping = verdicts
    async with FakeUpstream() as upstream:
        config = {
            "experts": [
                {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url}
                for name in ("adder", "scholar")
            ],
            "policies": {
                "auto": {"predictor": "constant", "encoder": "never"},
                "mapped": {"predictor": "constant", "encoder": "never", "mapping": mapping},
                "blend": {"predictor": "blend", "encoder": "never", "mapping": mapping},
            },
            "journal": {"path": str(tmp_path / "j.sqlite3")},
            "routing": {"artifact": str(artifact)},
        }
        transport = Transport()
        services = build_services(msgspec.convert(config, Config, dec_hook=secret), transport)
        async with (
            live(build_application(services, transport)) as address,
            aiohttp.ClientSession() as http,
        ):
            yield LiveApp(f"{address}/v1", services, http)


async def ask(gateway: LiveApp, model: str, kind: str) -> str | None:
    body = {"model": model, "messages": [{"role": "user", "content": f"{ASKED[kind]} 77"}]}
    answer = await gateway.post("chat/completions", body)
    assert answer.status == 200, answer
    return answer.expert


def test_the_plan_maps_each_category_to_who_wins_it(verdicts: tuple[Path, dict[str, list[str]]]) -> None:
    assert verdicts[1] == {"fact": ["scholar"], "general": ["scholar"], "sum": ["adder"]}


async def test_a_mapping_of_win_rates_is_served_beside_any_head(gateway: LiveApp) -> None:
    assert {await ask(gateway, "auto", kind) for kind in ASKED} == {"scholar"}  # the best over all
    for policy in ("auto:mapped", "auto:blend"):
        assert await ask(gateway, policy, "sum") == "adder"
        assert await ask(gateway, policy, "fact") == "scholar"
