"""A process that forks others, which write to a store until they are killed.

Reads lines ``root seed`` and answers with those of the child: ``pid n``, then for each group
``begin i`` before it is written and ``done i`` after; then ``dead``. Forking is quick: all is
imported by then.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np

from rasd.config import StoreConfig
from rasd.retrieval.store.records import Delete, Operation, Put
from rasd.retrieval.store.writer import CorpusWriter

from .worlds import random_document

SETTINGS = StoreConfig(flush_tokens=200, max_segments=2, grace_s=0)


def group_of(seed: int, number: int) -> list[Operation]:
    """The operations of a group: of 1 to 8 of 40 ids, one in four deleted."""
    rng = np.random.default_rng((seed, number))
    ids = rng.choice(40, int(rng.integers(1, 9)), replace=False)
    return [
        Delete(f"{id_}") if rng.random() < 0.25 else Put(random_document(rng, f"{id_}"))
        for id_ in ids
    ]


def write_until_killed(root: Path, seed: int) -> None:
    say(f"pid {os.getpid()}")
    with ThreadPoolExecutor(1) as pool:
        store = CorpusWriter(root, "c", SETTINGS, pool.submit)
        for number in count():
            say(f"begin {number}")
            store.write(group_of(seed, number))
            say(f"done {number}")
            store.tick()
            if number % 7 == 6:
                store.flush()


def say(line: str) -> None:
    """One line, whole or not at all. Fails when nobody listens any more."""
    os.write(1, f"{line}\n".encode())


def main() -> None:
    for line in sys.stdin:
        root, seed = line.rsplit(" ", 1)
        child = os.fork()
        if not child:
            try:
                write_until_killed(Path(root), int(seed))
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        say("dead")


if __name__ == "__main__":
    main()
