"""The SDK's wheel holds the client alone, and works where nothing but httpx is installed."""

import json
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.fakes.scripted_gateway import Scripted, ScriptedGateway, delta, events, json_answer

pytestmark = pytest.mark.source

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]

ASK = """
import importlib.util, sys
from gateway import AsyncClient, Client, NotFound
import gateway
assert "site-packages" in gateway.__file__, gateway.__file__
with Client(sys.argv[1]) as client:
    print(client.chat("hi").text)
for absent in ("starlette", "numpy", "routers", "policies", "evals", "gateway.config", "gateway.errors"):
    assert importlib.util.find_spec(absent) is None, absent
"""
AS_MAIN = """
import ast, asyncio, sys
asyncio.run(eval(compile(sys.argv[1], "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)))
"""
CHAT = {"model": "m", "choices": [{"message": {"content": "hello"}}]}
DECISION = {
    "id": "dec-1",
    "policy": "auto",
    "expert": "house",
    "plan": {"kind": "single", "experts": ["house"]},
    "tier": "static",
    "reason": "best utility",
    "propensity": 1.0,
    "candidates": [{"expert": "house", "quality": 0.7}],
}
DISTRIBUTIONS = """
import json, importlib.metadata as m
print(json.dumps({d.name.lower(): d.requires or [] for d in m.distributions()}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, str(ROOT / "deploy" / "sdk")], check=True, capture_output=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel; nothing but httpx was fetched for it."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    fetched = subprocess.run([*PIP, "--python", python, "install", "httpx"], check=False, capture_output=True)
    if fetched.returncode:
        pytest.skip("no package index within reach to fetch httpx from")
    subprocess.run([*PIP, "--python", python, "install", "--no-index", wheel], check=True)
    return python


def run(python: Path, script: str, *arguments: str) -> str:
    """What a script prints far from the sources, with nothing on the path but the environment."""
    command = [str(python), "-I", "-c", script, *arguments]
    ran = subprocess.run(command, cwd=python.parent, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    return ran.stdout


def closure(name: str, requires: dict[str, list[str]]) -> set[str]:
    """A distribution and all that it needs, among those installed; extras left out."""
    needed, queue = set(), [name]
    while queue:
        name = queue.pop()
        if name in requires and name not in needed:
            needed.add(name)
            queue += [
                re.split(r"[^\w.-]", text)[0].lower() for text in requires[name] if "extra ==" not in text
            ]
    return needed


def test_the_wheel_holds_the_client_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    client = {f"gateway/client/{path.name}" for path in (ROOT / "gateway" / "client").glob("*.py")}
    assert packed == {"gateway/__init__.py", "gateway/py.typed", *client}


def test_the_wheel_needs_httpx_alone_and_bears_the_version_and_licence_of_the_project(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    metadata = message_from_bytes(archive.read(name))
    project = (ROOT / "pyproject.toml").read_text()
    assert metadata.get_all("Requires-Dist") == ["httpx>=0.27"]
    assert f'version = "{metadata["Version"]}"' in project
    assert metadata["License-Expression"] == "Apache-2.0"
    assert name.replace("METADATA", "licenses/LICENSE") in archive.namelist()


def test_the_wheel_works_where_only_httpx_is_installed(python: Path) -> None:
    with ScriptedGateway() as server:
        server.will(json_answer(CHAT))
        assert run(python, ASK, server.url) == "hello\n"


def test_nothing_but_httpx_and_what_it_needs_is_installed(python: Path) -> None:
    requires = json.loads(run(python, DISTRIBUTIONS))
    assert set(requires) == closure("thalamus-client", requires)
    assert "httpx" in requires


def read_examples(url: str) -> list[str]:
    """The examples of the wheel's description, sent to another address."""
    description = (ROOT / "deploy" / "sdk" / "README.md").read_text()
    examples: list[str] = re.findall(r"```python\n(.*?)```", description, re.DOTALL)
    assert len(examples) == 4
    return [example.replace("http://127.0.0.1:8080", url) for example in examples]


def test_the_examples_in_the_wheels_description_run(python: Path) -> None:
    chat = json_answer(CHAT, x_thalamus_decision_id="dec-1", x_thalamus_expert="house")
    streamed = Scripted(blocks=(events(delta("Once"), delta(" upon\n")),))
    noted = json_answer({"decision_id": "dec-1", **dict.fromkeys(("score", "chosen", "comment", "user"))})
    with ScriptedGateway() as server:
        plain, _, _, asynchronous = read_examples(server.url)
        server.will([chat, streamed, json_answer({"decision": DECISION}), noted, streamed])
        assert run(python, plain) == "hello house None\nOnce upon\nNone None\nhouse 0.7 None None\n"
        body = asynchronous.replace("AsyncClient()", f"AsyncClient({server.url!r})")
        assert run(python, AS_MAIN, body) == "Once upon\n"


def test_the_examples_of_shapes_and_batches_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requests.jsonl").write_text('{"custom_id": "1"}\n')
    city = {"model": "m", "choices": [{"message": {"content": '{"name": "Lima", "people": 10}'}}]}
    file = {"id": "file-1", "filename": "requests.jsonl", "bytes": 3}
    counts = {"total": 1, "completed": 1, "failed": 0}
    job = {"id": "batch-1", "status": "completed", "request_counts": counts, "errors": None}
    job |= {"output_file_id": "file-2", "error_file_id": None}
    result = json.dumps({"custom_id": "1", "response": {"body": CHAT}}).encode() + b"\n"
    output = Scripted(200, {"content-type": "application/octet-stream"}, (result,))
    with ScriptedGateway() as server:
        _, shape, batches, _ = read_examples(server.url)
        server.will([json_answer(city, x_thalamus_expert="house")])
        exec(shape, {"__name__": "example"})
        server.will([*map(json_answer, (file, job, job)), output])
        exec(batches, {})
    assert capsys.readouterr().out == "10 house\n1 hello\n"
