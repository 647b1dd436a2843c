"""Four well-known networks at their published sizes, for a machine that has torch and nothing else.

Each has seeded random weights and works on one example. `NETWORKS` maps names to what makes module and
inputs, in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEED = 0


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the residual (He et al., 2015; the stride is the 3x3's)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.project: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.project = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.project(x))


class ResNet50(nn.Module):
    """[1, 3, 224, 224] to 1000 scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        inputs = 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for index in range(count):
                blocks.append(Bottleneck(inputs, width, stride if index == 0 else 1))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class SelfAttention(nn.Module):
    """Attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, width = x.shape
        split = self.qkv(x).view(batch, rows, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split[0], split[1], split[2]
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, rows, width))


class Block(nn.Module):
    """A transformer layer; norms come before its parts, or behind them as in BERT."""

    def __init__(self, width: int, heads: int, *, causal: bool, before: bool, gelu: str) -> None:
        super().__init__()
        self.before = before
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.act = nn.GELU(approximate=gelu)

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = x + self.attention(self.norm1(x))
            return x + self.down(self.act(self.up(self.norm2(x))))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.down(self.act(self.up(x))))


class VisionTransformer(nn.Module):
    """ViT-L/16 (Dosovitskiy et al., 2020): [1, 3, 224, 224] to 1000 scores."""

    def __init__(self, width: int = 1024, layers: int = 24, heads: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, 197, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, causal=False, before=True, gelu="none") for _ in range(layers))
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token, patches], dim=1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


class TextModel(nn.Module):
    """BERT-large (Devlin et al., 2018) or GPT-2 medium (Radford et al., 2019): tokens [1, T] to hidden
    states, or, with `scores`, to scores of the vocabulary, by the embedding's own weight."""

    def __init__(self, vocabulary: int, *, causal: bool, gelu: str, scores: bool) -> None:
        super().__init__()
        width, layers, heads = 1024, 24, 16
        self.scores = scores
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(1024, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(
            *(Block(width, heads, causal=causal, before=causal, gelu=gelu) for _ in range(layers))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        if not self.scores:
            return self.blocks(self.norm(x))
        return F.linear(self.norm(self.blocks(x)), self.words.weight)


Network = tuple[nn.Module, tuple[Tensor, ...]]


def _picture() -> tuple[Tensor]:
    return (torch.randn(1, 3, 224, 224),)


def _tokens(count: int, vocabulary: int) -> tuple[Tensor]:
    return (torch.randint(0, vocabulary, (1, count)),)


def _resnet50() -> Network:
    network = ResNet50()
    # As training leaves them: at 1, the residuals of random weights grow beyond 16 bits.
    for block in network.blocks:
        nn.init.constant_(block.bn3.weight, 0.2)
    return network, _picture()


def _bert() -> Network:
    return TextModel(30522, causal=False, gelu="none", scores=False), _tokens(128, 30522)


def _gpt2() -> Network:
    return TextModel(50257, causal=True, gelu="tanh", scores=True), _tokens(256, 50257)


NETWORKS: dict[str, Callable[[], Network]] = {
    "resnet50": _resnet50,
    "vit_l_16": lambda: (VisionTransformer(), _picture()),
    "bert_large": _bert,
    "gpt2_medium": _gpt2,
}


def build(name: str, dtype: torch.dtype) -> Network:
    """The network `name` in eval mode with its example, both in `dtype`; the same bits at every call. Raises
    KeyError for an unknown name."""
    torch.manual_seed(SEED)
    network, inputs = NETWORKS[name]()
    cast = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    return network.eval().to(dtype), cast
