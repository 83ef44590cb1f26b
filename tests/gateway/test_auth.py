"""Who is let in: keys, and Host and Origin of web pages."""

import asyncio
import logging
from base64 import b64encode
from pathlib import Path

import pytest

from gateway.asgi import authentication
from gateway.asgi.authentication import (
    FORGOTTEN_S,
    LONGEST_DELAY_S,
    MAX_ADDRESSES,
    MAX_HELD,
    MAX_REMEMBERED,
    N_FREE,
    Authenticator,
    FailedLogins,
    is_loopback,
)
from gateway.config import Secret, ServerConfig
from gateway.config.client_keys import format_hash
from gateway.errors import Forbidden, Overloaded, Unauthenticated
from tests.fakes.odd_upstream import OddUpstream, json_answer
from tests.fakes.serving import gateway

KEY = "sk-7f3a9c1e5b2d8046"
KEYS = ("sk-51c0e6d1f9a84b27", "sk-e17b3f0a92d65c84", "sk-9d24a7c3b8e05f16")
HOST = (b"host", b"127.0.0.1:8080")


@pytest.fixture
def authenticator() -> Authenticator:
    return Authenticator(ServerConfig(master_key=Secret(KEY)))


@pytest.fixture
def keyless() -> Authenticator:
    return Authenticator(ServerConfig())


def bearer(key: str) -> tuple[bytes, bytes]:
    return (b"authorization", f"Bearer {key}".encode())


@pytest.mark.parametrize(
    "header",
    [
        bearer(KEY),
        (b"authorization", b"bearer  " + KEY.encode()),
        (b"x-api-key", KEY.encode()),
        (b"api-key", KEY.encode()),
        (b"api-key", b"Bearer " + KEY.encode()),
    ],
)
def test_the_key_is_taken_as_bearer_or_x_api_key(
    authenticator: Authenticator, header: tuple[bytes, bytes]
) -> None:
    assert authenticator.authenticate([HOST, header]) == authenticator.authenticate([header, HOST])


@pytest.mark.parametrize(
    "headers", [[], [HOST], [bearer("")], [bearer(KEY[:-1])], [bearer(KEY + "x")], [bearer(KEY.upper())]]
)
def test_without_the_key_nobody_is_let_in(
    authenticator: Authenticator, headers: list[tuple[bytes, bytes]]
) -> None:
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            authenticator.authenticate(headers)


def test_a_placeholder_beside_the_key_does_no_harm(authenticator: Authenticator) -> None:
    for header in ((b"x-api-key", KEY.encode()), (b"api-key", KEY.encode())):
        assert authenticator.authenticate([bearer("placeholder"), header])
    wrong = [(b"x-api-key", b"wrong")] * 9
    with pytest.raises(Unauthenticated):
        authenticator.authenticate([*wrong, bearer(KEY)])  # so many keys are a guess


def test_a_refusal_says_how_to_send_the_key(authenticator: Authenticator) -> None:
    basic = (b"authorization", b"Basic " + b64encode(f"u:{KEY}".encode()))
    for headers, what in ([HOST], "no API key"), ([HOST, basic], "the scheme Basic is not read"):
        with pytest.raises(Unauthenticated, match=what) as refused:
            authenticator.authenticate(headers)
        assert "'Authorization: Bearer …', 'x-api-key' or 'api-key'" in refused.value.message


def test_a_wrong_key_is_not_let_in_after_a_good_one(authenticator: Authenticator) -> None:
    authenticator.authenticate([bearer(KEY)])
    with pytest.raises(Unauthenticated):
        authenticator.authenticate([bearer(KEY + "x")])


def test_a_key_tells_the_name_of_its_client() -> None:
    keys = {"laptop": (Secret(KEYS[0]), Secret(KEYS[1])), "ci": (Secret(format_hash(KEYS[2])),)}
    named = Authenticator(ServerConfig(master_key=Secret(KEY), keys=keys))
    shown = [KEY, *KEYS]
    for _ in range(2):
        names = [named.authenticate([HOST, bearer(key)]) for key in shown]
        assert names == ["master", "laptop", "laptop", "ci"]
    for wrong in (format_hash(KEYS[2]), KEYS[0][:-1]):
        with pytest.raises(Unauthenticated):
            named.authenticate([HOST, bearer(wrong)])


def test_named_keys_alone_are_asked_for_too() -> None:
    named = Authenticator(ServerConfig(keys={"ci": (Secret(KEY),)}))
    assert named.authenticate([HOST, bearer(KEY)]) == "ci"
    with pytest.raises(Unauthenticated):
        named.authenticate([HOST])


def test_every_known_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one) == len(other) == 32)
        return one == other

    monkeypatch.setattr("gateway.config.client_keys.hmac.compare_digest", compare)
    keys: dict[str, tuple[Secret, ...]] = {f"c{n}": (Secret(key),) for n, key in enumerate(KEYS)}
    assert Authenticator(ServerConfig(keys=keys)).authenticate([HOST, bearer(KEYS[0])]) == "c0"
    assert compared == [True] * 3  # not only up to the one that is right


def test_a_refusal_does_not_repeat_the_key(authenticator: Authenticator) -> None:
    with pytest.raises(Unauthenticated) as caught:
        authenticator.authenticate([bearer("sk-wrong-but-private")])
    assert "private" not in caught.value.message


@pytest.mark.parametrize(
    "host", [b"127.0.0.1:8080", b"localhost", b"LOCALHOST:1", b"[::1]:8080", b"127.1.2.3"]
)
def test_this_machine_needs_no_key_where_none_is_configured(keyless: Authenticator, host: bytes) -> None:
    assert keyless.authenticate([(b"host", host)]) is None


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:8080",
        b"127.0.0.1.evil.example",
        b"localhost.evil.example",
        b"",
        b"[::2]",
    ],
)
def test_a_name_rebound_to_this_machine_is_refused(keyless: Authenticator, host: bytes) -> None:
    with pytest.raises(Forbidden, match="Host"):
        keyless.authenticate([(b"host", host)])


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example",
        b"null",
        b"http://127.0.0.1:9999",
        b"file://",
        b"http://[",
        b"http://localhost:8080",
    ],
)
def test_a_page_of_another_origin_is_refused(keyless: Authenticator, origin: bytes) -> None:
    with pytest.raises(Forbidden, match="page"):
        keyless.authenticate([HOST, (b"origin", origin)])


def test_our_own_page_is_let_in(keyless: Authenticator) -> None:
    keyless.authenticate([HOST, (b"origin", b"http://127.0.0.1:8080")])


def test_a_foreign_page_is_refused_even_with_the_key(authenticator: Authenticator) -> None:
    with pytest.raises(Forbidden):
        authenticator.authenticate([HOST, bearer(KEY), (b"origin", b"https://evil.example")])


def test_configured_hosts_and_origins_are_let_in() -> None:
    authenticator = Authenticator(
        ServerConfig(allowed_hosts=("Box.local",), cors_origins=("https://app.example/",))
    )
    authenticator.authenticate([(b"host", b"box.local:8080"), (b"origin", b"https://app.example")])


def test_an_address_is_a_good_host_where_the_gateway_listens_on_one() -> None:
    authenticator = Authenticator(ServerConfig(host="0.0.0.0"))
    authenticator.authenticate([(b"host", b"192.168.1.5:8080")])
    with pytest.raises(Forbidden):
        authenticator.authenticate([(b"host", b"rebound.example:8080")])


def test_what_is_remembered_is_bounded(keyless: Authenticator) -> None:
    for port in range(3 * MAX_REMEMBERED):
        keyless.authenticate([(b"host", f"localhost:{port}".encode())])
    assert len(keyless._known) <= MAX_REMEMBERED


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("box", False)]
)
def test_which_addresses_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def show(authenticator: Authenticator, key: str, address: str = "10.0.0.1") -> float:
    """The seconds that the answer to a wrong key is held back."""
    with pytest.raises(Unauthenticated) as refused:
        authenticator.authenticate([HOST, bearer(key)], (address, 1234))
    return refused.value.delay_s


def test_wrong_keys_are_slowed_by_address(authenticator: Authenticator) -> None:
    delays = [show(authenticator, f"wrong-{n}") for n in range(12)]
    assert delays[:N_FREE] == [0.0] * N_FREE
    assert delays[N_FREE : N_FREE + 3] == [0.25, 0.5, 1.0]
    assert delays[-1] == LONGEST_DELAY_S
    assert show(authenticator, "wrong", "10.0.0.2") == 0.0
    assert authenticator.authenticate([HOST, bearer(KEY)], ("10.0.0.1", 1)) is not None


def test_no_key_is_no_guess(authenticator: Authenticator) -> None:
    for _ in range(20):
        with pytest.raises(Unauthenticated) as refused:
            authenticator.authenticate([HOST], ("10.0.0.1", 1234))
        assert refused.value.delay_s == 0.0


def test_failed_logins_are_forgotten_and_bounded() -> None:
    now = [0.0]
    logins = FailedLogins(lambda: now[0])
    for _ in range(10):
        logins.note("a", "f")
    now[0] = FORGOTTEN_S
    assert logins.note("a", "f") == 0.0
    for n in range(MAX_ADDRESSES + 100):
        logins.note(f"10.{n >> 8}.{n & 255}.1", "f")
    assert len(logins._failures) == MAX_ADDRESSES


async def test_guesses_at_the_same_time_are_no_faster(authenticator: Authenticator) -> None:
    known = [HOST, bearer(KEY)]
    authenticator.authenticate(known, ("10.0.0.1", 1))
    held = [
        asyncio.ensure_future(authenticator.failed_logins.hold("10.0.0.1", 60.0)) for _ in range(MAX_HELD)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        authenticator.authenticate([HOST, bearer("another guess")], ("10.0.0.1", 1))
    # Others, and who was let in before, are not slowed.
    assert authenticator.authenticate(known, ("10.0.0.1", 1)) is not None
    assert show(authenticator, "wrong", "10.0.0.2") == 0.0
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    assert show(authenticator, "another guess") == 0.0


async def test_failed_logins_and_changes_are_logged_without_keys_or_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "FIRST_DELAY_S", 0.01)
    caplog.set_level(logging.INFO, "thalamus.audit")
    async with OddUpstream({"x": json_answer({"choices": []})}).serve() as upstream:
        config = {"experts": upstream.experts(), "server": {"master_key": KEY}}
        async with gateway(config, str(tmp_path / "journal"), "x") as live:
            for n in range(5):
                refused = await live.chat("x", headers={"authorization": f"Bearer sk-guess{n}-secret-words"})
                assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
            answer = await live.post(
                "feedback", {"decision_id": "dec_1", "score": 1, "comment": "of my own"}, x_api_key=KEY
            )
            assert answer.status == 404
    lines = [record.getMessage() for record in caplog.records if record.name == "thalamus.audit"]
    assert [line.partition(", key")[0] for line in lines[:5]] == ["login failed: 127.0.0.1"] * 5
    assert lines[4].endswith("5 in a row")
    assert lines[5].startswith("POST /v1/feedback 404 by key master from ")
    text = "\n".join(lines)
    assert [word for word in ("guess", "secret-words", "of my own", KEY) if word in text] == []
