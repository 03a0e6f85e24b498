"""The drafter's recipe: what is unrolled in training is what happens while drafting."""

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from rasd.draft.eagle_head import EagleHead, eagle_config
from rasd.train.eagle import EagleTask, target_outputs, unroll
from rasd.train.generate import generate

SEED = 11


def tiny_target() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        eos_token_id=[1],
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def test_unrolled_steps_equal_drafting_from_every_start() -> None:
    print(f"seed {SEED}")
    target = tiny_target()
    head = EagleHead(eagle_config(target.config)).eval()
    batch = target_outputs(target, torch.randint(0, 50, (2, 13)))
    unrolled = unroll(head, batch, 4)
    for start in range(0, 9):
        cache = DynamicCache()
        seen = slice(0, start + 1)
        positions = torch.arange(start + 1).expand(2, -1)
        output = head(batch.embeds[:, seen], batch.features[:, seen], positions, cache)[:, -1:]
        torch.testing.assert_close(output, unrolled[0][:, start : start + 1])
        for step in range(1, 4):
            at = start + step
            output = head(batch.embeds[:, at : at + 1], output, torch.full((2, 1), at), cache)
            torch.testing.assert_close(output, unrolled[step][:, at : at + 1])


def test_target_outputs_are_aligned() -> None:
    target = tiny_target()
    windows = torch.randint(0, 50, (1, 6))
    batch = target_outputs(target, windows)
    whole = target(windows, output_hidden_states=True)
    torch.testing.assert_close(batch.features, whole.hidden_states[-1][:, :-1])
    torch.testing.assert_close(batch.logits, whole.logits[:, 1:])
    torch.testing.assert_close(batch.embeds, target.get_input_embeddings()(windows[:, 1:]))


def test_head_learns_and_target_does_not() -> None:
    target = tiny_target()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    stream = torch.randint(0, 50, (1200,), dtype=torch.int32)
    streams = {"documents": stream, "chats": stream, "generated": stream}
    task = EagleTask(
        EagleHead(eagle_config(target.config)), target, streams, {"all": stream}, window=64
    )
    first = task.loss(torch.Generator().manual_seed(SEED))[0]
    for _ in range(3):
        task.loss(torch.Generator().manual_seed(SEED))[0].backward()
        for optimizer in task.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
    assert task.loss(torch.Generator().manual_seed(SEED))[0] < first
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name])
    numbers = task.evaluate()
    assert set(numbers) == {"all-1", "all-2", "all-3", "all-4", "all-chain"}
    assert 1 <= numbers["all-chain"] <= 5


def test_generated_text_ends_once() -> None:
    stream = generate(tiny_target(), [[0, 5], [0, 6], [0, 7, 8]], 10**6, drawn=True).tolist()
    assert stream.count(0) >= 3
    assert all(stream[i : i + 2] != [1, 1] for i in range(len(stream)))
