"""Input files as editors and shells of all systems write them, and their lines in the worklist."""

from pathlib import Path

import pytest

from gateway.batches.lines import InputFile, read_lines
from gateway.batches.store import BatchLine, BatchStore, RoutedLine, Worklist
from tests.fakes.batches import jsonl, line, open_batch_gateway, read_content

TEXTS = ["plain", "Ċ ਊ Ă ∊ ÿ", "東京 \U0001f642", "a\u2028b\u0085c", "last"]
"""Characters whose halves in UTF-16 are the bytes of a line feed, in either order."""
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32"]


def write_lines(path: Path, encoding: str, end: str = "\n") -> Path:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + end.join(TEXTS)).encode(encoding))
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  \n"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lines_of_every_encoding_are_the_same_lines(tmp_path: Path, encoding: str, end: str) -> None:
    path = write_lines(tmp_path / "in.jsonl", encoding, end)
    found = list(read_lines(path, 1000))
    assert [one.text for one in found] == [text.encode() for text in TEXTS]
    source = InputFile(path)
    read = [source.text(BatchLine(one.n, one.offset, one.size, "id")) for one in found]
    source.close()
    assert read == [text.encode() for text in TEXTS]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_line_that_is_too_long_is_skipped_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "in").write_bytes(("a\n" + "x" * 500 + "\nb\n").encode(encoding))
    found = list(read_lines(tmp_path / "in", 90))
    assert [(one.n, one.text) for one in found] == [(1, b"a"), (2, None), (3, b"b")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_that_were_joined_have_marks_inside(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "in").write_bytes("\ufeffa\n\ufeffb\n".encode(encoding))
    assert [one.text for one in read_lines(tmp_path / "in", 90)] == [b"a", b"b"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_a_batch_with_a_byte_order_mark_is_answered(tmp_path: Path, encoding: str) -> None:
    async with open_batch_gateway(tmp_path, ["says-a"]) as at:
        data = jsonl(line("größe", "says-a"), line("2", "says-a")).decode().encode(encoding)
        batch, output, errors = await at.run(data)
        assert (batch.status, errors) == ("completed", [])
        assert [(row["custom_id"], read_content(row)) for row in output] == [("größe", "a"), ("2", "a")]


def test_listing_unrouted_lines_costs_the_same_wherever_they_stand(tmp_path: Path) -> None:
    """Counted in steps of SQLite's machine: reading over routed lines made large batches dearer per line."""
    store = BatchStore.open(tmp_path)
    worklist = Worklist(store, "batch_a")
    worklist.add(BatchLine(n, 10 * n, 10, f"line-{n}") for n in range(1, 3001))
    n_steps = 0

    def count() -> int:
        nonlocal n_steps
        n_steps += 1
        return 0

    store._ensure_open()[1].set_progress_handler(count, 1)
    took, last = [], 0
    while lines := worklist.list_unrouted(last, 100):
        took.append(n_steps)
        worklist.route([RoutedLine(line.n, ("a", "b")) for line in lines])
        last, n_steps = lines[-1].n, 0
    assert last == 3000
    assert 0 < max(took) < 1.2 * min(took)
    assert worklist.count_waiting() == {"a": 3000, "b": 3000}
    store.close()
