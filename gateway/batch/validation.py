"""Whether every line of an input file can be asked: all that is wrong with it, told at once."""

from collections.abc import Iterator
from pathlib import Path

from .lines import FaultyLine, LineReader, lines_of
from .types import LineError
from .worklist import Line, Worklist

MAX_TOLD = 200
AT_ONCE = 2000


def validate(
    path: Path, reader: LineReader, worklist: Worklist, max_line_bytes: int
) -> tuple[int, list[LineError]]:
    """Enter the lines of a file in a worklist: how many there are, and what is wrong with them.

    Nothing is kept in memory but the errors, the first `MAX_TOLD` of them.

    Raises:
        OSError: the file cannot be read.
    """
    worklist.clear()
    errors: list[LineError] = []
    n_lines = 0
    entered: list[Line] = []
    for line in _checked(path, reader, max_line_bytes, errors):
        n_lines += 1
        entered.append(line)
        if len(entered) == AT_ONCE:
            worklist.add(entered)
            entered = []
    worklist.add(entered)
    errors += worklist.repeated(MAX_TOLD)
    if not n_lines and not errors:
        errors.append(LineError("empty_file", "the file has no lines"))
    told = sorted(errors, key=lambda error: error.line or 0)[:MAX_TOLD]
    return n_lines, told


def _checked(path: Path, reader: LineReader, max_bytes: int, errors: list[LineError]) -> Iterator[Line]:
    """Every line that can be asked; what is wrong with the others goes to `errors`."""
    for found in lines_of(path, max_bytes):
        try:
            if found.text is None:
                raise FaultyLine("line_too_long", f"longer than {max_bytes} bytes (server.max_body_bytes)")
            custom_id, asked = reader.read(found.text)
            if asked.expert is not None:
                reader.order(asked)
        except FaultyLine as fault:
            if len(errors) < MAX_TOLD:
                errors.append(LineError(fault.code, fault.message, found.n, fault.param))
        else:
            yield Line(found.n, found.offset, found.size, custom_id)
