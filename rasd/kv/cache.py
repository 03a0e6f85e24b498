"""The KV cache: many sequences in pages, each with a tree of uncommitted nodes behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache

from rasd.errors import InvalidRequest, KVExhausted, RasdError, UnsupportedModel
from rasd.kv.paged import Store
from rasd.kv.pages import PagePool, runs
from rasd.kv.plan import Append, Plan
from rasd.kv.sequence import SequenceState
from rasd.kv.stores import LayerSpec, Stores
from rasd.kv.view import Int64s, Item, place


class PagedCache(Cache):  # type: ignore[misc]
    """Keys and values of all layers, allocated at the start.

    A step packs the new nodes of all its sequences into one row [1, T], without padding:
    ``plan`` places them, a forward with that plan stores and attends, ``commit`` keeps a path.
    Not thread-safe.

    Args:
        specs: one per layer.
        slots: tokens that fit in all; rounded down to whole pages.

    Raises:
        UnsupportedModel: a layer is of a kind the cache cannot hold.
        ConfigError: ``slots`` is smaller than a page.
    """

    def __init__(
        self,
        specs: Sequence[LayerSpec],
        slots: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__(layers=[])
        for layer, spec in enumerate(specs):
            if spec.kind == "latent":
                raise UnsupportedModel(f"layer {layer} has latent attention, not supported yet")
        self.specs = tuple(specs)
        self._windows = tuple(spec.window for spec in specs)
        self.pool = PagePool(slots, page_size)
        self._dtype, self._device = dtype, torch.device(device)
        self._sequences: dict[int, SequenceState] = {}
        self._plan: Plan | None = None
        self._stores = Stores(self.specs, self.pool.pages * page_size, dtype, self._device)
        self._views = self._stores.views

    def __len__(self) -> int:
        return len(self.specs)

    # --- sequences --------------------------------------------------------------------------

    def open(self, sequence: int) -> None:
        """Makes an empty sequence.

        Raises:
            InvalidRequest: it is open already.
        """
        if sequence in self._sequences:
            raise InvalidRequest(f"sequence {sequence} is open already")
        self._sequences[sequence] = SequenceState()

    def close(self, sequence: int) -> None:
        """Forgets a sequence and frees its pages; an unknown one is ignored."""
        state = self._sequences.pop(sequence, None)
        if state is not None:
            self._plan = None
            self.pool.free(reversed(state.pages))  # so that a beginning outlives what followed

    def adopt(self, sequence: int, sources: Sequence[int], home: range) -> list[int]:
        """An empty sequence begins with the content of full pages, copied if they lie elsewhere.

        Args:
            sources: pages in order, free or not, at most as many as are free.
            home: where it should lie, a free range that may hold pages of ``sources``; empty
                if anywhere.

        Returns:
            its pages.
        """
        state = self._state(sequence)
        state.home = home
        state.pages = self.pool.allocate(len(sources), state.last_page)
        state.slots = self._slots_of(state.pages)
        state.length = len(state.slots)
        self._plan = None
        moved = [(s, p) for s, p in zip(sources, state.pages, strict=True) if s != p]
        if moved:
            self._stores.copy(
                self._stretches(source for source, _ in moved),
                self._stretches(target for _, target in moved),
            )
        return state.pages

    def pages(self, sequence: int) -> Sequence[int]:
        """Its pages, in order.

        Raises:
            InvalidRequest: the sequence is unknown.
        """
        return self._state(sequence).pages

    def length(self, sequence: int) -> int:
        """Committed slots.

        Raises:
            InvalidRequest: the sequence is unknown.
        """
        return self._state(sequence).length

    def _state(self, sequence: int) -> SequenceState:
        state = self._sequences.get(sequence)
        if state is None:
            raise InvalidRequest(f"sequence {sequence} is unknown to the KV cache")
        return state

    def check_integrity(self) -> None:
        """Checks that every page is free or belongs to one sequence, which needs it.

        Raises:
            RasdError: naming what is wrong.
        """
        self.pool.check_integrity(p for state in self._sequences.values() for p in state.pages)
        for sequence, state in self._sequences.items():
            rows = state.length + len(state.parents)
            if len(state.pages) != self._pages_for(rows):
                raise RasdError(f"sequence {sequence} holds {len(state.pages)} pages for {rows}")

    # --- a step -----------------------------------------------------------------------------

    def plan(self, items: Sequence[Append]) -> Plan:
        """Places new nodes behind their sequences, uncommitted.

        The plan is valid for one forward, until the next plan, commit or close.

        Raises:
            InvalidRequest: a sequence is unknown or named twice, or parents are malformed.
            KVExhausted: pages run out. After either, nothing has changed.
        """
        parents = self._check(items)
        states = [self._state(item.sequence) for item in items]
        self._reserve(states, parents)
        placed: list[Item] = []
        start = 0
        for state, added in zip(states, parents, strict=True):
            state.grow(added)
            placed.append(state.place(start, len(added)))
            start += len(added)
        new = [item.slots[len(item.slots) - (item.stop - item.start) :] for item in placed]
        at = [item.positions[len(item.positions) - len(item.ancestors) :] for item in placed]
        position_ids = torch.from_numpy(np.concatenate(at))[None].to(self._device)
        slots = place(np.concatenate(new), self._device)
        self._plan = Plan(position_ids, slots, placed, self._windows, self._dtype, self._device)
        return self._plan

    def _check(self, items: Sequence[Append]) -> list[list[int]]:
        """The items' parents as lists, checked."""
        if not items or len({item.sequence for item in items}) < len(items):
            raise InvalidRequest("a plan needs items, and each sequence at most once")
        checked: list[list[int]] = []
        for item in items:
            before = len(self._state(item.sequence).parents)
            parents: list[int] = item.parents.tolist()
            well_formed = all(-1 <= p < before + i for i, p in enumerate(parents))
            if not parents or not well_formed:
                raise InvalidRequest(
                    f"sequence {item.sequence}: parents must be indices of earlier nodes or -1"
                )
            checked.append(parents)
        return checked

    def _reserve(self, states: list[SequenceState], parents: list[list[int]]) -> None:
        """Takes the pages the new nodes need; all of them or none."""
        needed: list[int] = []
        for state, added in zip(states, parents, strict=True):
            rows = state.length + len(state.parents) + len(added)
            needed.append(self._pages_for(rows) - len(state.pages))
        if sum(needed) > self.pool.available:
            raise KVExhausted(
                f"the step needs {sum(needed)} pages of {self.pool.page_size} slots, "
                f"{self.pool.available} of {self.pool.pages} are free"
            )
        for state, count in zip(states, needed, strict=True):
            if count:
                pages = self.pool.allocate(count, state.last_page)
                state.pages += pages
                state.slots = np.concatenate([state.slots, self._slots_of(pages)])

    def _pages_for(self, rows: int) -> int:
        return -(-rows // self.pool.page_size)

    def _slots_of(self, pages: list[int]) -> Int64s:
        size = self.pool.page_size
        first = np.asarray(pages, np.int64)[:, None] * size
        return (first + np.arange(size)).reshape(-1)

    def _stretches(self, pages: Iterable[int]) -> list[slice]:
        size = self.pool.page_size
        return [slice(run.start * size, run.stop * size) for run in runs(pages)]

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, [1, heads, slots, dim], to be written in place."""
        return self._views[layer]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Stores the new rows [1, heads, T, dim] of one layer under the current plan.

        Returns:
            All keys and values of the layer, [1, heads, slots, dim]; attention picks its own.

        Raises:
            RasdError: there is no plan.
        """
        plan = self._plan
        if plan is None:
            raise RasdError("a forward needs a plan of this cache, and each plan serves one")
        return Store(self.states, plan).update(key_states, value_states, layer_idx)

    # --- after it ---------------------------------------------------------------------------

    def commit(self, sequence: int, kept: Sequence[int]) -> None:
        """Keeps a chain of uncommitted nodes; the others and their pages are freed.

        Args:
            kept: nodes in the order appended since the last commit, from one that hangs from
                the committed slots downwards; empty drops all.

        Raises:
            InvalidRequest: the sequence is unknown or ``kept`` is no such chain.
        """
        self.commit_all({sequence: kept})

    def commit_all(self, kept: Mapping[int, Sequence[int]]) -> None:
        """`commit` for several sequences, with one move of rows; all of them or none."""
        for sequence, chain in kept.items():
            if not self._state(sequence).is_chain(chain):
                raise InvalidRequest(
                    f"sequence {sequence}: nodes to keep must be a chain from the committed "
                    f"slots; got {list(chain)}"
                )
        sources: list[Int64s] = []
        targets: list[Int64s] = []
        for sequence, chain in kept.items():
            state = self._sequences[sequence]
            rows = state.length + np.asarray(chain, np.int64)
            compact = state.length + np.arange(len(chain))
            moved = rows != compact
            sources.append(state.slots[rows[moved]])
            targets.append(state.slots[compact[moved]])
            state.settle(len(chain))
            self._give_back(state)
        self._plan = None
        self._stores.move(np.concatenate(sources), np.concatenate(targets))

    def _give_back(self, state: SequenceState) -> None:
        """Frees the pages behind the committed slots."""
        pages = self._pages_for(state.length)
        self.pool.free(state.pages[pages:])
        del state.pages[pages:]
        state.slots = state.slots[: pages * self.pool.page_size]
