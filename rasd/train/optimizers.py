"""The optimisers of every recipe."""

import torch
from torch import nn
from torch.optim import Optimizer


def make_optimizers(module: nn.Module, lr: float) -> dict[str, Optimizer]:
    """Muon for matrices inside layers, AdamW for embeddings, heads and gains.

    Muon's update is scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982), so one rate serves.
    """
    named = dict(module.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in named.values() if id(p) not in chosen]
    return {
        "muon": torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW(rest, lr=0.75 * lr, betas=(0.9, 0.95), weight_decay=0.0),
    }
