"""Sentence encoders of any architecture: their ONNX file, run without torch.

Beside it the export itself, which needs torch once: any model of sentence-transformers as one ONNX graph from
ids to unit vectors, in int8.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import EmbedderError
from ..features import Embedder, head_and_tail
from ..folders import replace_files
from ..types import Floats32, Ints
from .adapters import SentenceTransformerEmbedder, load_torch_encoder
from .model_files import UNDERSTOOD, content_hash, find_source, list_modules, read_json
from .onnx import MIN_TOKENS, OnnxEmbedder, embed_each, open_session
from .tokens import CHARS_PER_TOKEN

INT8_NAME = "model_int8_reduced.onnx"
"""What `export_encoder` writes. Not `model_int8.onnx`: files of that name use all eight bits, which CPUs
without VNNI add up wrongly.
"""
ONNX_NAMES = (INT8_NAME, "model.onnx")
MAX_TOKENS = 256
Pooling = Literal["cls", "mean", "max", "lasttoken"]
_POOLINGS: tuple[Pooling, ...] = ("cls", "mean", "max", "lasttoken")
_OPSET = 18


def load_encoder(spec: str, n_threads: int = 1) -> Embedder:
    """The encoder in a folder, in an ONNX file, or on the hub; without torch wherever that is possible.

    A mean-pooled BERT is built here from its weights, which is quickest; anything else runs from its ONNX
    file; where there is none, sentence-transformers runs it, if it is installed.

    Raises:
        EmbedderError: it cannot be run; the message says what to do.
    """
    path = Path(spec).expanduser()
    if path.is_file():
        return ExportedEmbedder(path, n_threads=n_threads)
    folder = path if path.is_dir() else _fetch(spec)
    try:
        return OnnxEmbedder(folder, n_threads=n_threads)
    except EmbedderError as error:
        why = str(error)
    if _find_onnx(folder) is not None:
        return ExportedEmbedder(folder, n_threads=n_threads)
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise EmbedderError(
            f"{spec}: no config.json, no modules.json and no ONNX file there; name the folder of an encoder"
        )
    try:
        return SentenceTransformerEmbedder(str(folder) if path.is_dir() else spec)
    except EmbedderError as error:
        raise EmbedderError(
            f"{spec} has no ONNX file and cannot be built here ({why}): `thalamus encoders export {spec} "
            f"OUT` writes a folder that serves without torch ({error})"
        ) from None


def _fetch(spec: str) -> Path:
    """The folder of a model of the hub, from its cache or downloaded; weights only as far as they are read.

    Raises:
        EmbedderError: the hub does not give it.
    """
    from huggingface_hub import snapshot_download

    def get(patterns: Sequence[str]) -> Path:
        try:
            return Path(snapshot_download(spec, allow_patterns=list(patterns), local_files_only=True))
        except Exception:  # not in the cache, as the library tells by one of several errors
            return Path(snapshot_download(spec, allow_patterns=list(patterns)))

    files = ["*.json", "*/*.json"]
    try:
        folder = get(files)
        buildable = is_buildable(folder)
        wanted = ["model.safetensors"] if buildable else [f"*{name}*" for name in ONNX_NAMES]
        is_there = (folder / "model.safetensors").is_file() if buildable else _find_onnx(folder) is not None
        if not is_there:
            folder = Path(snapshot_download(spec, allow_patterns=[*files, *wanted]))
    except Exception as error:  # a hub, its client and the network speak here
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EmbedderError(
            f"{spec} is no folder or file here, and the hub does not give it: {said}"
        ) from None
    return folder


def _find_onnx(folder: Path) -> Path | None:
    """The ONNX file to run: the one exported here, then the plain one, then any single one."""
    places = [folder / "onnx", folder, *(_transformer_folder(folder) / sub for sub in ("onnx", ""))]
    for name in ONNX_NAMES:
        found = [place / name for place in places if (place / name).is_file()]
        if found:
            return found[0]
    others = sorted({file for place in places if place.is_dir() for file in place.glob("*.onnx")})
    return others[0] if len(others) == 1 else None


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """What surrounds the graph: its folder, its tokenizer and the longest text.

    prompt: what stands before every text
    """

    onnx: Path
    folder: Path
    tokenizer: Path
    max_tokens: int
    prompt: str


def _read_pipeline(source: Path) -> _Pipeline:
    folder = source.parent if source.is_file() else source
    if source.is_file() and folder.name == "onnx":
        folder = folder.parent
    onnx = source if source.is_file() else _find_onnx(source)
    if onnx is None:
        raise EmbedderError(f"{source} has no ONNX file, or several and none named {ONNX_NAMES[1]}: name one")
    inner = _transformer_folder(folder)
    tokenizer = next(
        (place / "tokenizer.json" for place in (onnx.parent, folder, inner) if _is_file(place, "tokenizer")),
        None,
    )
    if tokenizer is None:
        raise EmbedderError(
            f"{folder} has no tokenizer.json: put the one that the model was trained with there"
        )
    limits = [
        _json(inner / "sentence_bert_config.json").get("max_seq_length"),
        _json(tokenizer.with_name("tokenizer_config.json")).get("model_max_length"),
        _json(inner / "config.json").get("max_position_embeddings"),
    ]
    longest = min((int(limit) for limit in limits if isinstance(limit, int | float)), default=MAX_TOKENS)
    facts = _json(folder / "config_sentence_transformers.json")
    prompt = (facts.get("prompts") or {}).get(facts.get("default_prompt_name") or "", "")
    n_tokens = max(MIN_TOKENS, min(longest, MAX_TOKENS))
    return _Pipeline(onnx, folder, tokenizer, n_tokens, prompt)


def _is_file(place: Path, stem: str) -> bool:
    return (place / f"{stem}.json").is_file()


def _transformer_folder(folder: Path) -> Path:
    return next((place for kind, place in list_modules(folder) if kind == "Transformer"), folder)


def _read_pooling(folder: Path) -> Pooling:
    """How a folder says vectors of tokens become one; where it says nothing, by their mean.

    Raises:
        EmbedderError: a module or a pooling that is not computed here.
    """
    fix = f"`thalamus encoders export {folder} OUT` puts it into the graph"
    pooling: Pooling = "mean"
    for kind, place in list_modules(folder):
        if kind not in UNDERSTOOD:
            raise EmbedderError(f"{folder}: a module {kind} is not computed here; {fix}")
        if kind == "Pooling":
            config = _json(place / "config.json")
            word = str(config.get("pooling_mode", ""))
            flags = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
            found = [name for name in _POOLINGS if word == name or config.get(f"pooling_mode_{flags[name]}")]
            if len(found) != 1:
                raise EmbedderError(f"{folder}: its pooling is not one of {', '.join(_POOLINGS)}; {fix}")
            pooling = found[0]
    return pooling


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


class ExportedEmbedder:
    """Unit vectors of an encoder from its ONNX file, each text alone, as `OnnxEmbedder` runs them.

    It reads what sentence-transformers and Optimum write: `tokenizer.json`, `modules.json`, the pooling, the
    longest text, the default prompt. Beyond 256 tokens, or fewer if the model takes fewer, a text keeps the
    first three quarters of the budget and the last quarter.

    `embed` may be called from many threads.
    """

    def __init__(self, source: Path | str, n_threads: int = 1) -> None:
        """Raises: EmbedderError: no ONNX file, no tokenizer, or a graph with unknown inputs or outputs."""
        found = _read_pipeline(Path(source).expanduser())
        if n_threads < 1:
            raise EmbedderError(f"n_threads is {n_threads}; it is at least 1")
        self._n_threads = n_threads
        self._session = open_session(found.onnx, 1)
        self._inputs = [one.name for one in self._session.get_inputs()]
        known = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
        if "input_ids" not in self._inputs or not known.issuperset(self._inputs):
            raise EmbedderError(
                f"{found.onnx} takes {', '.join(self._inputs)}; an encoder takes {', '.join(sorted(known))}: "
                "export it for feature extraction"
            )
        self._output, whole = self._find_output(found.onnx)
        self._pooling = None if whole else _read_pooling(found.folder)
        self._prompt = found.prompt
        self._tokenizer, self._frame = _load_tokenizer(found.tokenizer)
        self.max_tokens = found.max_tokens
        weights = [found.onnx, *sorted(found.onnx.parent.glob(f"{found.onnx.name}_data*"))]
        read = f"{self._pooling or 'whole'}-t{found.max_tokens}"
        prompt = f"-p{len(found.prompt)}" if found.prompt else ""
        self.fingerprint: str = f"exported-{content_hash(*weights, found.tokenizer)}-{read}{prompt}"
        self.dim = int(self._embed("x").shape[1])

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        return embed_each(self._embed, texts, self.dim, self._n_threads)

    def _find_output(self, onnx: Path) -> tuple[str, bool]:
        """The output that is read, and whether it is a whole text's vector."""
        outputs = {one.name: len(one.shape or ()) for one in self._session.get_outputs()}
        for name in ("sentence_embedding", "embedding"):
            if outputs.get(name) == 2:
                return name, True
        for name in ("token_embeddings", "last_hidden_state", *outputs):
            if outputs.get(name) == 3:
                return name, False
        for name, rank in outputs.items():
            if rank == 2:
                return name, True
        raise EmbedderError(f"{onnx} gives {', '.join(outputs)}; none is the vectors of tokens or of a text")

    def _embed(self, text: str) -> Floats32:
        ids = self._ids(text)[None]  # (1, n_tokens)
        given = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.arange(ids.shape[1])[None],
        }
        try:
            found = self._session.run([self._output], {name: given[name] for name in self._inputs})[0]
        except Exception as error:  # onnxruntime raises a class per status code, all straight from Exception
            raise EmbedderError(f"the encoder does not read a text: {error}") from error
        vector = np.asarray(found[0], np.float32)  # (dim,), or (n_tokens, dim)
        pooled = vector if self._pooling is None else _pool(vector, self._pooling)
        return (pooled / max(float(np.linalg.norm(pooled)), 1e-12))[None].astype(np.float32)

    def _ids(self, text: str) -> Ints:
        """(n_tokens,) with the model's special tokens; text that spells one is only text."""
        before, after = self._frame
        room = self.max_tokens - len(before) - len(after)
        text = self._prompt + text.encode("utf-8", "replace").decode()
        if len(text) > room * CHARS_PER_TOKEN:
            text = head_and_tail(text, room * CHARS_PER_TOKEN)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > room:
            n_tail = room // 4
            ids = [*ids[: room - n_tail], *ids[len(ids) - n_tail :]]
        framed = [*before, *ids, *after] or self._tokenizer.encode(".", add_special_tokens=False).ids
        return np.array(framed, np.int64)


def _pool(tokens: Floats32, pooling: Pooling) -> Floats32:
    """(dim,) of (n_tokens, dim)."""
    if pooling in ("cls", "lasttoken"):
        one: Floats32 = tokens[0 if pooling == "cls" else -1]
        return one
    pooled: Floats32 = tokens.max(axis=0) if pooling == "max" else tokens.mean(axis=0)
    return pooled


def _load_tokenizer(path: Path) -> tuple[Any, tuple[list[int], list[int]]]:
    """The tokenizer, and the ids that it puts before and after every text."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise EmbedderError(f"{path} is not a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return tokenizer, (whole[:start], whole[start + len(bare) :])
    raise EmbedderError(f"{path}: which special tokens it puts around a text cannot be told")


def export_encoder(base: str, out: Path | str) -> float:
    """Write any model of sentence-transformers as a folder that serves without torch.

    The graph goes from ids to a text's vector, pooling and later modules included, in int8 by ONNX Runtime.
    A folder that was there keeps its other files.

    Returns:
        The mean cosine between its vectors and those of torch on a few texts: near 1.

    Raises:
        EmbedderError: the extra `train` is not installed, or the model cannot be loaded or exported.
    """
    model = load_torch_encoder(str(find_source(base).folder) if base == "minilm" else base)
    with replace_files(Path(out)) as fresh:
        write_export(model, fresh)
    texts = ["What is the capital of France?", "def add(a, b): return a + b", "Solve x² = 2 " * 20]
    theirs = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    return float((ExportedEmbedder(out).embed(texts) * theirs).sum(axis=1).mean())


def is_buildable(folder: Path) -> bool:
    """Whether an encoder is built here from its weights: a BERT that pools by the mean, and nothing after."""
    try:
        find_source(folder, needs_weights=False)
    except EmbedderError:
        return False
    return True


def write_export(model: Any, folder: Path) -> None:
    """Write a model of sentence-transformers into a folder, as `export_encoder` does.

    Raises:
        EmbedderError: it cannot be exported.
    """
    try:
        _write_graph(model, folder)
    except Exception as error:  # what a graph cannot express, torch says in many ways
        raise EmbedderError(f"the model cannot be exported: {error}") from error


def _write_graph(model: Any, folder: Path) -> None:
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    class Whole(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *given: Any) -> Any:
            return self.model(dict(zip(names, given, strict=True)))["sentence_embedding"]

    model.tokenizer.save_pretrained(str(folder))
    if not (folder / "tokenizer.json").is_file():
        raise EmbedderError("its tokenizer has no tokenizer.json")
    read = getattr(model, "preprocess", None) or model.tokenize  # its newer name first
    tokens = dict(read(["one text", "a second, longer text"]).items())
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in tokens]
    (folder / "onnx").mkdir()
    plain, small = folder / "onnx" / "plain.onnx", folder / "onnx" / INT8_NAME
    torch.onnx.export(
        Whole(),
        tuple(tokens[name] for name in names),
        str(plain),
        input_names=names,
        output_names=["sentence_embedding"],
        dynamic_axes={name: {0: "n_texts", 1: "n_tokens"} for name in names},
        opset_version=_OPSET,
        dynamo=False,  # the newer exporter needs a further package
    )
    # Seven of eight bits and a scale for each row, as `onnx._LEVELS`: else CPUs without VNNI saturate.
    quantize_dynamic(plain, small, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    plain.unlink()
    longest = {"max_seq_length": int(model.max_seq_length or MAX_TOKENS), "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(longest) + "\n")
    facts = {"prompts": dict(model.prompts), "default_prompt_name": model.default_prompt_name}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(facts) + "\n")
