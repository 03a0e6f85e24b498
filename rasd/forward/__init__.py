"""A decoder of our own for Llama-shaped models, made of a loaded transformers model's weights.

Fewer and larger products than transformers' modules, weights laid out for the machine, keys and
values read and written in place. Drafters are made of the same parts. Nothing here knows of
sampling.
"""

from rasd.forward.decoder import Decoder, unsupported
from rasd.forward.heads import Step
from rasd.forward.layer import Layer
from rasd.forward.linear import Linear
from rasd.forward.rope import Rope

__all__ = ["Decoder", "Layer", "Linear", "Rope", "Step", "unsupported"]
