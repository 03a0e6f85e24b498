"""Keys, local clients and the corpora a caller may read."""

from __future__ import annotations

import pytest

from rasd.api.auth import LOCAL, Caller, Keyring, is_local, is_loopback
from rasd.config import ApiKey
from rasd.errors import Forbidden, NotFound, Unauthorized

KEYS = Keyring(
    [
        ApiKey(name="all", sha256=ApiKey.digest("s3cret")),
        ApiKey(name="few", sha256=ApiKey.digest("ünïcode"), corpora=["a"]),
    ]
)
OPEN = Keyring([])


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LocalHost", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:10.0.0.1", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("testclient", False),
        ("", False),
    ],
)
def test_loopback(address: str, answer: bool) -> None:
    assert is_loopback(address) is answer


@pytest.mark.parametrize(
    ("peer", "host", "forwarded", "proxy", "answer"),
    [
        ("127.0.0.1", "localhost:8000", [], None, True),
        ("::1", "[::1]:8000", [], None, True),
        ("127.0.0.1", None, [], None, True),
        ("127.0.0.1", "127.0.0.1", ["127.0.0.1"], None, True),
        (None, "localhost", [], None, False),
        ("10.0.0.1", "localhost", [], None, False),
        ("127.0.0.1", "evil.example:8000", [], None, False),
        ("127.0.0.1", "localhost", ["10.0.0.1"], None, False),
        ("127.0.0.1", "localhost", ["for=127.0.0.1"], None, False),
        ("127.0.0.1", "localhost", [], "0.0.0.0", False),
        ("127.0.0.1", "localhost", [], "127.0.0.1", True),
        ("10.0.0.7", "localhost", [], "127.0.0.1", False),
        ("10.0.0.5", "localhost", [], "127.0.0.1", True),
        ("10.0.0.5", "localhost", [], "0.0.0.0", False),
        ("10.0.0.5", "10.0.0.5:8000", [], None, False),
        (None, "localhost", [], "127.0.0.1", False),
    ],
)
def test_who_is_local(
    peer: str | None, host: str | None, forwarded: list[str], proxy: str | None, answer: bool
) -> None:
    found = is_local(peer, server="10.0.0.5", host=host, forwarded=forwarded, proxy_host=proxy)
    assert found is answer


def test_a_key_names_its_caller() -> None:
    assert KEYS.identify(b"Bearer s3cret", local=False, path="/").name == "all"
    assert KEYS.identify(b"bearer  s3cret ", local=False, path="/").name == "all"
    few = KEYS.identify("Bearer ünïcode".encode(), local=False, path="/")
    assert (few.name, few.corpora) == ("few", frozenset({"a"}))


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        b"s3cret",
        b"Basic s3cret",
        b"Bearer s3cret2",
        b"Bearer \xff\xfe\x00",
        b"Bearer " + b"x" * 60_000,
        b"Bearer " + ApiKey.digest("s3cret").encode(),
    ],
)
def test_what_is_no_key_is_refused_even_on_loopback(header: bytes | None) -> None:
    with pytest.raises(Unauthorized):
        KEYS.identify(header, local=True, path="/v1/models")


def test_probes_need_no_key_on_this_machine_only() -> None:
    assert KEYS.identify(None, local=True, path="/health") == LOCAL
    assert KEYS.identify(None, local=True, path="/ready") == LOCAL
    for local, path in [(False, "/health"), (True, "/metrics"), (True, "/health/")]:
        with pytest.raises(Unauthorized):
            KEYS.identify(None, local=local, path=path)
    with pytest.raises(Unauthorized):
        KEYS.identify(b"Bearer wrong", local=True, path="/health")


def test_without_keys_only_this_machine_is_served() -> None:
    assert OPEN.identify(None, local=True, path="/v1/models") == LOCAL
    assert OPEN.identify(b"Bearer anything", local=True, path="/v1/models") == LOCAL
    for path in ("/v1/models", "/health"):
        with pytest.raises(Forbidden):
            OPEN.identify(b"Bearer anything", local=False, path=path)


def test_a_caller_reads_what_it_may_and_learns_of_nothing_else() -> None:
    few = Caller("few", frozenset({"a", "gone"}))
    assert few.resolve(None, ["b", "a"]) == ("a",)
    assert few.resolve(["a", "a"], ["b", "a"]) == ("a",)
    assert few.resolve([], ["a"]) == ()
    assert LOCAL.resolve(None, ["b", "a"]) == ("a", "b")
    for hidden in ("b", "not there"):
        with pytest.raises(Forbidden, match="may not read"):
            few.resolve(["a", hidden], ["b", "a"])
    with pytest.raises(NotFound, match="no corpus 'gone'"):
        few.resolve(["gone"], ["b", "a"])
