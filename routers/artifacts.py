"""A trained artifact: heads per embedder tier, how far to trust them, and where they come from.

On disk a directory: `manifest.json` (what a person wants to know, and every setting) and `arrays.npz` (what
was learned). Neither can run code when it is read.
"""

import ctypes
import json
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from .calibration import Advantage, Calibration
from .errors import ArtifactError
from .protocols import Arrays, Predictor
from .registry import make_predictor
from .sweep import Sample
from .types import Floats, Tier

MANIFEST, ARRAYS = "manifest.json", "arrays.npz"
MAX_READS = 3
LOCAL_HEADER_BYTES, ZIP64_BYTES, PADDING = 30, 20, 0xD935
"""PKWARE's APPNOTE.TXT, 4.3.7 and 4.5.3; the number that Android's zipalign uses for a field of padding."""
EXTRA = struct.Struct("<HH")
ALIGNMENT = 64
MAX_ARRAY_HEAD_BYTES = 1 << 16
AT_FDCWD, EXCHANGE = -100, 2
"""From Linux's fcntl.h and fs.h; macOS has the same number for RENAME_SWAP."""
SCHEMA = 2
READABLE = (1, 2)
"""Schema 1 lacks the λ tables and their sample; all else is the same."""
_REMEDY = "`thalamus fit` makes a new one"


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
class Head:
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
class Artifact:
    """Everything `fit` learned from an outcome table.

    latency: (n_experts, 2) seconds before and per output token, NaN where unmeasured
    margin: adaptive policies escalate to the encoder below this distance between the first two
    margins: how that was chosen: threshold, share escalated (`consulted`), accuracy
    sample: what was predicted out of fold and what came true, for λ tables of any pool; None in schema 1
    sweeps: per tier the λ table of all experts at measured costs: weight, dollars a thousand calls, quality
    """

    experts: tuple[Evidence, ...]
    heads: Mapping[Tier, Head]
    latency: Floats
    margin: float
    margins: Sequence[Mapping[str, float]]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sample: Sample | None = None
    sweeps: Mapping[Tier, Sequence[Mapping[str, float]]] = field(default_factory=dict)

    def save(self, path: Path | str, *, keep_previous: bool = False) -> None:
        """Write the directory; it appears whole or not at all, in place of an artifact that was there.

        keep_previous: leave the one that was there beside it, under the name that `previous_path` gives.

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
                fresh.mkdir()
                with (fresh / MANIFEST).open("wb") as file:
                    file.write((json.dumps(self.manifest(), indent=1) + "\n").encode())
                    _flush(file)
                with (fresh / ARRAYS).open("wb") as file:
                    _write_arrays(file, self._arrays())
                    _flush(file)
                if not target.exists():
                    os.rename(fresh, target)
                    return
                _swap(fresh, target)
                if not keep_previous:
                    return
                before = previous_path(target)
                if before.exists():
                    os.rename(before, Path(temporary, "old"))
                os.rename(fresh, before)
        except OSError as error:
            raise ArtifactError(f"{target}: {error.strerror or error}") from None

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
        manifest, arrays = _read_files(directory, mapped)
        if fingerprints is not None:
            _check_fingerprints(directory, manifest, fingerprints)
        try:
            return cls(
                experts=tuple(Evidence(**expert) for expert in manifest["experts"]),
                heads={tier: _read_head(tier, entry, arrays) for tier, entry in manifest["heads"].items()},
                latency=arrays["latency"],
                margin=float(manifest["margin"]),
                margins=manifest["margins"],
                provenance=manifest["provenance"],
                sample=Sample.from_arrays(kept) if (kept := _part(arrays, "sample.")) else None,
                sweeps=manifest.get("sweeps", {}),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{directory}: damaged ({error}); {_REMEDY}") from None

    def manifest(self) -> dict[str, Any]:
        """The JSON-able account of the artifact."""
        return {
            "schema": SCHEMA,
            "experts": [asdict(expert) for expert in self.experts],
            "heads": {tier: _describe_head(head) for tier, head in self.heads.items()},
            "margin": self.margin,
            "margins": [dict(row) for row in self.margins],
            "sweeps": {tier: [dict(row) for row in rows] for tier, rows in self.sweeps.items()},
            "provenance": dict(self.provenance),
        }

    def _arrays(self) -> Arrays:
        arrays: Arrays = {"latency": self.latency}
        for tier, head in self.heads.items():
            parts = {
                "quality": head.quality.arrays(),
                "calibration": head.calibration.arrays(),
                "advantage": head.advantage.arrays(),
            }
            if head.tokens is not None:
                parts["tokens"] = head.tokens.arrays()
            for part, held in parts.items():
                arrays.update({f"{tier}.{part}.{key}": values for key, values in held.items()})
            arrays[f"{tier}.smear"] = head.smear
        if self.sample is not None:
            arrays.update({f"sample.{key}": values for key, values in self.sample.arrays().items()})
        return arrays


def _part(arrays: Arrays, prefix: str) -> Arrays:
    return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}


def _describe_head(head: Head) -> dict[str, Any]:
    return {
        "fingerprint": head.fingerprint,
        "predictor": head.predictor,
        "settings": head.quality.settings(),
        "tokens": None if head.tokens is None else head.tokens.settings(),
        "tokens_predictor": head.tokens_predictor,
        "metrics": dict(head.metrics),
    }


def _read_head(tier: str, entry: Mapping[str, Any], arrays: Arrays) -> Head:
    def part(name: str) -> Arrays:
        return _part(arrays, f"{tier}.{name}.")

    tokens, lengths = entry["tokens"], entry.get("tokens_predictor", "linear")
    return Head(
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


def _swap(first: Path, second: Path) -> None:
    """Exchange two directories, in one step where the system has one for it."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if (exchange := getattr(library, "renameat2", None)) is not None:  # Linux
        done = exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], EXCHANGE)
    elif (exchange := getattr(library, "renamex_np", None)) is not None:  # macOS
        done = exchange(*names, EXCHANGE)
    else:
        done = -1
    if done == 0:
        return
    # A file system without it, such as NFS. A killed process leaves the second beside its place.
    aside = second.with_name(f"{second.name}.replaced")
    os.rename(second, aside)
    try:
        os.rename(first, second)
    except OSError:
        os.rename(aside, second)
        raise
    os.rename(aside, first)


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


def _read_files(directory: Path, mapped: bool) -> tuple[dict[str, Any], Arrays]:
    """Manifest and arrays of one and the same artifact."""
    for _ in range(MAX_READS - 1):
        try:
            with _opener(directory) as opener:
                return _read_manifest(directory, opener), _read_arrays(directory, opener, mapped)
        except ArtifactError as error:
            if not isinstance(error.__context__, FileNotFoundError) or not directory.exists():
                raise
            # It was replaced, and removed, between the one file and the other: the new one is there.
    with _opener(directory) as opener:
        return _read_manifest(directory, opener), _read_arrays(directory, opener, mapped)


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


def _check_fingerprints(
    directory: Path, manifest: Mapping[str, Any], fingerprints: Mapping[Tier, str]
) -> None:
    heads = manifest.get("heads", {})
    common = [tier for tier in heads if tier in fingerprints]
    if not common:
        raise ArtifactError(f"{directory}: has no head for {', '.join(fingerprints)}; {_REMEDY}")
    for tier in common:
        if heads[tier]["fingerprint"] != fingerprints[tier]:
            raise ArtifactError(f"{directory}: its {tier} head was fitted on another embedder; {_REMEDY}")
