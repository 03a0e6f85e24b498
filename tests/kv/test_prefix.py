"""Prefixes against a dictionary of what every page holds, and where they put things."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rasd.errors import RasdError
from rasd.kv import Append, LayerSpec, PagedCache, Prefixes
from rasd.kv.pages import NEVER, PagePool, runs
from rasd.kv.view import place
from rasd.tree import path_to

SPECS = [
    LayerSpec("full", 2, 3, 3),
    LayerSpec("sliding", 1, 3, 2, window=4),
    LayerSpec("full", 2, 3, 3),
]
PAGES, PAGE = 12, 2
Key = tuple[str, tuple[int, ...]]


class World:
    """A cache whose rows are marked by tenant and text, and what its pages must hold."""

    def __init__(self, pages: int = PAGES, page: int = PAGE) -> None:
        self.cache = PagedCache(SPECS, pages * page, page, torch.float32, "cpu")
        self.prefixes = Prefixes(self.cache)
        self.page = page
        self.marks: dict[Key, float] = {}
        self.texts: dict[int, Key] = {}  # committed, by open sequence
        self.held: dict[int, Key] = {}  # by page: what ends with it
        self.opened = 0

    def mark(self, tenant: str, text: tuple[int, ...]) -> float:
        return self.marks.setdefault((tenant, text), float(len(self.marks) + 1))

    def begin(self, tenant: str, text: list[int], room: int = 0) -> int:
        """Opens a sequence and checks that it gets all that is there, and nothing else."""
        expected = self.known(tenant, text)
        sequence, self.opened = self.opened, self.opened + 1
        self.cache.open(sequence)
        rows = self.prefixes.begin(sequence, tenant, np.asarray(text, np.int32), room)
        assert rows == expected
        self.texts[sequence] = (tenant, tuple(text[:rows]))
        self.note(sequence)
        return rows

    def known(self, tenant: str, text: list[int]) -> int:
        there, rows = set(self.held.values()), 0
        while rows + self.page < len(text) and (tenant, tuple(text[: rows + self.page])) in there:
            rows += self.page
        return min(rows, self.cache.pool.available * self.page)

    def note(self, sequence: int) -> None:
        """What the sequence's pages hold; those not full hold nothing."""
        tenant, text = self.texts[sequence]
        for i, page in enumerate(self.cache.pages(sequence)):
            self.held.pop(page, None)
            if (stop := (i + 1) * self.page) <= len(text):
                self.held[page] = (tenant, text[:stop])

    def room(self, nodes: int, sequence: int) -> bool:
        rows = len(self.texts[sequence][1]) + nodes
        more = -(-rows // self.page) - len(self.cache.pages(sequence))
        return more <= self.cache.pool.available

    def run(self, sequence: int, tokens: list[int], parents: list[int], leaf: int) -> None:
        """Stores a tree and keeps the path to ``leaf``."""
        tenant, text = self.texts[sequence]
        plan = self.cache.plan([Append(sequence, np.asarray(parents, np.int32))])
        assert plan.position_ids.shape == (1, len(tokens))
        self.note(sequence)
        paths = [path_to(np.asarray(parents), node) for node in range(len(tokens))]
        marks = [self.mark(tenant, (*text, *(tokens[i] for i in path))) for path in paths]
        for layer, spec in enumerate(SPECS):
            rows = (torch.tensor(marks) + layer / 8)[None, None, :, None]
            key = rows.expand(1, spec.kv_heads, -1, spec.key_dim)
            self.cache.update(key, -rows.expand(1, spec.kv_heads, -1, spec.value_dim), layer)
        kept = path_to(np.asarray(parents), leaf) if leaf >= 0 else []
        self.cache.commit(sequence, kept)
        said = [tokens[i] for i in kept]
        self.prefixes.extend(sequence, np.asarray(said, np.int32))
        self.texts[sequence] = (tenant, (*text, *said))
        self.note(sequence)

    def say(self, sequence: int, tokens: list[int]) -> None:
        """Commits a chain."""
        self.run(sequence, tokens, list(range(-1, len(tokens) - 1)), len(tokens) - 1)

    def close(self, sequence: int) -> None:
        self.cache.close(sequence)
        self.prefixes.end(sequence)
        self.prefixes.end(sequence)
        del self.texts[sequence]

    def check(self) -> None:
        self.cache.check_integrity()
        self.prefixes.check_integrity()
        for sequence, (tenant, text) in self.texts.items():
            assert self.cache.length(sequence) == len(text)
            expected = torch.tensor([self.mark(tenant, text[: i + 1]) for i in range(len(text))])
            rows = torch.from_numpy(self.cache._state(sequence).slots[: len(text)])
            for layer, views in enumerate(self.cache._views):
                for store, sign in zip(views, (1, -1), strict=True):
                    found = store[0][:, rows]
                    marked = sign * (expected + layer / 8)[None, :, None]
                    assert torch.equal(found, marked.expand_as(found))


tokens = st.integers(0, 1)


class PrefixMachine(RuleBasedStateMachine):
    """Random texts of two tenants, with few tokens, so that much is found again."""

    @initialize()
    def start(self) -> None:
        self.world = World()

    @rule(
        tenant=st.sampled_from("ab"),
        text=st.lists(tokens, max_size=14),
        room=st.integers(0, 40),
    )
    def begin(self, tenant: str, text: list[int], room: int) -> None:
        self.world.begin(tenant, text, room)

    @precondition(lambda self: self.world.texts)
    @rule(data=st.data(), said=st.lists(tokens, min_size=1, max_size=7))
    def run(self, data: st.DataObject, said: list[int]) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.world.texts)))
        if self.world.room(len(said), sequence):
            chain = data.draw(st.booleans())
            parents = [
                i - 1 if chain else data.draw(st.integers(-1, i - 1)) for i in range(len(said))
            ]
            leaf = data.draw(st.integers(-1, len(said) - 1))
            self.world.run(sequence, said, parents, leaf)

    @precondition(lambda self: self.world.texts)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.world.close(data.draw(st.sampled_from(sorted(self.world.texts))))

    @invariant()
    def every_row_is_that_of_its_text(self) -> None:
        if hasattr(self, "world"):
            self.world.check()


TestPrefixes = PrefixMachine.TestCase
TestPrefixes.settings = settings(max_examples=30, stateful_step_count=40)


def told(world: World, tenant: str, text: list[int], room: int = 0) -> int:
    """A sequence that runs all of a text and ends; gives how much of it was there."""
    rows = world.begin(tenant, text, room or len(text))
    world.say(world.opened - 1, text[rows:])
    world.close(world.opened - 1)
    world.check()
    return rows


def test_text_is_found_again_but_for_its_last_token_and_never_by_another_tenant() -> None:
    world = World()
    text = [1, 0, 1, 1, 0, 0, 1, 1]
    assert told(world, "a", text) == 0
    assert told(world, "b", text) == 0
    assert told(world, "", text) == 0
    assert told(world, "a", text) == 6
    assert told(world, "a", [*text, 1]) == 8
    assert told(world, "a", text[:5]) == 4
    assert told(world, "a", [*text[:4], 1, 0, 0]) == 4
    assert told(world, "a", [0, *text[1:]]) == 0


def test_what_lies_well_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(pages=64, page=4)
    text = list(range(40))
    told(world, "a", text, 80)
    monkeypatch.setattr(world.cache._stores, "copy", lambda *_: pytest.fail("copied"))
    world.begin("a", [*text, *range(30)], 80)
    assert world.cache.pages(1) == list(range(10))
    world.say(1, list(range(30)))
    assert isinstance(place(world.cache._state(1).slots, torch.device("cpu")), slice)


def test_what_is_in_use_is_copied_to_where_there_is_room() -> None:
    world = World(pages=64, page=4)
    text = list(range(40))
    world.begin("a", text, 80)
    world.say(0, text)
    for _ in range(2):
        assert world.begin("a", [*text, 99], 60) == 40
    for _ in range(5):  # they grow in turn, and do not meet
        for sequence in range(3):
            world.say(sequence, [sequence] * 4)
    world.check()
    for sequence in range(3):
        slots = world.cache._state(sequence).slots
        assert isinstance(place(slots, torch.device("cpu")), slice), sequence


def test_conversations_with_one_beginning_do_not_drive_each_other_out() -> None:
    world = World(pages=64, page=4)
    shared = list(range(20))
    chats = {who: [*shared, *[who] * 21] for who in (100, 200)}
    for chat in chats.values():
        told(world, "a", chat, 60)
    for turn in range(3):
        for who, chat in chats.items():
            assert told(world, "a", [*chat, who, turn, 1, 2], 60) >= len(chat) - 1
            chat += [who, turn, 1, 2]


def test_what_was_used_longest_ago_goes_first() -> None:
    world = World(pages=12, page=2)
    texts = {who: [who] * 8 for who in range(1, 5)}
    for who in (1, 2, 3):
        told(world, "a", texts[who])
    assert told(world, "a", texts[1]) == 6
    told(world, "a", texts[4])
    found = {who: world.known("a", text) for who, text in texts.items()}
    assert found == {1: 6, 2: 0, 3: 6, 4: 6}


def test_a_text_without_room_takes_over_what_fits() -> None:
    world = World(pages=6, page=2)
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    world.begin("a", text, 99)
    world.say(0, text[:8])
    assert world.begin("a", text, 99) == 4  # two of six pages are free
    world.check()
    world.close(0)
    assert world.begin("a", text, 99) == 8


def test_integrity_is_checked() -> None:
    world = World()
    world.begin("a", [1, 2, 3])
    world.say(0, [1, 2, 3])
    world.check()
    world.prefixes._open[0].rest.append(4)
    with pytest.raises(RasdError, match="sequence 0 has 4 rows"):
        world.prefixes.check_integrity()
    world.prefixes._open[0].rest.pop()
    world.prefixes._digests[5] = b"?"
    with pytest.raises(RasdError, match=r"pages \[5\]"):
        world.prefixes.check_integrity()


def test_homes_are_where_least_is_lost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(50):
        pool = PagePool(int(rng.integers(1, 40)), 1)
        worth = rng.integers(0, 6, pool.pages)
        worth[rng.random(pool.pages) < 0.2] = NEVER
        room = int(rng.integers(1, pool.pages + 1))
        losses = [int(worth[i : i + room].max()) for i in range(pool.pages - room + 1)]
        start = int(np.argmin(losses))
        assert pool.home(room, worth) == (range(start, start + room), losses[start])


def test_runs_put_neighbours_together() -> None:
    assert runs([3, 4, 5, 9, 2, 3]) == [range(3, 6), range(9, 10), range(2, 4)]
    assert runs([]) == []
