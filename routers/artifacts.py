"""A trained artifact: heads, what each embedder tier of them predicts with, how far to trust it, its origin.

On disk a directory: `manifest.json` (what a person wants to know, and every setting) and `arrays.npz` (what
was learned) of the default head, and the same two files in `heads/NAME` for each further head. None can run
code when it is read, and a head is read when it is first asked for.
"""

import hashlib
import json
import mmap
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from .calibration import Advantage, Calibration
from .errors import ArtifactError
from .features import query_of
from .folders import exchange_folders
from .protocols import Arrays, Extractor, Predictor
from .registry import make_predictor, name_head
from .sweep import Sample
from .types import Floats, Floats32, Tier

MANIFEST, ARRAYS, HEADS = "manifest.json", "arrays.npz", "heads"
MAX_READS = 3
LOCAL_HEADER_BYTES, ZIP64_BYTES, PADDING = 30, 20, 0xD935
"""PKWARE's APPNOTE.TXT, 4.3.7 and 4.5.3; the number that Android's zipalign uses for a field of padding."""
EXTRA = struct.Struct("<HH")
ALIGNMENT = 64
MAX_ARRAY_HEAD_BYTES = 1 << 16
"""From Linux's fcntl.h and fs.h; macOS has the same number for RENAME_SWAP."""
SCHEMA = 3
READABLE = (1, 2, 3)
"""Schema 1 lacks the λ tables and their sample; schema 2 has one head, whose name it does not say."""
_REMEDY = "`thalamus fit` makes a new one"

TRIAL_TEXTS = (
    "What is 4817 * 392?",
    "Write a poem about the sea at night.",
    "def add(a, b):\n    return a - b\n\nWhy does this test fail?",
    "Who wrote Faust, and when was it first performed?",
    "Prove that the square root of 2 is irrational.",
    "Übersetze ins Englische: Der Zug hat heute leider Verspätung.",
    "SELECT name FROM users WHERE age > 30 ORDER BY name; make it faster",
    "Summarise in one sentence: The committee met on Tuesday and put the vote off until May.",
    "A train leaves at 9:40 and takes 135 minutes. When does it arrive?\nA) 11:45\nB) 11:55\nC) 12:05",
    "为什么天空是蓝色的？",
    "hi",
    "Plan a week of dinners for four people, one of whom eats no meat, as a table with costs.",
)
"""Prompts of several kinds, on which an artifact is tried before it serves."""
TOLERANCE = 0.03
"""By how much a quality may differ on another machine: encoders in int8 round differently there."""
LEAST_COSINE = 0.97
MAY_BE_NAN = ("latency", "sample.")
MAY_BE_INFINITE = "threshold"
"""What a tree asks where it asks nothing."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One expert the artifact knows: whose outcomes, how many, and their means; None where unmeasured.

    n_effective is as how many certain outcomes they count: a judged one counts for less than one.
    """

    name: str
    model: str
    n: int
    score: float
    cost_usd: float | None
    output_tokens: float | None
    latency_s: float | None
    n_effective: float | None = None

    @property
    def certainty(self) -> float:
        """How many certain outcomes its means are worth."""
        return self.n if self.n_effective is None else self.n_effective

    def is_about(self, model: str) -> bool:
        """Whether it is about this configured model; a table of others may leave the provider out."""
        return self.model in (model, model.partition("/")[2])


@dataclass(frozen=True, slots=True)
class TierModel:
    """What one embedder tier predicts with.

    tokens predicts log(1 + output tokens), None where no length was measured; smear (n_experts,) is the
    factor that makes its exponential right on average.
    """

    fingerprint: str
    predictor: str
    quality: Predictor
    calibration: Calibration
    advantage: Advantage
    tokens: Predictor | None
    smear: Floats
    metrics: Mapping[str, float]
    tokens_predictor: str = "linear"


@dataclass(frozen=True, slots=True)
class Trial:
    """What an artifact predicted when it was fitted, by which it is tried before it serves.

    quality: per tier, (n_texts, n_experts)
    dense: per tier the vectors of the texts, (n_texts, dim): a tier that is close to its means shows no
        embedder that reads texts otherwise
    """

    texts: tuple[str, ...]
    quality: Mapping[Tier, Floats]
    dense: Mapping[Tier, Floats32]


@dataclass(frozen=True, slots=True)
class Artifact:
    """Everything `fit` learned from an outcome table: the head that decides by default, and further heads.

    latency: (n_experts, 2) seconds before and per output token, NaN where unmeasured
    margin: adaptive policies escalate to the encoder below this distance between the first two
    margins: how that was chosen: threshold, share escalated (`consulted`), accuracy
    sample: what was predicted out of fold and what came true, for λ tables of any pool; None in schema 1
    sweeps: per tier the λ table of all experts at measured costs: weight, dollars a thousand calls, quality
    trial: what it predicted when it was fitted; None in artifacts from before there were trials
    name: the head that this is, as policies name it by `predictor`
    others: further heads by name, each an artifact without others; a head has evidence and figures of its own
    """

    experts: tuple[Evidence, ...]
    tiers: Mapping[Tier, TierModel]
    latency: Floats
    margin: float
    margins: Sequence[Mapping[str, float]]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sample: Sample | None = None
    sweeps: Mapping[Tier, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    trial: Trial | None = None
    name: str = "blend"
    others: Mapping[str, "Artifact"] = field(default_factory=dict)

    @property
    def head_names(self) -> tuple[str, ...]:
        """Its heads, the default first."""
        return self.name, *self.others

    def head(self, name: str | None) -> "Artifact":
        """One of its heads; None is the default.

        Raises:
            ArtifactError: it has no such head, or that is damaged; the message says how to fit one.
        """
        if name is None or name == self.name:
            return self
        if name not in self.others:
            raise ArtifactError(explain_missing_head(name, self.head_names))
        return self.others[name]

    def rehearse(self, extractor: Extractor, texts: Sequence[str] = TRIAL_TEXTS) -> Trial:
        """What it predicts of some texts, on the tiers that the extractor has."""
        queries = [query_of(text) for text in texts]
        tiers = [tier for tier in self.tiers if tier in extractor.fingerprints]
        cheap = extractor.extract(queries, "static") if tiers else None
        quality: dict[Tier, Floats] = {}
        dense: dict[Tier, Floats32] = {}
        for tier in tiers:
            model = self.tiers[tier]
            features = cheap if tier == "static" and cheap else extractor.extract(queries, tier, cheap)
            dense[tier] = features.dense
            raw = model.quality.predict(features)
            calibrated = model.calibration.apply(raw)
            quality[tier] = model.advantage.apply(calibrated.mean, calibrated.novelty)
            if model.tokens is not None:
                lengths = model.tokens.predict(features).mean
                if lengths.shape != quality[tier].shape or not np.isfinite(lengths).all():
                    raise ValueError(f"its {tier} tier predicts no lengths")
        return Trial(tuple(texts), quality, dense)

    def try_out(self, extractor: Extractor) -> None:
        """See whether it decides as it did when it was fitted.

        Raises:
            ArtifactError: it does not, or cannot predict; the message says how to make a new one.
        """
        kept = self.trial
        try:
            now = self.rehearse(extractor, TRIAL_TEXTS if kept is None else kept.texts)
            for tier, quality in now.quality.items():
                if quality.shape != (len(now.texts), len(self.experts)) or not np.isfinite(quality).all():
                    raise ValueError(f"its {tier} tier predicts no quality for each expert")
                if kept is not None and tier in kept.quality:
                    _compare_vectors(tier, kept.dense[tier], now.dense[tier])
                    _compare(tier, kept.quality[tier], quality)
        except Exception as error:  # a damaged predictor or embedder may raise anything
            raise ArtifactError(f"damaged ({error}); {_REMEDY}") from None

    def save(
        self,
        path: Path | str,
        *,
        keep_previous: bool = False,
        keep_heads: Collection[str] = (),
        default: str | None = None,
    ) -> None:
        """Write the directory; it appears whole or not at all, in place of an artifact that was there.

        keep_previous: leave the one that was there beside it, under the name that `previous_path` gives.
        keep_heads: heads of the one that was there which stay, byte for byte, unless this one has them.
        default: the head of them all that decides where a policy names none; None takes this one.

        Raises:
            ArtifactError: something that is no artifact is in the way, or the disk refuses.
        """
        target = Path(path)
        if target.exists() and not (target / MANIFEST).is_file():
            raise ArtifactError(f"{target}: exists and is not an artifact; choose another name")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
                fresh = Path(temporary, "new")
                self._write_heads(
                    fresh, _find_heads(target) if keep_heads and target.exists() else {}, keep_heads, default
                )
                if not target.exists():
                    os.rename(fresh, target)
                    return
                exchange_folders(fresh, target)
                if not keep_previous:
                    return
                before = previous_path(target)
                if before.exists():
                    os.rename(before, Path(temporary, "old"))
                os.rename(fresh, before)
        except OSError as error:
            raise ArtifactError(f"{target}: {error.strerror or error}") from None

    def _write_heads(
        self, folder: Path, stored: Mapping[str, Path], kept: Collection[str], default: str | None
    ) -> None:
        """Write every head into an artifact's folder; those that are kept are copied from where they are."""
        mine = {self.name: self, **self.others}
        first = default or self.name
        for name in dict.fromkeys((first, *mine, *(name for name in stored if name in kept))):
            place = folder if name == first else folder / HEADS / name
            place.mkdir(parents=True, exist_ok=True)
            if name in mine:
                mine[name]._write(place)
                continue
            for part in (MANIFEST, ARRAYS):
                shutil.copyfile(stored[name] / part, place / part)
                with (place / part).open("rb+") as file:
                    _flush(file)

    def _write(self, folder: Path) -> None:
        with (folder / MANIFEST).open("wb") as file:
            file.write((json.dumps(self.manifest(), indent=1) + "\n").encode())
            _flush(file)
        with (folder / ARRAYS).open("wb") as file:
            _write_arrays(file, self._arrays())
            _flush(file)

    @classmethod
    def load(
        cls, path: Path | str, fingerprints: Mapping[Tier, str] | None = None, *, mapped: bool = False
    ) -> "Artifact":
        """Read an artifact; with `fingerprints` (an extractor's), only if it was fitted on the same features.

        mapped: arrays are read-only views of the file, whose memory all processes share that do so. `save`
        leaves a file that is mapped as it was; a program that overwrites it in place ends those processes.

        Raises:
            ArtifactError: missing, damaged, newer than this version, or fitted on another embedder.
        """
        directory = Path(path)
        manifest, arrays, names = _read_files(directory, mapped)
        if fingerprints is not None:
            _check_fingerprints(directory, manifest, fingerprints)
        try:
            _check_whole(manifest, arrays)
            return cls(
                experts=tuple(Evidence(**expert) for expert in manifest["experts"]),
                tiers={tier: _read_tier(tier, entry, arrays) for tier, entry in _tiers_of(manifest).items()},
                latency=arrays["latency"],
                margin=float(manifest["margin"]),
                margins=manifest["margins"],
                provenance=manifest["provenance"],
                sample=Sample.from_arrays(kept) if (kept := _part(arrays, "sample.")) else None,
                sweeps=manifest.get("sweeps", {}),
                trial=_read_trial(manifest, arrays),
                name=_name_of(manifest),
                others=_StoredHeads(
                    directory / HEADS, names, partial(cls.load, fingerprints=fingerprints, mapped=mapped)
                ),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{directory}: damaged ({error}); {_REMEDY}") from None

    def manifest(self) -> dict[str, Any]:
        """The JSON-able account of the artifact."""
        account: dict[str, Any] = {
            "schema": SCHEMA,
            "head": self.name,
            "experts": [asdict(expert) for expert in self.experts],
            "tiers": {tier: _describe_tier(model) for tier, model in self.tiers.items()},
            "margin": self.margin,
            "margins": [dict(row) for row in self.margins],
            "sweeps": {tier: [dict(row) for row in rows] for tier, rows in self.sweeps.items()},
            "provenance": dict(self.provenance),
            "trial": list(self.trial.texts) if self.trial else [],
        }
        return {**account, "digest": _digest(account, self._arrays())}

    def _arrays(self) -> Arrays:
        arrays: Arrays = {"latency": self.latency}
        for tier, model in self.tiers.items():
            parts = {
                "quality": model.quality.arrays(),
                "calibration": model.calibration.arrays(),
                "advantage": model.advantage.arrays(),
            }
            if model.tokens is not None:
                parts["tokens"] = model.tokens.arrays()
            for part, held in parts.items():
                arrays.update({f"{tier}.{part}.{key}": values for key, values in held.items()})
            arrays[f"{tier}.smear"] = model.smear
        if self.sample is not None:
            arrays.update({f"sample.{key}": values for key, values in self.sample.arrays().items()})
        if self.trial is not None:
            arrays.update({f"trial.{tier}": values for tier, values in self.trial.quality.items()})
            arrays.update({f"trial.{tier}.dense": values for tier, values in self.trial.dense.items()})
        return arrays


def _read_trial(manifest: Mapping[str, Any], arrays: Arrays) -> Trial | None:
    texts = manifest.get("trial")
    if not texts:
        return None
    quality: dict[Tier, Floats] = {tier: arrays[f"trial.{tier}"] for tier in _tiers_of(manifest)}
    return Trial(tuple(texts), quality, {tier: arrays[f"trial.{tier}.dense"] for tier in _tiers_of(manifest)})


def _compare_vectors(tier: Tier, kept: Floats32, now: Floats32) -> None:
    """Compare the vectors of the texts at the fit with those of now, (n_texts, dim) each.

    Raises:
        ValueError: they point elsewhere.
    """
    lengths = np.linalg.norm(kept, axis=1) * np.linalg.norm(now, axis=1)
    if not ((kept * now).sum(axis=1) >= LEAST_COSINE * lengths).all():
        raise ValueError(f"the embedder of its {tier} tier reads texts otherwise than when it was fitted")


def _compare(tier: Tier, kept: Floats, now: Floats) -> None:
    """Compare what was predicted at the fit with what is predicted now, (n_texts, n_experts) each.

    Raises:
        ValueError: another expert would be chosen, or a quality is not what it was.
    """
    chosen = np.take_along_axis(kept, now.argmax(axis=1)[:, None], axis=1)[:, 0]
    n_others = int((kept.max(axis=1) - chosen > TOLERANCE).sum())
    furthest = float(np.abs(kept - now).max(initial=0.0))
    if n_others or furthest > TOLERANCE:
        raise ValueError(
            f"its {tier} tier does not decide as when it was fitted: {n_others} of {len(kept)} decisions "
            f"differ, qualities by up to {furthest:.2f}"
        )


def _check_whole(manifest: Mapping[str, Any], arrays: Arrays) -> None:
    """Check that manifest and arrays are those of one fit, and that all numbers are some.

    Raises:
        ValueError: they are not.
    """
    for name, values in arrays.items():
        if values.dtype.kind != "f" or name.startswith(MAY_BE_NAN):
            continue
        is_sound = ~np.isnan(values) if name.endswith(MAY_BE_INFINITE) else np.isfinite(values)
        if not is_sound.all():
            raise ValueError(f"{name} holds what is no number")
    # Artifacts from before there were digests have none.
    if "digest" in manifest and manifest["digest"] != _digest(manifest, arrays):
        raise ValueError("manifest.json and arrays.npz are not those of one fit")


def _digest(manifest: Mapping[str, Any], arrays: Arrays) -> str:
    """A hash of the arrays, and of what in the manifest tells how they are read."""
    facts = {name: manifest.get(name) for name in ("experts", "margin", "trial")}
    read = ("predictor", "settings", "tokens", "tokens_predictor")
    # The embedder is compared apart, which gives the better message.
    key = "tiers" if "tiers" in manifest else "heads"
    facts[key] = {tier: [model.get(name) for name in read] for tier, model in _tiers_of(manifest).items()}
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(arrays):
        values = np.asarray(arrays[name])
        found.update(f"{name} {values.dtype.str} {values.shape}".encode())
        found.update(np.ascontiguousarray(values).data if values.size else b"")
    return found.hexdigest()


def _tiers_of(manifest: Mapping[str, Any]) -> Mapping[Tier, Any]:
    """What a manifest says of each tier; before schema 3 these were called heads."""
    tiers: Mapping[Tier, Any] = manifest["tiers"] if "tiers" in manifest else manifest["heads"]
    return tiers


def _name_of(manifest: Mapping[str, Any]) -> str:
    """The name of a manifest's head; one from before schema 3 is named by its predictor."""
    if "head" in manifest:
        return str(manifest["head"])
    tier = next(iter(_tiers_of(manifest).values()), None)
    return "blend" if tier is None else name_head(tier["predictor"], tier["settings"])


class _StoredHeads(Mapping[str, Artifact]):
    """Further heads in an artifact's folder, each read when it is first asked for."""

    def __init__(self, folder: Path, names: Sequence[str], load: Callable[[Path], Artifact]) -> None:
        self._folder, self._names, self._load = folder, tuple(names), load
        self._read: dict[str, Artifact] = {}

    def __getitem__(self, name: str) -> Artifact:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = self._load(self._folder / name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # the usual way reads the head


def explain_missing_head(name: str, there: Sequence[str], where: str = "") -> str:
    """What to do where an artifact has these heads and not the one that a policy names.

    where: the table and the folder that `thalamus fit` has to be told, if they are not the usual ones
    """
    fix = f"`thalamus fit {where}{' ' if where else ''}--head {name}`"
    return f"no head '{name}', there {'is' if len(there) == 1 else 'are'} {', '.join(there)}; {fix} adds it"


def _find_heads(directory: Path) -> dict[str, Path]:
    """The heads of an artifact and where their files are, the default first.

    Raises:
        ArtifactError: missing, damaged or newer than this version.
    """
    manifest, others = _read_steadily(
        directory, lambda opener: (_read_manifest(directory, opener), _list_others(opener))
    )
    try:
        found = {_name_of(manifest): directory}
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{directory}: damaged ({error}); {_REMEDY}") from None
    return found | {name: directory / HEADS / name for name in others if name not in found}


def list_heads(path: Path | str) -> tuple[str, ...]:
    """The names of an artifact's heads, the default first; quick, as no predictor is read.

    Raises:
        ArtifactError: missing, damaged or newer than this version.
    """
    return tuple(_find_heads(Path(path)))


def _part(arrays: Arrays, prefix: str) -> Arrays:
    return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}


def _describe_tier(model: TierModel) -> dict[str, Any]:
    return {
        "fingerprint": model.fingerprint,
        "predictor": model.predictor,
        "settings": model.quality.settings(),
        "tokens": None if model.tokens is None else model.tokens.settings(),
        "tokens_predictor": model.tokens_predictor,
        "metrics": dict(model.metrics),
    }


def _read_tier(tier: str, entry: Mapping[str, Any], arrays: Arrays) -> TierModel:
    def part(name: str) -> Arrays:
        return _part(arrays, f"{tier}.{name}.")

    tokens, lengths = entry["tokens"], entry.get("tokens_predictor", "linear")
    return TierModel(
        fingerprint=entry["fingerprint"],
        predictor=entry["predictor"],
        quality=make_predictor(entry["predictor"], entry["settings"]).restore(part("quality")),
        calibration=Calibration.from_arrays(part("calibration")),
        advantage=Advantage.from_arrays(part("advantage")),
        tokens=None if tokens is None else make_predictor(lengths, tokens).restore(part("tokens")),
        tokens_predictor=lengths,
        smear=arrays[f"{tier}.smear"],
        metrics=entry["metrics"],
    )


def previous_path(path: Path) -> Path:
    """Where `save` keeps the artifact that it replaced, if it is to."""
    return path.with_name(f"{path.name}.previous")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())  # a name must not reach the disk before what it names


@contextmanager
def _opener(directory: Path) -> Iterator[Callable[[str, int], int]]:
    """How to open files of the directory that was there at first, also once another takes its place."""
    try:
        folder = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:
        raise ArtifactError(f"{directory}: no artifact there; {_REMEDY}") from None
    except OSError as error:
        raise ArtifactError(f"{directory}: {error.strerror}; {_REMEDY}") from None
    try:
        yield partial(os.open, dir_fd=folder)
    finally:
        os.close(folder)


_Read = TypeVar("_Read")


def _read_steadily(directory: Path, read: Callable[[Callable[[str, int], int]], _Read]) -> _Read:
    """What is read of one and the same artifact, also while another takes its place."""
    for _ in range(MAX_READS - 1):
        try:
            with _opener(directory) as opener:
                return read(opener)
        except ArtifactError as error:
            if not isinstance(error.__context__, FileNotFoundError) or not directory.exists():
                raise
            # It was replaced, and removed, between the one file and the other: the new one is there.
    with _opener(directory) as opener:
        return read(opener)


def _read_files(directory: Path, mapped: bool) -> tuple[dict[str, Any], Arrays, tuple[str, ...]]:
    """Manifest and arrays of the default head, and the names of the others, of one and the same artifact."""
    return _read_steadily(
        directory,
        lambda opener: (
            _read_manifest(directory, opener),
            _read_arrays(directory, opener, mapped),
            _list_others(opener),
        ),
    )


def _list_others(opener: Callable[[str, int], int]) -> tuple[str, ...]:
    """The names of the heads beside the default."""
    try:
        folder = opener(HEADS, os.O_RDONLY)
    except OSError:  # an artifact of one head has no such folder
        return ()
    try:
        return tuple(sorted(name for name in os.listdir(folder) if not name.startswith(".")))
    finally:
        os.close(folder)


def _read_arrays(directory: Path, opener: Callable[[str, int], int], mapped: bool) -> Arrays:
    try:
        with open(ARRAYS, "rb", opener=opener) as file:
            if mapped:
                return _map_arrays(file)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
    except (OSError, BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{directory}: damaged ({error}); {_REMEDY}") from None


def _write_arrays(file: BinaryIO, arrays: Arrays) -> None:
    """Write arrays as `np.savez` does, each where a processor can read it without a copy."""
    with ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            info = ZipInfo(f"{name}.npy")
            # numpy aligns an array to its own file; here that file is to begin at a multiple of 64 bytes.
            start = file.tell() + LOCAL_HEADER_BYTES + len(info.filename.encode()) + ZIP64_BYTES
            n_padding = -(start + EXTRA.size) % ALIGNMENT
            info.extra = EXTRA.pack(PADDING, n_padding) + bytes(n_padding)
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _map_arrays(file: BinaryIO) -> Arrays:
    """The arrays of an archive as views of the file; those that are compressed or not aligned are copied.

    Raises:
        BadZipFile, ValueError: it is damaged, or holds Python objects.
    """
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays: Arrays = {}
    with ZipFile(file) as archive:
        for info in archive.infolist():
            lengths = info.header_offset + LOCAL_HEADER_BYTES - EXTRA.size
            start = lengths + EXTRA.size + sum(EXTRA.unpack_from(view, lengths))
            data = memoryview(view)[start : start + info.file_size]
            if info.compress_type != ZIP_STORED or zlib.crc32(data) != info.CRC:
                data = memoryview(archive.read(info))  # raises where the sum is wrong
            arrays[info.filename.removesuffix(".npy")] = _view_array(data)
    return arrays


def _view_array(data: memoryview) -> np.ndarray[Any, Any]:
    """The array of a file in numpy's format, over the same memory where that is aligned."""
    head = BytesIO(data[:MAX_ARRAY_HEAD_BYTES])
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(head)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    array: np.ndarray[Any, Any] = np.ndarray(
        shape, dtype, data, head.tell(), order="F" if is_fortran else "C"
    )
    return array if array.flags.aligned else array.copy()


def _read_manifest(directory: Path, opener: Callable[[str, int], int]) -> dict[str, Any]:
    try:
        with open(MANIFEST, "rb", opener=opener) as file:
            manifest = json.loads(file.read().decode())
        schema = manifest["schema"]
    except FileNotFoundError:
        raise ArtifactError(f"{directory}: no artifact there; {_REMEDY}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{directory}: damaged manifest ({error}); {_REMEDY}") from None
    if schema not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise ArtifactError(f"{directory}: schema {schema}, this version reads {known}; {_REMEDY}")
    found: dict[str, Any] = manifest
    return found


def read_evidence(path: Path | str) -> tuple[Evidence, ...]:
    """The experts that an artifact knows; quick, as nothing else of it is read.

    Raises:
        ArtifactError: missing, damaged or newer than this version.
    """
    directory = Path(path)
    try:
        with _opener(directory) as opener:
            return tuple(Evidence(**expert) for expert in _read_manifest(directory, opener)["experts"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); {_REMEDY}") from None


def read_origin(path: Path | str) -> tuple[str, str]:
    """When the latest head of an artifact was fitted, and the digests of all; empty where it does not say.

    Raises:
        ArtifactError: as `read_evidence`.
    """
    directory = Path(path)
    created, digests = [""], []
    for folder in _find_heads(directory).values():
        with _opener(folder) as opener:
            manifest = _read_manifest(folder, opener)
        provenance = manifest.get("provenance")
        created.append(str(provenance.get("created") or "") if isinstance(provenance, dict) else "")
        digests.append(str(manifest.get("digest") or ""))
    return max(created), " ".join(digests)


def _check_fingerprints(
    directory: Path, manifest: Mapping[str, Any], fingerprints: Mapping[Tier, str]
) -> None:
    tiers = manifest.get("tiers") or manifest.get("heads") or {}
    common = [tier for tier in tiers if tier in fingerprints]
    if not common:
        raise ArtifactError(f"{directory}: has no tier for {', '.join(fingerprints)}; {_REMEDY}")
    for tier in common:
        if tiers[tier]["fingerprint"] != fingerprints[tier]:
            raise ArtifactError(f"{directory}: its {tier} tier was fitted on another embedder; {_REMEDY}")
