"""Who is asking, what they may read, and whether they may change it.

With keys configured every route needs one (`Authorization: Bearer <key>`), documentation and
metrics included. Only the probes `/health` and `/ready`, which tell nothing but a state, are
answered without a key to clients on this machine. Without keys, nothing is served to anybody but
clients on this machine.

A key reads the corpora it lists (null: all). Making, changing and dropping those, and scaling the
datastore, needs ``manage`` besides. A corpus that is not listed is refused, be it there or not.
Where no key is needed, everything is allowed.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rasd.config import ApiKey
from rasd.errors import Forbidden, NotFound, Unauthorized

PROBES: Final = frozenset({"/health", "/ready"})


@dataclass(frozen=True, slots=True)
class Caller:
    """A key's name, the corpora it may read (None is all), and whether it may change them.

    ``tenant`` is whose requests these are: what is cached and learned of them serves nobody
    else. Keys of one name are one tenant; "" is everybody who needs no key.
    """

    name: str
    corpora: frozenset[str] | None = None
    manage: bool = False
    tenant: str = ""

    def may_read(self, corpus: str) -> bool:
        """Whether the key's configuration allows the corpus, be it there or not."""
        return self.corpora is None or corpus in self.corpora

    def check_read(self, corpus: str) -> None:
        """Refuses corpora that are not the caller's to read.

        Raises:
            Forbidden: it may not read this one; it does not learn whether it exists.
        """
        if not self.may_read(corpus):
            raise Forbidden(f"this key may not read the corpus {corpus!r:.100}", param="name")

    def check_manage(self, corpus: str | None = None) -> None:
        """Refuses changes to a corpus, or to the datastore where None.

        Raises:
            Forbidden: the caller may not make them; it does not learn whether the corpus exists.
        """
        if not self.manage:
            raise Forbidden("this key may not change anything: its entry lacks manage: true")
        if corpus is not None:
            self.check_read(corpus)

    def resolve(self, asked: Sequence[str] | None, available: Iterable[str]) -> tuple[str, ...]:
        """The corpora a request reads: those it asks for, or all that the caller may read.

        Raises:
            Forbidden: the caller may not read one; it does not learn whether that one exists.
            NotFound: one does not exist.
        """
        there = sorted(set(available))
        if asked is None:
            return tuple(name for name in there if self.may_read(name))
        for name in asked:
            if not self.may_read(name):
                raise Forbidden(f"this key may not read the corpus {name!r}", param="corpora")
            if name not in there:
                raise NotFound(f"there is no corpus {name!r}", param="corpora")
        return tuple(dict.fromkeys(asked))


LOCAL: Final = Caller("local", manage=True)
"""The caller where no key is needed: this machine, or a Python handle inside the cluster."""


def is_loopback(address: str) -> bool:
    """Whether an address, or the name ``localhost``, means this machine."""
    if address.lower() == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def is_local(
    peer: str | None,
    *,
    server: str | None,
    host: str | None,
    forwarded: Sequence[str] = (),
    proxy_host: str | None = None,
) -> bool:
    """Whether a request comes from this machine; where that cannot be known it does not.

    Args:
        peer: the address the connection came from; None if unknown.
        server: the address it went to. If both are the same, it never left the machine.
        host: the name in its Host header. A web page that points its own name at 127.0.0.1
            (DNS rebinding) makes a local browser send requests, but cannot forge this.
        forwarded: addresses that a further proxy wrote down, one of them possibly the client's.
        proxy_host: where a proxy in front, whose own address ``peer`` is, listens; None where
            ``peer`` is the client's. If only this machine can reach the proxy, clients are local.
    """
    return (
        peer is not None
        and (is_loopback(peer) or peer == server)
        and (proxy_host is None or is_loopback(proxy_host))
        and (host is None or is_loopback(_without_port(host)))
        and all(is_loopback(address) for address in forwarded)
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


class Keyring:
    """The configured keys."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = [
            (
                key.sha256.encode(),
                Caller(
                    key.name,
                    None if key.corpora is None else frozenset(key.corpora),
                    key.manage,
                    tenant=key.name,
                ),
            )
            for key in keys
        ]

    def identify(self, authorization: bytes | None, *, local: bool, path: str) -> Caller:
        """The caller of a request.

        Raises:
            Unauthorized: keys are configured, and none or an unknown one was shown.
            Forbidden: no keys are configured, and the client is not known to be local.
        """
        if not self._keys:
            if local:
                return LOCAL
            raise Forbidden(
                "no API keys are configured, so only clients on this machine are served, "
                "by the name localhost or a loopback address"
            )
        if authorization is None:
            if local and path in PROBES:
                return LOCAL
            raise Unauthorized("send a key in the header 'Authorization: Bearer <key>'")
        caller = self._find(authorization)
        if caller is None:
            raise Unauthorized("this API key is not known")
        return caller

    def _find(self, authorization: bytes) -> Caller | None:
        scheme, _, key = authorization.partition(b" ")
        digest = hashlib.sha256(key.strip()).hexdigest().encode()
        found = None
        # All keys are compared, and each in constant time: how long it takes tells nothing.
        for known, caller in self._keys:
            if hmac.compare_digest(known, digest):
                found = caller
        return found if scheme.lower() == b"bearer" else None
