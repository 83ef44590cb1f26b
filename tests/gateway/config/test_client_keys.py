"""Which keys are easy to guess, and how named keys stand in the file."""

import base64
import secrets
import string
from collections.abc import Callable

import pytest

from gateway.config import ConfigError, config_warnings, parse_config
from gateway.config.client_keys import (
    MIN_BITS,
    WELL_KNOWN,
    estimate_bits,
    find_hash_fault,
    find_owner,
    find_weakness,
    format_hash,
    make_key,
)
from gateway.config.reference import config_schema

WEAK_TEXT = """
sk-1234 sk-thalamus changeme password sk-1234-thalamus SK-THALAMUS-2024! Ch4ng3M3Ch4ng3M3!!
p4ssw0rd-p4ssw0rd sk-12341234123412341234 sk-aaaaaaaaaaaaaaaaaaaa 00000000000000000000
7777777-8888888-9999999 abababababababababab qwertyuiopasdfghjkl 1qaz2wsx3edc4rfv5tgb azertyuiop1234567
asdfasdfasdfasdfasdf poiuytrewqlkjhgfdsa sk-abcdefghijklmnop 0123456789abcdef0123456789abcdef
fedcba9876543210 a1b2c3d4e5f6g7h8i9 aabbccddeeff00112233 sk-litellm-master-key-1234
thalamus-master-key-2026 my-secret-master-key sk-my-company-gateway-prod-2025 supersecretpassword
drowssap-drowssap-1 deadbeefdeadbeefcafebabe ThisIsNotASecretKey correct-horse-battery-staple
123e4567-e89b-12d3-a456-426614174000 sk-proj-1234567890abcdef
p-a-s-s-w-o-r-d-1-2-3-4 s_k_-_t_h_a_l_a_m_u_s_1234 !@#$%^&*()_+!@#$ 13579-24680-13579
secret_key_for_thalamus_gateway_v2 passwort-geheim-12345 lorem-ipsum-dolor-sit-amet MyDogIsCalledRex2019
sk-xxxxxxxxxxxxxxxxxxxxxxxx
<your-secret-key-here> P@$$w0rd1234567890
"""
ALPHABETS: dict[str, Callable[[], str]] = {
    "hex": lambda: secrets.token_hex(16),
    "short hex": lambda: "sk-" + secrets.token_hex(12),
    "url": lambda: secrets.token_urlsafe(18),
    "letters": lambda: "".join(secrets.choice(string.ascii_lowercase) for _ in range(24)),
    "digits": lambda: "".join(secrets.choice(string.digits) for _ in range(30)),
    "own": make_key,
}


@pytest.mark.parametrize("key", WEAK_TEXT.split())
def test_known_keys_and_their_relatives_are_weak(key: str) -> None:
    why = find_weakness(key)
    assert why is not None
    assert key not in why


@pytest.mark.parametrize("word", WELL_KNOWN[::7])
def test_no_word_grows_strong_by_its_spelling_or_by_repeats(word: str) -> None:
    leet = word.translate(str.maketrans("aeiost", "431057"))
    for key in (
        word * 4,
        f"sk-{word}-{word}-2025!",
        word.upper() * 5,
        f"{leet}{leet}{leet}1",
        word[::-1] * 4,
    ):
        assert find_weakness(key) is not None, key


@pytest.mark.parametrize("kind", ALPHABETS)
def test_random_keys_are_strong(kind: str) -> None:
    for _ in range(40):
        key = ALPHABETS[kind]()
        assert estimate_bits(key) > MIN_BITS, key


def test_a_weak_key_in_another_coding_is_weak() -> None:
    for word in ("sk-thalamus-master", "changeme-changeme", "my-secret-key-1234"):
        coded = base64.b64encode(word.encode()).decode()
        for key in (word.encode().hex(), coded, coded.rstrip("="), f"sk-{coded}"):
            assert find_weakness(key) is not None, key


@pytest.mark.parametrize("char", ["秘", "ß", "²", "٣", "-", " ", "\x00", "\n", "😀", "İ"])
def test_any_character_repeated_is_weak(char: str) -> None:
    for key in (char * 20, f"{char}password" * 3):
        assert find_weakness(key) is not None


def test_a_longer_key_of_the_same_kind_is_no_weaker() -> None:
    assert estimate_bits("x9" * 5_000) < MIN_BITS
    assert find_weakness(secrets.token_hex(5_000)) is None


def read_problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(
            text, env={"ONE": "sk-51c0e6d1f9a84b27", "TWO": "sk-e17b3f0a92d65c84", "WEAK": "sk-1234"}
        )
    return str(caught.value).splitlines()


def test_a_client_has_a_key_or_several_by_reference_or_hash() -> None:
    key = make_key()
    text = f"server: {{keys: {{laptop: os.environ/ONE, ci: [os.environ/TWO, '{format_hash(key)}']}}}}"
    config = parse_config(text, env={"ONE": "sk-51c0e6d1f9a84b27", "TWO": "sk-e17b3f0a92d65c84"})
    assert {name: len(keys) for name, keys in config.server.keys_by_name().items()} == {"laptop": 1, "ci": 2}
    assert config.server.has_keys
    assert config.server.master_key is None
    assert not [line for line in config_warnings(config) if "server" in line]
    assert "51c0" not in repr(config)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            "{a: os.environ/WEAK}",
            "server.keys.a: this key is shorter than 16 characters; make a new one with",
        ),
        (f"{{a: {'password' * 3}}}", "server.keys.a: this key is easy to guess: words, runs and repeats"),
        ("{a: os.environ/ONE, b: os.environ/ONE}", "server.keys.b: this is the key of 'a' too"),
        ("{a: [os.environ/ONE, os.environ/ONE]}", "server.keys.a: this is the key of 'a' too"),
        ("{a: os.environ/MISSING}", "server.keys.a: environment variable MISSING is not set"),
        ("{master: os.environ/ONE}", "server.keys.master: 'master' has the name of `master_key`"),
        ("{deadbeef0123: os.environ/ONE}", "server.keys.deadbeef0123: 'deadbeef0123' has the form of ids"),
        ("{3x: os.environ/ONE}", "server.keys.3x: '3x' cannot be a name; allowed: letters, digits"),
        ("{a: }", "server.keys.a: is empty; write os.environ/NAME"),
        ("{a: []}", "server.keys.a: has 0 keys; write one, or up to 4"),
        ("{a: 12}", "server.keys.a: expected text, got a number"),
        ("{a: sha256:1234}", "server.keys.a: this key is no hash: write sha256: and 64 hexadecimal digits"),
        (f"{{a: {format_hash('sk-1234')}}}", "server.keys.a: this key is the hash of a well-known key"),
    ],
)
def test_a_fault_of_a_key_names_the_field_and_the_fix(keys: str, said: str) -> None:
    (problem,) = read_problems(f"server:\n  keys: {keys}\n")
    assert problem.startswith(f"thalamus.yaml:2: {said}")


def test_all_faults_of_keys_are_told_at_once() -> None:
    said = read_problems(
        "experts: 5\nserver:\n  master_key: os.environ/WEAK\n  keys:\n    a: os.environ/WEAK\n"
        "    b: os.environ/MISSING\n    c: os.environ/ONE\n    3x: os.environ/TWO\n"
        "    d: [os.environ/ONE, sha256:12]\n"
    )
    assert [line.partition("thalamus.yaml:")[2].partition(";")[0].split(": ", 2)[::2] for line in said] == [
        ["1", "expected a list, got a whole number"],
        ["3", "this key is shorter than 16 characters"],
        ["5", "this key is shorter than 16 characters"],
        ["5", "this is the key of 'master' too"],
        ["6", "environment variable MISSING is not set"],
        ["8", "'3x' cannot be a name"],
        ["9", "this is the key of 'c' too"],
        ["9", "this key is no hash: write sha256: and 64 hexadecimal digits"],
    ]


def test_an_editor_takes_one_key_or_a_list() -> None:
    keys = config_schema()["$defs"]["ServerConfig"]["properties"]["keys"]["additionalProperties"]
    assert (keys["type"], keys["items"]) == (["string", "array"], {"type": "string"})
    assert "x-or-one" not in str(config_schema())


def test_no_client_has_the_master_key() -> None:
    (problem,) = read_problems("server:\n  master_key: os.environ/ONE\n  keys:\n    a: os.environ/ONE\n")
    assert problem.startswith("thalamus.yaml:4: server.keys.a: this is the key of 'master' too")


def test_a_key_in_the_file_is_warned_of_and_a_hash_is_not() -> None:
    config = parse_config(f"server: {{keys: {{a: {make_key()}, b: '{format_hash(make_key())}'}}}}", env={})
    assert [line for line in config_warnings(config) if "server" in line] == [
        "server.keys.a: the key stands in the file; write os.environ/NAME to keep it out of version control"
    ]


def test_a_hash_of_a_random_key_is_good() -> None:
    assert find_hash_fault(format_hash(make_key())) is None


def test_former_ids_belong_to_the_master_key() -> None:
    assert [find_owner(one) for one in (None, "", "laptop", "0123456789ab")] == [None, "", "laptop", "master"]
