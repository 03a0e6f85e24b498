"""The EAGLE-2 drafter's recipe: learn to continue a frozen target's features.

Losses are a smooth L1 on features and a soft cross-entropy on the target's distribution, as in
EAGLE (arXiv 2401.15077), over several unrolled steps in which the head reads its own features at
the newest positions, as in HASS (arXiv 2408.15766): that is what it reads when it drafts.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, DynamicCache, LlamaForCausalLM

from rasd.draft.eagle_head import EagleHead, eagle_config
from rasd.text import tokenizer_hash
from rasd.train.batches import Corpus, fixed_windows, load_corpus, random_window
from rasd.train.generate import load_generated
from rasd.train.loop import Plan, State, train
from rasd.train.optimizers import make_optimizers

WINDOW = 1024
ROWS = 2
UNROLL = 2
MEASURED_STEPS = 4
FEATURE_WEIGHT = 0.2
"""Weight of the feature loss beside the cross-entropy's 1: acceptance is what counts."""
SHARES = {"documents": 0.3, "chats": 0.3, "generated": 0.4}
HELD_OUT_ROWS = 8
HELD_OUT_GENERATED = 15_000
LEARNING_RATE = 4e-3


@dataclass(frozen=True)
class Batch:
    """What the target says about windows of T+1 tokens.

    embeds [B, T, H] of tokens 1..T, features [B, T, H] of tokens 0..T-1, the features [B, T, H] of
    tokens 1..T to be predicted, and the target's logits [B, T, V] at tokens 1..T.
    """

    embeds: Tensor
    features: Tensor
    goal: Tensor
    logits: Tensor


class EagleTask:
    """Unrolled losses of a head on a frozen target's outputs."""

    def __init__(
        self,
        head: EagleHead,
        target: LlamaForCausalLM,
        streams: dict[str, Tensor],
        held_out: dict[str, Tensor],
        window: int = WINDOW,
    ) -> None:
        self.module: nn.Module = head
        self._head, self._target = head, target.eval().requires_grad_(False)
        self._streams, self._window = streams, window
        self._held_out = {
            name: fixed_windows(stream, window + 1, HELD_OUT_ROWS)
            for name, stream in held_out.items()
        }
        self.optimizers = make_optimizers(head, LEARNING_RATE)

    def loss(self, generator: torch.Generator) -> tuple[Tensor, int]:
        """Mean over unrolled steps of cross-entropy (nats) and weighted feature loss."""
        weights = torch.tensor([SHARES[name] for name in self._streams])
        picked = torch.multinomial(weights, ROWS, replacement=True, generator=generator)
        names = list(self._streams)
        streams = [self._streams[names[i]] for i in picked.tolist()]
        windows = torch.stack(
            [random_window(s, self._window + 1, generator) for s in streams]
        ).long()
        with torch.autocast("cpu", torch.bfloat16):
            batch = target_outputs(self._target, windows)
            steps = unroll(self._head, batch, UNROLL)
            wanted = batch.logits.float().softmax(-1)
            losses = [self._step_loss(features, batch.goal, wanted) for features in steps]
        return torch.stack(losses).mean(), windows.numel()

    def evaluate(self) -> dict[str, float]:
        """Agreement with the target's first choice per source and step, and chains of them.

        A step reads the text's own tokens before it. `chain` is one plus the length of the run of
        agreements that starts at step 1: on the target's greedy text, tokens per forward when one
        chain of `MEASURED_STEPS` is drafted.
        """
        numbers: dict[str, float] = {}
        for name, rows in self._held_out.items():
            agreed = torch.cat([self._agreement(part) for part in torch.split(rows, ROWS)])
            for step, share in enumerate(agreed.float().mean((0, 1)).tolist(), start=1):
                numbers[f"{name}-{step}"] = share
            numbers[f"{name}-chain"] = 1 + agreed.cumprod(-1).sum(-1).float().mean().item()
        return numbers

    def _agreement(self, windows: Tensor) -> Tensor:
        """bool[B, T', MEASURED_STEPS]: at a start and step, do the first choices agree?"""
        with torch.autocast("cpu", torch.bfloat16):
            batch = target_outputs(self._target, windows)
            steps = unroll(self._head, batch, MEASURED_STEPS)
            chosen = [self._target.lm_head(features).argmax(-1) for features in steps]
        goal = batch.logits.argmax(-1)
        starts = goal.shape[1] - MEASURED_STEPS + 1
        # The step k of a chain that starts at i is read at position i + k.
        agreed = [(c == goal)[:, k : k + starts] for k, c in enumerate(chosen)]
        return torch.stack(agreed, dim=-1)

    def _step_loss(self, features: Tensor, goal: Tensor, wanted: Tensor) -> Tensor:
        logits = self._target.lm_head(features).float()
        cross_entropy = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(0, 1))
        distance = functional.smooth_l1_loss(features.float(), goal.float())
        return cross_entropy + FEATURE_WEIGHT * distance


def target_outputs(target: LlamaForCausalLM, windows: Tensor) -> Batch:
    """Run the target, without gradients, on int64[B, T+1] tokens."""
    with torch.no_grad():
        hidden = target.model(input_ids=windows, use_cache=False).last_hidden_state
        return Batch(
            embeds=target.model.embed_tokens(windows[:, 1:]),
            features=hidden[:, :-1],
            goal=hidden[:, 1:],
            logits=target.lm_head(hidden[:, 1:]),
        )


def unroll(head: EagleHead, batch: Batch, steps: int) -> list[Tensor]:
    """Features [B, T, H] after one, two, ... steps on the head's own features, tokens as given.

    All starts at once: at step k a position reads the head's features of step k-1 one position
    earlier, and attends to what it would find while drafting (see `unroll_mask`).
    """
    rows, length = batch.features.shape[:2]
    positions = torch.arange(length).expand(rows, length)
    cache, features, outputs = DynamicCache(), batch.features, []
    for step in range(steps):
        mask = unroll_mask(length, step).expand(rows, 1, -1, -1) if step else None
        output = head(batch.embeds, features, positions, cache, mask)
        outputs.append(output)
        features = torch.cat((features[:, :1], output[:, :-1]), dim=1)
    return outputs


def unroll_mask(length: int, step: int) -> Tensor:
    """bool[1, 1, T, (step+1)·T] over the keys of all steps so far, oldest first; step 0 is causal.

    While drafting, the newest position was computed at this step, the one before it at the step
    before, and so on; everything older was computed from the target's own features.
    """
    back = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    blocks = [back >= step] + [back == step - own for own in range(1, step + 1)]
    return torch.cat(blocks, dim=1)[None, None]


def train_eagle(target_directory: Path, plan: Plan, export: Path, *, generated: int) -> State:
    """Train a head for the target in `target_directory`; `export` follows every checkpoint.

    `generated` is the number of tokens the target writes for the mix; they are kept in the plan's
    directory and read from there when the run is resumed.
    """
    tokenizer = AutoTokenizer.from_pretrained(target_directory)
    target = LlamaForCausalLM.from_pretrained(target_directory, dtype=torch.float32)
    streams, held_out = (
        {
            **_streams(load_corpus(tokenizer, held_out=side)),
            "generated": load_generated(
                plan.directory,
                target,
                tokenizer,
                generated if not side else HELD_OUT_GENERATED,
                held_out=side,
            ),
        }
        for side in (False, True)
    )
    torch.manual_seed(plan.seed)
    config = eagle_config(target.config, target_tokenizer_sha256=tokenizer_hash(tokenizer))
    head = EagleHead(config)
    return train(EagleTask(head, target, streams, held_out), plan, lambda _: head.save(export))


def _streams(corpus: Corpus) -> dict[str, Tensor]:
    return {"documents": corpus.documents, "chats": corpus.chats}
