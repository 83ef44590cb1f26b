"""The columns of a pandas DataFrame out of a pickle, without running any code from it.

A pickle is a program that names functions and calls them. Here every name becomes a record that only
remembers what it was called with; nothing named is looked up, imported or run. The columns are put together
from the records afterwards, so neither pandas nor pyarrow is needed. A column of something else (dates,
vectors, objects of a library) is left out, with the reason.
"""

import gzip
import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routers import DataError

_SIMPLE = re.compile(r"[biuf][1248]|U\d+")
_OBJECTS = re.compile(r"O8?")


class _Sealed(type):
    """Classes that a pickle cannot change: one of its instructions sets attributes."""

    named = ""

    def __setattr__(cls, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it sets {name!r} on a class")


class _Call(metaclass=_Sealed):
    """A call that is not made: its arguments, and the state that was set on its result."""

    __slots__ = ("args", "state")
    named = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **options: Any) -> Any:
        made = object.__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, value: Any) -> None:
        """Contents of collections that are not Python's own do not count."""

    def extend(self, values: Any) -> None:
        """As `append`."""

    def add(self, value: Any) -> None:
        """As `append`."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """As `append`."""


class _Latin(_Call):
    """Bytes as old protocols spell them."""

    __slots__ = ()

    def __new__(cls, text: str, encoding: str = "latin1") -> Any:
        return text.encode("latin1")


class _FrameUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._kinds: dict[str, _Sealed] = {"_codecs.encode": _Latin}

    def find_class(self, module: str, name: str) -> Any:
        """The record that stands in for a name; never the name itself."""
        whole = f"{module}.{name}"
        if whole not in self._kinds:
            self._kinds[whole] = _Sealed("_Named", (_Call,), {"__slots__": (), "named": whole})
        return self._kinds[whole]


@dataclass(frozen=True, slots=True)
class Frame:
    """Columns by name as Python values, and the reason for each that could not be read."""

    columns: Mapping[str, list[Any]]
    unread: Mapping[str, str]


def read_frame(source: Path) -> Frame:
    """The table in a pickle; an index that has a name is one of its columns.

    Raises:
        DataError: it cannot be read or is no DataFrame.
    """
    try:
        data = source.read_bytes()
        # gzip's magic number (RFC 1952, 2.3.1); the file's name may say nothing of it.
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return _read_columns(_FrameUnpickler(data).load())
    except OSError as error:
        raise DataError(f"{source}: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can make its reader raise anything
        reason = " ".join(f"{error or type(error).__name__}".split())
        raise DataError(
            f"{source}: not read: {reason[:200]}; only tables of pandas are read, and no code in them is run:"
            " export it as CSV"
        ) from None


def _read_columns(frame: Any) -> Frame:
    manager = frame.state.get("_mgr", frame.state.get("_data")) if _is(frame, "DataFrame") else None
    if not isinstance(manager, _Call) or not _is(manager, "BlockManager"):
        raise ValueError(f"it holds no DataFrame but {_describe(frame)}")
    blocks, axes = _parts(manager)
    names = [str(name) for name in _labels(axes[0])]
    columns: dict[str, list[Any]] = {}
    unread: dict[str, str] = {}
    for values, places in blocks:
        for place, held in zip(_places(places), _block_columns(values, len(_places(places))), strict=True):
            name = names[place]
            if isinstance(held, str):
                unread[name] = held
            elif name in columns:
                unread[name] = "two columns have this name"
            else:
                columns[name] = held
    for name, labels in _index_column(axes[1]):
        columns.setdefault(name, labels)
    if missing := set(names) - columns.keys() - unread.keys():
        raise ValueError(f"column {min(missing)!r} has no data")
    return Frame({name: held for name, held in columns.items() if name not in unread}, unread)


def _parts(manager: _Call) -> tuple[list[tuple[Any, Any]], Any]:
    """Blocks as (values, places), and axes, columns first."""
    if manager.state is not None:  # before pandas 1.3
        state = manager.state[3]["0.14.1"]
        return [(block["values"], block["mgr_locs"]) for block in state["blocks"]], state["axes"]
    blocks, axes = manager.args
    return [(block.args[0], block.args[1]) for block in blocks], axes


def _labels(index: _Call) -> list[Any]:
    fields = index.args[1]
    if "data" in fields:
        return list(_cells(_values(fields["data"]).ravel()))
    return list(range(fields["start"], fields["stop"], fields["step"]))


def _index_column(index: Any) -> list[tuple[str, list[Any]]]:
    """The index as a column, if it is plain and has a name."""
    try:
        name = index.args[1]["name"]
        return [(name, _labels(index))] if isinstance(name, str) else []
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return []


def _places(locs: Any) -> list[int]:
    if _is(locs, "slice"):
        start, stop, step = locs.args
        return list(range(start, stop, step or 1))
    places: list[int] = _values(locs).astype(np.int64).tolist()
    return places


def _block_columns(values: Any, n_columns: int) -> list[list[Any] | str]:
    """The columns of a block; in place of one that is not plain the reason."""
    try:
        rows = np.atleast_2d(_values(values))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return [f"{error}"] * n_columns
    held: list[list[Any] | str] = []
    for row in rows:
        try:
            held.append(_cells(row))
        except ValueError as error:
            held.append(str(error))
    return held


def _cells(row: NDArray[Any]) -> list[Any]:
    if row.dtype == object:
        return [_plain(value) for value in row]
    # float(np.float32(0.1)) is 0.10000000149; its shortest decimal reads back as 0.1.
    return [float(str(value)) for value in row] if row.dtype == np.float32 else row.tolist()


def _values(record: Any) -> NDArray[Any]:
    """An array from what it would have been called with; cells of object arrays are not looked at."""
    if _is(record, "__pyx_unpickle_NDArrayBacked"):
        return _extension_values(record)
    state = getattr(record, "state", None)
    if _is(record, "_frombuffer"):
        data, dtype, shape, order = record.args[:4]
        return _fill_array(data, dtype, shape, order == "F")
    if _is(record, "_reconstruct") and state is not None:
        _, shape, dtype, fortran, data = state
        return _fill_array(data, dtype, shape, bool(fortran))
    if isinstance(state, dict) and "_mask" in state:  # nullable numbers: IntegerArray and its like
        filled = _values(state["_data"]).astype(object)
        filled[_values(state["_mask"]).astype(bool)] = None
        return filled
    if isinstance(state, dict) and ("_pa_array" in state or _is(record, "ArrowStringArray")):
        return _arrow_values(state.get("_pa_array", state.get("_data")))
    raise ValueError(f"it holds {_describe(record)}")


def _extension_values(record: _Call) -> NDArray[Any]:
    """An array of pandas' own: text as it is, categories as what they stand for."""
    kind = record.args[0].named.rpartition(".")[2]
    parts = [record.state] if isinstance(record.state, _Call) else list(record.state or ())
    arrays = [_values(part) for part in parts if _is(part, "_reconstruct") or _is(part, "_frombuffer")]
    if kind == "StringArray":
        return arrays[0]
    if kind == "Categorical":
        dtype = next(part for part in parts if _is(part, "CategoricalDtype"))
        names: NDArray[Any] = np.array([*_labels(dtype.state["categories"]), None], object)
        values: NDArray[Any] = names[arrays[0]]  # an unknown category is -1, the last
        return values
    raise ValueError(f"it holds {kind}")


def _arrow_values(record: Any) -> NDArray[Any]:
    """An Arrow array of text or numbers from its buffers (https://arrow.apache.org/docs/format/Columnar.html)."""
    if _is(record, "chunked_array"):
        return np.concatenate([np.empty(0, object), *(_arrow_values(part) for part in record.args[0])])
    if not _is(record, "_restore_array"):
        raise ValueError(f"it holds {_describe(record)}")
    kind, length, _, offset, buffers = record.args[0][:5]
    name = kind.args[0] if _is(kind, "type_for_alias") else _describe(kind)
    valid, *data = (buffer and bytes(buffer.args[0]) for buffer in buffers)
    values = np.empty(length, object)
    if name in ("string", "large_string"):
        ends = np.frombuffer(data[0], np.int64 if name == "large_string" else np.int32)[offset:]
        text = data[1] or b""
        values[:] = [text[ends[n] : ends[n + 1]].decode() for n in range(length)]
    elif name in ("double", "float", "int64", "int32"):
        kinds = {"double": "<f8", "float": "<f4", "int64": "<i8", "int32": "<i4"}
        values[:] = np.frombuffer(data[0], kinds[name])[offset : offset + length].tolist()
    elif name == "bool":
        values[:] = _bits(data[0], offset, length)
    else:
        raise ValueError(f"it holds Arrow's {name}")
    if valid is not None:
        values[[not known for known in _bits(valid, offset, length)]] = None
    return values


def _bits(data: bytes, offset: int, length: int) -> list[bool]:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return [bool(bit) for bit in bits[offset : offset + length]]


def _fill_array(data: Any, dtype: _Call, shape: tuple[int, ...], fortran: bool) -> NDArray[Any]:
    name = str(dtype.args[0])
    if _OBJECTS.fullmatch(name):
        flat = np.empty(len(data), object)
        # One by one: assigning the list would make NumPy unpack cells that are lists.
        for n, value in enumerate(data):
            flat[n] = value
        return flat.reshape(shape, order="F" if fortran else "C")
    if not _SIMPLE.fullmatch(name):
        raise ValueError(f"it holds {'dates' if name[:1] == 'M' else f'values of type {name!r}'}")
    # dtype.state[1] is the byte order; files of big-endian machines keep theirs.
    swapped = ">" if dtype.state and dtype.state[1] == ">" else "<"
    return np.frombuffer(data, np.dtype(swapped + name)).reshape(shape, order="F" if fortran else "C")


def _plain(value: Any) -> Any:
    """A Python value; a NumPy scalar becomes the number or text it is, a missing value None."""
    if _is(value, "scalar"):
        dtype, data = value.args
        return _fill_array(data, dtype, (1,), False)[0].item()
    if _is(value, "Decimal"):
        return float(value.args[0])
    if isinstance(value, _Sealed) and value.named in ("pandas._libs.missing.NA", "pandas.NA"):
        return None
    if _is(value, "_nat_unpickle"):
        return None
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"it holds {_describe(value)}")


def _is(record: Any, name: str) -> bool:
    """Whether a record is a call of what has this name, in whichever module a version keeps it."""
    return isinstance(record, _Call) and record.named.rpartition(".")[2] == name


def _describe(value: Any) -> str:
    if isinstance(value, _Call):
        return "arrays" if _is(value, "_frombuffer") or _is(value, "_reconstruct") else value.named
    return value.named if isinstance(value, _Sealed) else type(value).__name__
