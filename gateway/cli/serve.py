"""`thalamus serve`: run the gateway, and print its address, its experts and the next step."""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import CONFIG_OPTION, read_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config import Config, ExpertConfig
    from ..config.schema import ServerConfig

EXAMPLE_PROMPT = "What is 4817*392?"

EXAMPLES = """
\b
Examples:
  thalamus serve
  thalamus serve --port 9000
  thalamus serve --workers 4
  thalamus serve --log-level warning
  THALAMUS_MASTER_KEY=$(openssl rand -hex 24) thalamus serve --host 0.0.0.0
\b
SIGTERM drains: running requests get server.drain_s seconds to end.
SIGHUP reads the configuration again; if it has an error, the old one stays in use.
"""


@click.command(epilog=EXAMPLES)
@CONFIG_OPTION
@click.option("--host", help="Address to listen on. Default: server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on. Default: server.port.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes that answer requests. Default: server.workers.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least level that is logged. Default: server.log_level.",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), help="Form of the log. Default: server.log_format."
)
@click.option("--allow-no-key", is_flag=True, help="Accept clients of other machines without a key.")
def command(
    config_path: Path,
    host: str | None,
    port: int | None,
    workers: int | None,
    log_level: str | None,
    log_format: str | None,
    allow_no_key: bool,
) -> None:
    """Serve on http://127.0.0.1:8080, or on the address in the configuration."""
    from msgspec.structs import replace

    from ..server import CannotServeError, serve

    config = read_config(config_path)
    options = {
        "host": host,
        "port": port,
        "workers": workers,
        "log_level": log_level,
        "log_format": log_format,
    }
    given = {name: value for name, value in options.items() if value is not None}
    server = replace(config.server, **given)
    if not allow_no_key and (why := explain_open_address(server)):
        raise click.ClickException(why)
    try:
        if server.workers == 1:
            serve(config_path, config, given, build_banner)
        else:
            from ..workers.parent import serve_with_workers

            serve_with_workers(config_path, config, given, build_banner)
    except CannotServeError as error:
        raise click.ClickException(str(error)) from None


def explain_open_address(server: "ServerConfig") -> str | None:
    """Why a gateway does not start at its address without --allow-no-key; None where it does."""
    from ..asgi.authentication import is_loopback

    # An open gateway spends the operator's money for every caller: refuse unless it is asked for by name.
    if is_loopback(server.host) or server.has_keys:
        return None
    return (
        f"other machines can reach {server.host} and there is no key: set server.master_key "
        "(os.environ/THALAMUS_MASTER_KEY), or pass --allow-no-key"
    )


def build_banner(config: "Config", address: str) -> str:
    """Return the lines to print once the gateway listens."""
    # The example must work when it is copied: 0.0.0.0 is no address to call.
    base = address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 (shown, not bound)
    lines = [f"Thalamus listens on {address}", "", *_expert_lines(config), *_embedder_lines(config), ""]
    lines += [
        _curl_command(config, base),
        "",
        f"OpenAI clients: base_url={base}/v1, api_key={_key_hint(config)}, model=auto",
    ]
    return "\n".join([*lines, *_next_steps(config)])


def _expert_lines(config: "Config") -> list[str]:
    if not config.experts:
        return ["  no experts: add some to the configuration (`thalamus init` finds them)"]
    width = max(len(expert.name) for expert in config.experts)
    return [f"  {expert.name:{width}}  {_describe_expert(expert)}" for expert in config.experts]


def _embedder_lines(config: "Config") -> list[str]:
    if not config.embeddings.enabled:
        return []
    from ..embedding import list_embedders

    base, *experts = list_embedders(config.embeddings)
    served = f"{base}, and for queries {', '.join(experts)}" if experts else base
    return ["", f"  embeddings: {served}"]


def _describe_expert(expert: "ExpertConfig") -> str:
    if expert.tool:
        return f"tool: {expert.tool}"
    if expert.runner:
        adapter = expert.runner.find_adapter(expert.name)
        changed = "" if adapter is None else f" with {adapter.path}"
        return f"runs here: {expert.runner.model}{changed} on {expert.runner.engine}"
    bases = {place.api_base for place in expert.effective_deployments()} - {None}
    return f"{expert.model}" + (f" at {', '.join(sorted(str(base) for base in bases))}" if bases else "")


def _curl_command(config: "Config", base: str) -> str:
    variable = _name_key_variable(config)
    key = f' -H "Authorization: Bearer ${variable}"' if variable else ""
    body = f'{{"model": "auto", "messages": [{{"role": "user", "content": "{EXAMPLE_PROMPT}"}}]}}'
    return (
        f"  curl -i {base}/v1/chat/completions{key} -H 'content-type: application/json' \\\n    -d '{body}'"
    )


def _key_hint(config: "Config") -> str:
    if not config.server.has_keys:
        return "anything"
    return "your key" if config.server.master_key is None else "your master key"


def _name_key_variable(config: "Config") -> str | None:
    """The variable that holds a key for the example; None where no key is needed."""
    keys = [key for values in config.server.keys_by_name().values() for key in values]
    named = (key.variables[0] for key in keys if key.variables)
    return next(named, "THALAMUS_API_KEY") if keys else None


def _next_steps(config: "Config") -> list[str]:
    if not config.experts:
        return []
    artifact = config.routing.artifact
    if Path(artifact).exists():
        return _evidence_lines(config)
    return [
        "",
        f"Nothing has been learned yet (no {artifact}): `auto` asks the policy's `default`, or",
        "else the first expert that meets its constraints.",
        "Next: thalamus profile   (measure the experts)                then: thalamus fit",
        "  or: thalamus import    (read outcomes that you have)        then: thalamus fit",
    ]


def _evidence_lines(config: "Config") -> list[str]:
    """What was learned of experts that are not here, and how to give it to those that are."""
    from routers import ArtifactError
    from routers.artifacts import read_evidence

    try:
        learned = read_evidence(config.routing.artifact)
    except ArtifactError:
        return []  # the gateway that just started read it
    models = {expert.name: expert.model for expert in config.experts}
    used = {one.name for one in learned if one.name in models and one.is_about(models[one.name])}
    without = {name: model for name, model in models.items() if name not in used}
    lines = []
    for one in learned:
        if one.name in used:
            continue
        name = _find_counterpart(one.name, one.model, without)
        lines.append(f"  {one.name}" + (f" (model {one.model})" if one.model != one.name else ""))
        if name is not None:
            rename = f" --rename {one.name}={name}" if name != one.name else ""
            lines.append(f"    if it is {name}:  --model {one.name}={without[name]}{rename}")
    if not lines or not without:
        return []
    return [
        "",
        f"{config.routing.artifact} has outcomes of experts that are not configured here:",
        *lines,
        f"  without outcomes: {', '.join(without)}",
        "To use them: thalamus import T.jsonl T.jsonl --model NAME=provider/model [--rename NAME=EXPERT]",
        "       then: thalamus fit T.jsonl",
    ]


def _find_counterpart(name: str, model: str, experts: "Mapping[str, str]") -> str | None:
    """The expert that another name most likely means, by its name or that of its model."""
    if name in experts:
        return name
    spellings = {
        key.rpartition("/")[2].lower(): expert for expert, own in experts.items() for key in (expert, own)
    }
    for known in (name, model):
        if close := get_close_matches(known.rpartition("/")[2].lower(), spellings, n=1, cutoff=0.5):
            return spellings[close[0]]
    return None
