"""The first `thalamus.yaml`, from what was found on the machine."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..surroundings import Provider, Server

HEADER = """\
# Thalamus: which experts there are, and how to choose between them.
# `thalamus config check` checks this file, `thalamus config schema` describes every key.
# Keys are references (os.environ/NAME): set the variable, leave the key out of the file.

"""

BUNDLED = Path(__file__).with_name("bundled_experts.yaml").read_text(encoding="utf-8")
"""The experts that come with the package, the regimes they work under chosen by measurement."""
HOSTED_QUALITY = (0.9, 0.95)
"""What is assumed of a provider's two models, the cheaper first, until they are measured."""
SERVED_QUALITY = 0.7
BUNDLED_NAMES = ("smollm2", "smollm2-brief", "smollm2-sentence", "calculator")

EXAMPLE = """\
  # Nothing was found. Name what you have, for instance:
  # - name: gpt-5-mini
  #   model: openai/gpt-5-mini
  #   api_key: os.environ/OPENAI_API_KEY
  # - name: house-llama
  #   model: openai/llama-3.1-8b
  #   api_base: http://gpu-box:8000/v1
"""

TAIL = """
policies:
  # What `model: auto` means. Weights are in quality: cost 0.1 gives up 0.1 of quality (of 0 to 1) to go from
  # the dearest expert to a free one.
  auto:
    predictor: blend
    objective: {{cost: {cost}, latency: 0.0}}
    default: {default}  # answers until there is evidence: `thalamus profile`, then `thalamus fit`
  best:
    predictor: blend
    default: {default}
  private:
    predictor: blend
    require: {{local: true}}

# server:
#   master_key: os.environ/THALAMUS_MASTER_KEY   # needed to listen on more than this machine
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What `init` found."""

    providers: Sequence[tuple[Provider, str]] = ()
    servers: Sequence[Server] = ()
    bundled: bool = False


def first_config(found: Found) -> tuple[str, list[str]]:
    """The file's text, and the names of its experts, the default first.

    The default is what a hosted provider calls its better model for little money, else a model of a server
    that runs here, else the bundled one: something sensible must answer before anything was learned.
    """
    names: list[str] = []
    blocks = [*_hosted(found.providers, names), *_served(found.servers, names)]
    if found.bundled:
        blocks.append(BUNDLED)
        names += BUNDLED_NAMES
    if not names:
        return HEADER + "experts:\n" + EXAMPLE, []
    cost = 0.3 if found.providers else 0.0
    return HEADER + "experts:\n" + "".join(blocks) + TAIL.format(cost=cost, default=_quoted(names[0])), names


def _hosted(providers: Sequence[tuple[Provider, str]], names: list[str]) -> Iterator[str]:
    for provider, variable in providers:
        yield f"  # {provider.name}: {variable} is set.\n"
        for model, quality in zip(provider.models, HOSTED_QUALITY, strict=True):
            name = _fresh(model.rpartition("/")[2], names)
            yield f"  - name: {_quoted(name)}\n    model: {model}\n    api_key: os.environ/{variable}\n"
            yield _guess(quality)


def _served(servers: Sequence[Server], names: list[str]) -> Iterator[str]:
    for server in servers:
        yield f"  # {server.name} answers on {server.base}.\n"
        for model in server.models:
            name = _fresh(re.sub(r"[^\w.:@/+-]", "-", model).strip("-.:@/+_") or "model", names)
            yield (
                f"  - name: {_quoted(name)}\n    model: {_quoted('openai/' + model)}\n"
                f"    api_base: {server.base}\n    local: true\n{_guess(SERVED_QUALITY)}"
            )


def _guess(quality: float) -> str:
    """Beside experts that were measured, one that was not would count as no better than their mean."""
    return f"    quality: {quality}  # a guess, until it is measured: thalamus profile, thalamus fit\n"


def _fresh(name: str, names: list[str]) -> str:
    taken = {*names, *BUNDLED_NAMES, "auto"}
    fresh = next(n for n in (name, *(f"{name}-{k}" for k in range(2, 1000))) if n not in taken)
    names.append(fresh)
    return fresh


def _quoted(text: str) -> str:
    """The text as YAML writes it, quoted only where it must be."""
    return str(yaml.safe_dump(text, default_flow_style=True, width=1000)).splitlines()[0]
