"""The target's rows: whole chats, loss on answers only."""

import torch
from torch.nn import functional
from transformers import AutoTokenizer

from benchmarks.models.target import (
    ANSWER,
    GENERAL,
    PROMPT,
    SHARES,
    WINDOW,
    MixTask,
    _chats,
    _pieces,
    _rows,
    _stream,
)
from benchmarks.models.tasks import Example
from rasd.config import EMBEDDED
from tests.benchmarks.test_enlarge import small_target

SEED = 5


def numbered(lengths: list[int]) -> list[tuple[list[int], list[float]]]:
    """Rows that say who they are: row i holds token i, its second half carries loss."""
    return [([i] * n, [PROMPT] * (n // 2) + [ANSWER] * (n - n // 2)) for i, n in enumerate(lengths)]


def test_windows_hold_whole_rows() -> None:
    print(f"seed {SEED}")
    generator = torch.Generator().manual_seed(SEED)
    lengths = [3, 50, 200, 400, WINDOW]
    stream = _stream(numbered(lengths))
    for _ in range(20):
        tokens, weights = stream.window(WINDOW, generator)
        assert 0 < len(tokens) == len(weights) <= WINDOW
        for i, length in enumerate(lengths):
            assert int((tokens == i).sum()) % length == 0


def test_short_rows_are_filled_without_weight() -> None:
    generator = torch.Generator().manual_seed(SEED)
    streams = [_stream(numbered([400])), _stream(numbered([600]))]
    tokens, weights = _rows(streams, generator)
    assert tokens.shape == (2, 600) and weights.shape == (2, 599)
    assert not weights[0, 399:].any()
    assert weights[1, 299:].all() and not weights[1, :299].any()


def test_documents_are_cut_into_windows() -> None:
    pieces = _pieces(list(range(2 * WINDOW + 5)))
    assert [len(ids) for ids, _ in pieces] == [WINDOW, WINDOW, 5]
    assert [token for ids, _ in pieces for token in ids] == list(range(2 * WINDOW + 5))
    assert set(pieces[0][1]) == {GENERAL}


def test_only_answers_carry_loss_and_long_chats_are_left_out() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "target")
    found = [Example("code", "What is it?", "A name."), Example("code", "so " * WINDOW, "Long.")]
    ((ids, weights),) = _chats(tokenizer, found)
    answer = [token for token, weight in zip(ids, weights, strict=True) if weight == ANSWER]
    assert tokenizer.decode(answer) == "A name.<|end|>"
    assert tokenizer.decode(ids) == "<|bos|><|user|>What is it?<|end|><|assistant|>A name.<|end|>"


def test_loss_is_the_weighted_mean_of_what_is_scored() -> None:
    model = small_target()
    streams = {kind: _stream(numbered([30, 20])) for kind in SHARES}
    task = MixTask(model, streams, streams)
    tokens, weights = _rows(list(streams.values()), torch.Generator().manual_seed(SEED))
    logits, goal = task._scored(tokens, weights)
    with torch.autocast("cpu", torch.bfloat16):
        every = model(tokens[:, :-1]).logits.float()
    losses = functional.cross_entropy(
        every.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    scored = weights.flatten() > 0
    expected = functional.cross_entropy(logits, goal, reduction="none")
    torch.testing.assert_close(losses[scored], expected, atol=0.05, rtol=0.05)


def test_the_mix_is_learned() -> None:
    model = small_target()
    streams = {kind: _stream(numbered([30, 20])) for kind in SHARES}
    task = MixTask(model, streams, streams)
    before = task.evaluate()
    for step in range(12):
        loss, tokens = task.loss(torch.Generator().manual_seed(step))
        assert tokens > 0
        loss.backward()
        for optimizer in task.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
    after = task.evaluate()
    assert set(after) == set(SHARES)
    assert sum(after.values()) > sum(before.values())
