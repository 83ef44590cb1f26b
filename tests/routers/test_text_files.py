"""Encodings of the text files we read."""

import pytest

from routers.text_files import decode_text, find_encoding

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
