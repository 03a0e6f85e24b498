"""The most probable tokens beside torch's softmax and sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rasd.draft.top import most_probable


def check(logits: torch.Tensor, known: int) -> None:
    expected = logits.double().log_softmax(-1)
    found = most_probable(logits, known)
    assert found.ids.shape == found.logprobs.shape == (len(logits), known)
    for row, (ids, logprobs) in enumerate(zip(found.ids, found.logprobs, strict=True)):
        order = np.argsort(-logits[row].numpy(), kind="stable")
        assert ids.tolist() == order[:known].tolist()
        np.testing.assert_allclose(logprobs, expected[row, ids].numpy(), atol=2e-5)


@pytest.mark.parametrize("vocabulary", [1, 5, 31, 64, 1000, 4099])
def test_all_sizes(vocabulary: int, seed: int) -> None:
    torch.manual_seed(seed)
    for rows in (1, 2, 7):
        for known in {1, min(8, vocabulary), min(64, vocabulary)}:
            check(torch.randn(rows, vocabulary) * 4, known)


def test_of_equal_ones_the_first_comes_first(seed: int) -> None:
    torch.manual_seed(seed)
    check(torch.randint(-2, 3, (3, 500)).float(), 40)
    check(torch.zeros(2, 100), 64)


def test_some_have_no_chance(seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(2, 200)
    logits[0, 3] = -torch.inf
    check(logits, 64)


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf")])
def test_a_row_that_is_no_number_spoils_itself_alone(bad: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(3, 300)
    logits[1, 17] = bad
    found = most_probable(logits, 10)
    assert np.isnan(found.logprobs[1]).all()
    check(logits[[0, 2]], 10)
    assert not np.isnan(found.logprobs[[0, 2]]).any()


def test_other_types_are_left_to_torch(seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(2, 100)
    found, others = most_probable(logits, 5), most_probable(logits.double(), 5)
    assert (found.ids == others.ids).all()
    np.testing.assert_allclose(found.logprobs, others.logprobs, atol=1e-6)
