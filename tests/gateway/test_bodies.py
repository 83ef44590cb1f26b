"""Bodies and addresses as clients write them: compressed, cut, under other paths, with other headers."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.asgi.encodings import SERVED, inflate_body
from gateway.asgi.paths import PathTable
from gateway.errors import BodyTooLarge, InvalidEncoding, InvalidJson, UnsupportedEncoding
from gateway.requests.parsing import parse_body
from gateway.testing import FakeUpstream
from tests.fakes.serving import LiveApp
from tests.fakes.serving import gateway as serve

BODY: dict[str, Any] = {"model": "good", "messages": [{"role": "user", "content": "Hi"}]}
RAW = json.dumps(BODY).encode()
MAX_BYTES = 100_000


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest_asyncio.fixture
async def live(tmp_path: Path, upstream: FakeUpstream) -> AsyncIterator[LiveApp]:
    config = {
        "experts": [{"name": "good", "model": "openai/good", "api_base": upstream.base_url}],
        "server": {"max_body_bytes": MAX_BYTES},
        "embeddings": {"enabled": False},
    }
    async with serve(config, str(tmp_path / "journal.sqlite3"), "good") as running:
        yield running


def bare_deflate(data: bytes) -> bytes:
    squeezer = zlib.compressobj(wbits=-15)
    return squeezer.compress(data) + squeezer.flush()


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzip.compress(RAW, mtime=0)),
        ("x-gzip", gzip.compress(RAW, mtime=0)),
        ("GZIP", gzip.compress(RAW[:20], mtime=0) + gzip.compress(RAW[20:], mtime=0)),
        ("deflate", zlib.compress(RAW)),
        ("deflate", bare_deflate(RAW)),
        ("identity", RAW),
        ("deflate, gzip", gzip.compress(zlib.compress(RAW), mtime=0)),
    ],
)
async def test_a_compressed_body_is_inflated(
    live: LiveApp, upstream: FakeUpstream, coding: str, data: bytes
) -> None:
    answer = await live.post("chat/completions", data, content_encoding=coding)
    assert (answer.status, answer.expert) == (200, "good")
    assert upstream.calls[-1] == BODY
    # The body names an expert: there is nothing to decide, but it was read.
    assert (await live.post("route", data, content_encoding=coding)).error["param"] == "model"


@pytest.mark.skipif(find_spec("zstandard") is None, reason="needs the extra `zstd`")
async def test_a_zstd_body_is_inflated_within_the_bound(live: LiveApp) -> None:
    import zstandard

    squeeze = zstandard.ZstdCompressor().compress
    assert (await live.post("chat/completions", squeeze(RAW), content_encoding="zstd")).status == 200
    bomb = squeeze(b"[" * 50_000_000)
    assert (await live.post("chat/completions", bomb, content_encoding="zstd")).status == 413
    broken = await live.post("chat/completions", squeeze(RAW)[:-9], content_encoding="zstd")
    assert broken.status == 400


@pytest.mark.parametrize("coding", ["br", "zstd2", "compress", "gzip, br", "gzip, gzip, gzip"])
async def test_another_encoding_is_a_415_that_lists_what_is_read(live: LiveApp, coding: str) -> None:
    answer = await live.post("chat/completions", RAW, content_encoding=coding)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == ", ".join(SERVED)
    assert "gzip, deflate" in answer.error["message"]


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", RAW),
        ("gzip", gzip.compress(RAW, mtime=0)[:-9]),
        ("deflate", RAW),
        ("deflate", zlib.compress(RAW)[:-5]),
    ],
)
async def test_a_body_that_is_not_what_it_says_is_a_400(live: LiveApp, coding: str, data: bytes) -> None:
    answer = await live.post("chat/completions", data, content_encoding=coding)
    assert (answer.status, answer.error["code"]) == (400, "invalid_encoding")
    assert f"is not whole {coding} data" in answer.error["message"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_the_bound_holds_for_the_inflated_body(live: LiveApp, coding: str) -> None:
    squeeze = gzip.compress if coding == "gzip" else zlib.compress
    answer = await live.post("chat/completions", squeeze(b" " * 60_000_000), content_encoding=coding)
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert "server.max_body_bytes" in answer.error["message"]


def test_a_bomb_of_many_members_or_layers_is_bounded() -> None:
    member = gzip.compress(b" " * 1000, mtime=0)
    with pytest.raises(BodyTooLarge):
        inflate_body(member * 1000, "gzip", MAX_BYTES)
    with pytest.raises(BodyTooLarge):
        inflate_body(gzip.compress(gzip.compress(b" " * 10**7, mtime=0)), "gzip, gzip", MAX_BYTES)
    with pytest.raises(UnsupportedEncoding):
        inflate_body(member, ", ".join(["gzip"] * 9), MAX_BYTES)
    with pytest.raises(InvalidEncoding):
        inflate_body(b"", "deflate", MAX_BYTES)


async def test_a_compressed_form_is_a_415(live: LiveApp) -> None:
    answer = await live.post("files", gzip.compress(b"--x", mtime=0), content_encoding="gzip")
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "identity")


async def test_a_byte_order_mark_is_passed_over_or_named(live: LiveApp) -> None:
    assert (await live.post("chat/completions", b"\xef\xbb\xbf" + RAW)).status == 200
    wide = await live.post("chat/completions", RAW.decode().encode("utf-16"))
    assert (wide.status, "the body is UTF-16" in wide.error["message"]) == (400, True)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (rb"cut here \ud83d", rb"\ud83d"),
        (rb"\uDE00 comes alone", rb"\uDE00"),
        (rb"\ud83d\u0041", rb"\ud83d"),
        (rb"\ud83d \ude00", rb"\ud83d"),
        (rb"\\\ud83d", rb"\ud83d"),
        (rb"\ud83d\ud83d\ude00", rb"\ud83d"),
    ],
)
@pytest.mark.parametrize("model", [b"good", b"auto"])
async def test_half_of_a_character_is_named(
    live: LiveApp, upstream: FakeUpstream, model: bytes, text: bytes, where: bytes
) -> None:
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "%s"}]}' % (model, text)
    answer = await live.post("chat/completions", body)
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")
    place = f"lone surrogate ({where.decode()} at byte {body.index(where)})"
    assert place in answer.error["message"]
    assert not upstream.calls


def test_half_of_a_character_in_bytes_is_named_too() -> None:
    body = b'{"a": "\xed\xa0\xbd"}'
    with pytest.raises(InvalidJson, match=r"a lone surrogate \(bytes of one at byte 7\)"):
        parse_body(body)


@pytest.mark.parametrize(
    "text", [r"\ud83d\ude00", r"\\ud83d", r"\uD83D\uDE00\u00fc \\\\ud83d", "👩‍👩‍👧", r"\udbff\udfff"]
)
async def test_whole_characters_pass(live: LiveApp, upstream: FakeUpstream, text: str) -> None:
    body = f'{{"model": "auto", "messages": [{{"role": "user", "content": "{text}"}}]}}'.encode()
    assert (await live.post("chat/completions", body)).status == 200
    assert upstream.calls[-1]["messages"] == json.loads(body)["messages"]


PATHS = PathTable(
    [
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{name:path}",
        "/health/live",
        "/",
        "/v1/files/{id}",
    ]
)


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("//v1//chat/completions", "/v1/chat/completions"),
        ("/openai/v1/embeddings", "/v1/embeddings"),
        ("/api/v1/chat/completions/", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/models/openai/gpt-4o", "/v1/models/openai/gpt-4o"),
        ("/v1/models/v1/v1/x", "/v1/models/v1/v1/x"),
        ("/v1/v1/files/a", "/v1/files/a"),
        ("/health/live/", "/health/live"),
        ("/v2/chat/completions", "/v2/chat/completions"),
        ("/v1/nothing", "/v1/nothing"),
        ("/", "/"),
        ("//", "/"),
        ("/" * 10_000, "/" * 10_000),
    ],
)
def test_a_spelling_that_means_one_path_is_that_path(path: str, served: str) -> None:
    assert PATHS.resolve(path) == served


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/v2/chat/completions", "/v1/chat/completions"),
        ("/openai/deployments/gpt-4o/chat/completions", "/v1/chat/completions"),
        ("/my/prefix/embeddings", "/v1/embeddings"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/model", "/v1/models"),
        ("/xyz", None),
    ],
)
def test_the_nearest_path_is_suggested(path: str, nearest: str | None) -> None:
    assert PATHS.suggest(path) == nearest


async def request(live: LiveApp, method: str, path: str, body: Any = None) -> tuple[int, bytes, str | None]:
    async with live.http.request(method, live.base.removesuffix("/v1") + path, json=body) as response:
        return response.status, await response.read(), response.headers.get("x-thalamus-expert")


@pytest.mark.parametrize(
    "path",
    ["/chat/completions", "/v1/v1/chat/completions", "/v1/chat/completions/", "/openai/v1/chat/completions"],
)
async def test_a_chat_is_answered_under_its_usual_addresses(live: LiveApp, path: str) -> None:
    status, _, expert = await request(live, "POST", path, BODY)
    assert (status, expert) == (200, "good")
    assert (await request(live, "GET", path))[0] == 405


@pytest.mark.parametrize("path", ["/models", "/v1/models/", "/models/good", "/v1/v1/models/good/"])
async def test_models_are_listed_under_their_usual_addresses(live: LiveApp, path: str) -> None:
    status, body, _ = await request(live, "GET", path)
    assert status == 200
    assert b'"good"' in body


async def test_another_path_is_a_404_with_the_nearest(live: LiveApp) -> None:
    path = "/openai/deployments/good/chat/completions?api-version=2024-10-21"
    status, body, _ = await request(live, "POST", path, BODY)
    assert status == 404
    assert "the nearest is /v1/chat/completions" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/v1/models", "/openapi.json"])
async def test_a_check_whether_anything_answers_is_answered(live: LiveApp, method: str, path: str) -> None:
    assert (await request(live, method, path))[0] == 200
