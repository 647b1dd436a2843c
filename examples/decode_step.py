"""One step of text generation as a module: a token in, scores of the next out, keys and values in buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache


class BufferCache(Cache):
    """A cache whose tensors belong to someone else; a new token's rows are written in place at `position`."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], position: Tensor) -> None:
        super().__init__(layers=[])
        self.keys = keys
        self.values = values
        self.position = position

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys.index_copy_(2, self.position, key_states)
        values.index_copy_(2, self.position, value_states)
        return keys, values


class DecodeStep(nn.Module):
    """A causal language model of transformers, called with token [1, 1] and position [1], int64, for scores
    [1, vocabulary].

    The keys and values of up to `tokens` positions are buffers of the module, changed in place by each call;
    positions are fed in order from 0.
    """

    def __init__(self, model: nn.Module, tokens: int) -> None:
        super().__init__()
        self.model = model
        self.tokens = tokens
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.layers = config.num_hidden_layers
        for layer in range(self.layers):
            self.register_buffer(f"keys_{layer}", torch.zeros(1, heads, tokens, width, dtype=model.dtype))
            self.register_buffer(f"values_{layer}", torch.zeros(1, heads, tokens, width, dtype=model.dtype))

    def forward(self, token: Tensor, position: Tensor) -> Tensor:
        cache = BufferCache(
            [self.get_buffer(f"keys_{layer}") for layer in range(self.layers)],
            [self.get_buffer(f"values_{layer}") for layer in range(self.layers)],
            position,
        )
        visible = torch.arange(self.tokens, device=position.device) <= position
        output = self.model(
            input_ids=token,
            position_ids=position.unsqueeze(0),
            attention_mask=visible.view(1, 1, 1, self.tokens),
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits[:, -1]
