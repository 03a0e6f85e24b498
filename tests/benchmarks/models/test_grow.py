"""A grown model starts out as the small one, and so does its head."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.models.grow import add_noise, grow, grow_head
from rasd.draft.eagle_head import EagleHead, eagle_config
from tests.benchmarks.test_enlarge import roughen, small_target


def large_config(small: LlamaForCausalLM) -> LlamaConfig:
    config = LlamaConfig.from_dict(small.config.to_dict())
    config.hidden_size, config.intermediate_size = 48, 64
    config.num_attention_heads, config.num_key_value_heads = 6, 3
    config.num_hidden_layers = 3
    return config


@torch.no_grad()
def test_logits_agree_until_noise_is_added() -> None:
    small = small_target()
    large = grow(small, large_config(small))
    tokens = torch.randint(0, 60, (2, 15))
    expected = small(tokens).logits
    torch.testing.assert_close(large(tokens).logits, expected, atol=1e-3, rtol=1e-4)
    add_noise(large, 32)
    assert not torch.allclose(large(tokens).logits, expected, atol=1e-3)


def test_everything_that_was_added_can_learn() -> None:
    small = small_target()
    large = grow(small, large_config(small))
    add_noise(large, 32)
    tokens = torch.randint(0, 60, (4, 15))
    large(tokens, labels=tokens).loss.backward()
    for name, parameter in large.named_parameters():
        assert parameter.grad is not None
        added = parameter.grad[..., 32:] if parameter.shape[-1] == 48 else parameter.grad
        assert added.abs().max() > 0 or ".layers.1." in name, name  # it does not speak yet


@torch.no_grad()
def test_the_grown_head_drafts_the_same() -> None:
    small = small_target()
    head = EagleHead(eagle_config(small.config)).eval()
    roughen(head)
    large = grow(small, large_config(small)).eval()
    grown = grow_head(head, eagle_config(large.config)).eval()
    grown.fc.weight[32:] = 0  # what the added channels would bring is small, not nothing
    tokens = torch.randint(0, 60, (1, 12))
    logits = []
    for target, drafter in ((small, head), (large, grown)):
        features = target.model(tokens).last_hidden_state[:, :-1]
        embeds = target.model.embed_tokens(tokens[:, 1:])
        output = drafter(embeds, features, torch.arange(11)[None])
        output[..., 32:] = 0
        logits.append(target.lm_head(output))
    torch.testing.assert_close(logits[1], logits[0], atol=1e-3, rtol=1e-3)
