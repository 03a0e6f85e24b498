"""What drafting costs, and what it brings.

*cost*: milliseconds of one `propose` by batch, levels and beam, for rows rounded to 8 bits and in
bfloat16, at a context, with the target's weights out of the caches as they are in a step.

*gain*: tokens per step on greedy text of the target, drafted alone: for each number of levels, beam
and nodes the trees at every step, walked along the text. No target runs between the steps, so the
head is measured and nothing else. *worth* stops levels that bring less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.common import code_prompts, question_prompts, save
from rasd import LLM, SamplingParams
from rasd.config import EMBEDDED, DrafterConfig
from rasd.draft.eagle import EagleDrafter
from rasd.stages import DraftQuery, DraftRequest, Features
from rasd.tree import Draft

ACCEPTED = 3
"""Rows that a step of *cost* catches up with."""
OUT_OF_CACHE = 128 * 2**20
SHAPES = ((1, 8), (2, 8), (3, 8), (4, 4), (5, 4), (5, 8), (6, 8), (8, 4))
WORTHS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.7)


@dataclass(frozen=True)
class Text:
    """What the target says: tokens int32[n], its features [n, H], and how long the prompt is."""

    tokens: np.ndarray
    features: np.ndarray
    prompt: int


def load(models: str, levels: int, top_k: int, nodes: int, dtype: str) -> EagleDrafter:
    """The drafter of a pair in ``models``/eagle and ``models``/target."""
    config = DrafterConfig.model_validate(
        {
            "model": f"{models}/eagle",
            "levels": levels,
            "top_k": top_k,
            "nodes": nodes,
            "dtype": dtype,
        }
    )
    return EagleDrafter.load(config, f"{models}/target")


def propose(
    drafter: EagleDrafter, queries: list[DraftQuery], worth: float = 0.0
) -> list[Draft | None]:
    """One request."""
    return drafter.propose(DraftRequest(0, [], queries, worth)).wait(0.0).drafts


# --- cost -----------------------------------------------------------------------------------------


def cost(drafter: EagleDrafter, batch: int, context: int, nodes: int, steps: int) -> list[float]:
    """Milliseconds of ``steps`` requests for ``batch`` sequences of random text and features."""
    rng = np.random.default_rng(0)
    width, ids = drafter._runner.width, drafter._runner.vocabulary
    weights = torch.zeros(OUT_OF_CACHE // 4)

    def query(sequence: int, start: int, rows: int) -> DraftQuery:
        features = rng.standard_normal((rows, width), np.float32)
        drafter.put(Features(sequence, max(start - 1, 0), features))
        tokens = rng.integers(ids, size=rows + (start == 0)).astype(np.int32)
        return DraftQuery(sequence, start, tokens, nodes)

    queries = [query(sequence, 0, context - 1) for sequence in range(batch)]
    while any(draft is None for draft in propose(drafter, queries)):
        pass
    spent: list[float] = []
    for step in range(steps):
        start = context + step * ACCEPTED
        queries = [query(sequence, start, ACCEPTED) for sequence in range(batch)]
        weights.sum()
        began = time.perf_counter()
        propose(drafter, queries)
        spent.append(1000 * (time.perf_counter() - began))
    drafter.close()
    return spent


def costs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every shape at every batch; the two precisions take turns."""
    rows: list[dict[str, Any]] = []
    for levels, top_k in options.shapes:
        drafters = {
            dtype: load(options.models, levels, top_k, options.nodes, dtype)
            for dtype in ("auto", "bfloat16")
        }
        for batch in options.batches:
            row: dict[str, Any] = {"levels": levels, "top_k": top_k, "batch": batch}
            spent: dict[str, list[float]] = {dtype: [] for dtype in drafters}
            for _ in range(options.repetitions):
                for dtype, drafter in drafters.items():
                    found = cost(drafter, batch, options.context, options.nodes, options.steps)
                    spent[dtype] += found[1:]  # the first warms up
            for dtype, found in spent.items():
                row |= {dtype: statistics.median(found), f"{dtype}_least": min(found)}
            rows.append(row)
    return rows


# --- gain -----------------------------------------------------------------------------------------


@torch.inference_mode()
def texts(models: str, count: int, tokens: int) -> dict[str, list[Text]]:
    """Greedy answers of the target, by task."""
    llm = LLM(f"{models}/target", drafter=None, corpora=None, speculation="off")
    model = AutoModelForCausalLM.from_pretrained(f"{models}/target", dtype=torch.float32)
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=False)
    prompts = {
        "code": code_prompts(llm, count),
        "questions": question_prompts(llm, count, held_out=True),
    }
    found: dict[str, list[Text]] = {}
    for task, asked in prompts.items():
        answers = [request.outputs[0].token_ids for request in llm.generate(asked, params)]
        found[task] = []
        for prompt, answer in zip(asked, answers, strict=True):
            ids = np.asarray([*prompt, *answer], np.int32)
            states: Tensor = model.model(torch.from_numpy(ids.astype(np.int64))[None])[0][0]
            found[task].append(Text(ids, states.float().numpy(), len(prompt)))
    return found


def follow(drafter: EagleDrafter, text: Text, nodes: int, worth: float) -> dict[str, float]:
    """Drafts along a text as if the target verified every tree; totals.

    Forwards, rows and milliseconds are counted from the second step on.
    """
    at, heard = text.prompt, 0  # the root stands at ``at``
    total = dict.fromkeys(("tokens", "steps", "forwards", "rows", "nodes", "ms"), 0.0)
    drafter.put(Features(0, 0, text.features[:at]))
    forward = drafter._runner._head.forward

    def counting(tokens: Any, *rest: Any) -> Any:
        if heard:
            total["forwards"] += 1
            total["rows"] += len(tokens)
        return forward(tokens, *rest)

    drafter._runner._head.forward = counting  # type: ignore[method-assign]
    while at < len(text.tokens) - 1:
        query = DraftQuery(0, heard, text.tokens[heard : at + 1], nodes)
        began = time.perf_counter()
        draft = propose(drafter, [query], worth)[0]
        if heard:  # the first catches up with the prompt
            total["ms"] += 1000 * (time.perf_counter() - began)
        heard, accepted = at + 1, 0
        if draft is not None:
            accepted = matched(draft, text.tokens[at + 1 : -1])
            counts = {"tokens": accepted + 1, "steps": 1, "nodes": len(draft.tree) - 1}
            total |= {key: total[key] + count for key, count in counts.items()}
        drafter.put(Features(0, at, text.features[at : at + accepted + 1]))
        at += accepted + 1
    drafter._runner._head.forward = forward  # type: ignore[method-assign]
    drafter.close()
    return total


def matched(draft: Draft, ahead: np.ndarray) -> int:
    """How many tokens of the text the tree holds."""
    tree, node, depth = draft.tree, 0, 0
    for token in ahead.tolist():
        below = np.flatnonzero((tree.parents == node) & (tree.tokens == token))
        if len(below) == 0:
            break
        node, depth = int(below[0]), depth + 1
    return depth


def gains(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every shape, then every worth at the largest shape, in both precisions."""
    found = texts(options.models, options.prompts, options.tokens)
    runs = [(*shape, 0.0, "auto") for shape in options.shapes]
    runs += [(5, 8, 0.0, "bfloat16")]
    runs += [(8, 8, worth, "auto") for worth in options.worths]
    rows: list[dict[str, Any]] = []
    for levels, top_k, worth, dtype in runs:
        drafter = load(options.models, levels, top_k, options.nodes, dtype)
        row: dict[str, Any] = {"levels": levels, "top_k": top_k, "worth": worth, "dtype": dtype}
        for task, each in found.items():
            totals = [follow(drafter, text, options.nodes, worth) for text in each]
            sums = {key: sum(total[key] for total in totals) for key in totals[0]}
            per_step = {key: sums[key] / sums["steps"] for key in sums if key != "steps"}
            row |= {f"{task}_{key}": value for key, value in per_step.items()}
        rows.append(row)
    return rows


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """The rows as they are."""
    out = Table(title=title)
    for column in rows[0]:
        out.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        out.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    return out


def _shape(text: str) -> tuple[int, int]:
    levels, top_k = text.split("x")
    return int(levels), int(top_k)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cost", "gain"))
    parser.add_argument("--models", default=str(EMBEDDED), help="folder of eagle/ and target/")
    parser.add_argument("--shapes", type=_shape, nargs="*", default=SHAPES, help="levels x beam")
    parser.add_argument("--worths", type=float, nargs="*", default=WORTHS, help="8x8, stopped")
    parser.add_argument("--nodes", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="*", default=(1, 4, 16))
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=12, help="per task")
    parser.add_argument("--tokens", type=int, default=96, help="new tokens per prompt")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = (costs if options.what == "cost" else gains)(options)
    save(f"draft-{options.what}", {"settings": vars(options), "rows": rows})
    Console(width=150).print(table(f"drafting: {options.what}", rows))


if __name__ == "__main__":
    main()
