"""The columns of a pandas DataFrame out of a pickle, without running any code from it.

A pickle is a program that names functions and calls them. Here every name is looked up in a fixed table of
records that only remember what they were called with; any other name is refused. pandas and NumPy are not
called while it is read: the columns are put together from the records afterwards, so pandas is not needed.
"""

import gzip
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routers import DataError

_NUMBERS = re.compile(r"[biuf][1248]")
_OBJECTS = re.compile(r"O8?")


class _Sealed(type):
    """Classes that a pickle cannot change: one of its instructions sets attributes."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it sets {name!r} on a class")


class _Record(metaclass=_Sealed):
    """The arguments of a call, and the state that was set on its result."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "_Record":
        made = object.__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Frame(_Record):
    __slots__ = ()


class _Manager(_Record):
    __slots__ = ()


class _Block(_Record):
    __slots__ = ()


class _Index(_Record):
    __slots__ = ()


class _Kind(_Record):
    __slots__ = ()


class _Array(_Record):
    __slots__ = ()


class _Buffer(_Record):
    __slots__ = ()


class _Text(_Record):
    """A column of text: its state holds the array."""

    __slots__ = ()


class _DType(_Record):
    __slots__ = ()


class _Scalar(_Record):
    __slots__ = ()


class _Slice(_Record):
    __slots__ = ()


class _Latin(_Record):
    """Bytes as old protocols spell them."""

    __slots__ = ()

    def __new__(cls, text: str, encoding: str = "latin1") -> Any:
        return text.encode("latin1")


_NUMPY = {
    "core.multiarray._reconstruct": _Array,
    "core.multiarray.scalar": _Scalar,
    "core.numeric._frombuffer": _Buffer,
}
_STANDINS: Mapping[str, type[_Record]] = {
    **{f"numpy.{under}{name}": kind for under in ("", "_") for name, kind in _NUMPY.items()},
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    "pandas.DataFrame": _Frame,
    "pandas.StringDtype": _DType,
    "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked": _Text,
    "pandas.arrays.StringArray": _Kind,
    "pandas.core.frame.DataFrame": _Frame,
    "pandas.core.internals.managers.BlockManager": _Manager,
    "pandas._libs.internals._unpickle_block": _Block,
    "pandas.core.indexes.base._new_Index": _Index,
    "pandas.Index": _Kind,
    "pandas.RangeIndex": _Kind,
    "pandas.core.indexes.base.Index": _Kind,
    "pandas.core.indexes.range.RangeIndex": _Kind,
    "pandas.core.indexes.numeric.Int64Index": _Kind,
    "builtins.slice": _Slice,
    "_codecs.encode": _Latin,
}


class _FrameUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The record that stands in for a name; never the name itself."""
        try:
            return _STANDINS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read_frame(source: Path) -> dict[str, list[Any]]:
    """Columns by name, as Python values.

    Raises:
        DataError: it cannot be read, is no DataFrame of plain columns, or names anything else.
    """
    try:
        data = source.read_bytes()
        # gzip's magic number (RFC 1952, 2.3.1); the file's name may say nothing of it.
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        frame = _FrameUnpickler(io.BytesIO(data)).load()
        return _columns(frame)
    except OSError as error:
        raise DataError(f"{source}: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can make its reader raise anything
        reason = " ".join(f"{error or type(error).__name__}".split())
        raise DataError(
            f"{source}: not read: {reason[:200]}; only pandas tables of plain columns are read, and no code"
            " in them is run: export it as CSV"
        ) from None


def _columns(frame: Any) -> dict[str, list[Any]]:
    if not isinstance(frame, _Frame) or not isinstance(frame.state, dict):
        raise ValueError("it holds no DataFrame")
    manager = frame.state.get("_mgr", frame.state.get("_data"))
    if not isinstance(manager, _Manager):
        raise ValueError("its DataFrame has no data")
    blocks, axes = _parts(manager)
    names = _labels(axes[0])
    columns: dict[str, list[Any]] = {}
    for values, places in blocks:
        held = _values(values)
        for row, place in zip(held, _places(places), strict=True):
            columns[str(names[place])] = row.tolist()
    if len(columns) != len(names):
        raise ValueError("columns are missing, or two bear one name")
    return {str(name): columns[str(name)] for name in names}


def _parts(manager: _Record) -> tuple[list[tuple[Any, Any]], Any]:
    """Blocks as (values, places), and axes, columns first."""
    if manager.state is not None:  # before pandas 1.3
        state = manager.state[3]["0.14.1"]
        return [(block["values"], block["mgr_locs"]) for block in state["blocks"]], state["axes"]
    blocks, axes = manager.args
    return [(block.args[0], block.args[1]) for block in blocks], axes


def _labels(index: _Record) -> list[Any]:
    fields = index.args[1]
    if "data" in fields:
        labels: list[Any] = _values(fields["data"]).ravel().tolist()
        return labels
    return list(range(fields["start"], fields["stop"], fields["step"]))


def _places(locs: Any) -> list[int]:
    if isinstance(locs, _Slice):
        start, stop, step = locs.args
        return list(range(start, stop, step or 1))
    places: list[int] = _values(locs).astype(np.int64).tolist()
    return places


def _values(record: Any) -> NDArray[Any]:
    """An array from what it would have been called with."""
    if isinstance(record, _Text):
        held = next((part for part in record.state or () if isinstance(part, _Array)), None)
        return np.atleast_2d(_values(held))
    if isinstance(record, _Buffer):
        data, dtype, shape, order = record.args[:4]
        return _fill_array(data, dtype, shape, order == "F")
    if not isinstance(record, _Array) or record.state is None:
        raise ValueError(f"{type(record).__name__.strip('_')} where an array is needed")
    _, shape, dtype, fortran, data = record.state
    return _fill_array(data, dtype, shape, bool(fortran))


def _fill_array(data: Any, dtype: _DType, shape: tuple[int, ...], fortran: bool) -> NDArray[Any]:
    name = str(dtype.args[0])
    if _OBJECTS.fullmatch(name):
        flat = np.empty(len(data), object)
        # One by one: assigning the list would make NumPy unpack cells that are lists.
        for n, value in enumerate(data):
            flat[n] = _plain(value)
        return flat.reshape(shape, order="F" if fortran else "C")
    if not _NUMBERS.fullmatch(name):
        raise ValueError(f"an array of type {name!r}")
    # dtype.state[1] is the byte order; files of big-endian machines keep theirs.
    swapped = ">" if dtype.state and dtype.state[1] == ">" else "<"
    return np.frombuffer(data, np.dtype(swapped + name)).reshape(shape, order="F" if fortran else "C")


def _plain(value: Any) -> Any:
    """A Python value; a NumPy scalar becomes the number it is."""
    if isinstance(value, _Scalar):
        dtype, data = value.args
        return _fill_array(data, dtype, (1,), False)[0].item()
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"a cell that is {type(value).__name__.strip('_')}")
