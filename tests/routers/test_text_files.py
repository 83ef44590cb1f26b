"""Encodings of the text files we read; files are written whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from routers.text_files import decode_text, find_encoding, write_file

TEXT = "{größe: 東京}\n\U0001f642"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_text_of_every_unicode_encoding_is_read(encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-32-be" else ""
    assert decode_text((mark + TEXT).encode(encoding)) == TEXT


@pytest.mark.parametrize("data", [b"", b"a", b"\n", b"\xef\xbb\xbf"])
def test_short_texts_have_no_mark_to_mistake(data: bytes) -> None:
    assert decode_text(data) == data.decode("utf-8-sig")
    assert find_encoding(data)[0] == "utf-8"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\nGrüße".encode("latin-1"), "byte 0xfc in line 2 is not UTF-8; save the file as UTF-8"),
        ("\ufeffa\nb".encode("utf-16-le")[:-1], "damaged: it begins as UTF-16-LE and is not"),
    ],
)
def test_other_bytes_are_refused_with_the_place_and_the_fix(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_text(data)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    path = tmp_path / "mine.yaml"
    if is_there:
        path.write_text("mine")
    before = [(one.name, one.read_text()) for one in tmp_path.iterdir()]

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_file(path, "theirs")
    assert caught.value.filename == str(path)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == before


def test_a_replaced_file_keeps_its_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "mine.yaml", tmp_path / "link.yaml"
    path.write_text("mine")
    path.chmod(0o640)
    link.symlink_to(path)
    write_file(link, "größer")
    assert link.is_symlink()
    assert path.read_bytes() == "größer".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_folder_and_a_device_are_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path, "text")
    write_file(Path(os.devnull), "text")
    assert not Path(os.devnull).is_file()
