"""The text that `thalamus serve` prints: the address, the experts, and the next step."""

from pathlib import Path

from ..config import Config, ExpertConfig
from ..embedding import list_embedders

EXAMPLE_PROMPT = "What is 4817*392?"


def build_banner(config: Config, address: str) -> str:
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


def _expert_lines(config: Config) -> list[str]:
    if not config.experts:
        return ["  no experts: add some to the configuration (`thalamus init` finds them)"]
    width = max(len(expert.name) for expert in config.experts)
    return [f"  {expert.name:{width}}  {_describe_expert(expert)}" for expert in config.experts]


def _embedder_lines(config: Config) -> list[str]:
    if not config.embeddings.enabled:
        return []
    base, *experts = list_embedders(config.embeddings)
    served = f"{base}, and for queries {', '.join(experts)}" if experts else base
    return ["", f"  embeddings: {served}"]


def _describe_expert(expert: ExpertConfig) -> str:
    if expert.tool:
        return f"tool: {expert.tool}"
    if expert.runner:
        return f"runs here: {expert.runner.model} on {expert.runner.engine}"
    bases = {place.api_base for place in expert.effective_deployments()} - {None}
    return f"{expert.model}" + (f" at {', '.join(sorted(str(base) for base in bases))}" if bases else "")


def _curl_command(config: Config, base: str) -> str:
    key = "" if config.server.master_key is None else ' -H "Authorization: Bearer $THALAMUS_MASTER_KEY"'
    body = f'{{"model": "auto", "messages": [{{"role": "user", "content": "{EXAMPLE_PROMPT}"}}]}}'
    return (
        f"  curl -i {base}/v1/chat/completions{key} -H 'content-type: application/json' \\\n    -d '{body}'"
    )


def _key_hint(config: Config) -> str:
    return "anything" if config.server.master_key is None else "your master key"


def _next_steps(config: Config) -> list[str]:
    if Path(config.routing.artifact).exists() or not config.experts:
        return []
    return [
        "",
        f"Nothing has been learned yet (no {config.routing.artifact}): `auto` asks the policy's default.",
        "Next: thalamus profile   (measure the experts)                then: thalamus fit",
        "  or: thalamus import    (read outcomes that you have)        then: thalamus fit",
    ]
