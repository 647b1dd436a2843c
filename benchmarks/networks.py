"""Networks of the zoo that no installed library has: U-Net, a YOLOv5s-like detector, recurrent models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015) with padded convolutions: [1, 3, H, W] to [1, classes, H, W].

    H and W are multiples of 16; 31 M parameters at the published width of 64.
    """

    def __init__(self, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            double_convolution(inputs, outputs)
            for inputs, outputs in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(double_convolution(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)


class ConvSiLU(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        padding = 2 if kernel == 6 else kernel // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3),
            nn.SiLU(inplace=True),
        )


class Bottleneck(nn.Module):
    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(ConvSiLU(channels, channels, 1), ConvSiLU(channels, channels, 3))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class C3(nn.Module):
    """Cross-stage-partial block: one half of the channels goes through `count` bottlenecks."""

    def __init__(self, inputs: int, outputs: int, count: int, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.left = ConvSiLU(inputs, half)
        self.right = ConvSiLU(inputs, half)
        self.blocks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(count)))
        self.merge = ConvSiLU(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([self.blocks(self.left(x)), self.right(x)], dim=1))


class FastPyramidPooling(nn.Module):
    """Three 5x5 max pools in a row, concatenated with their input (SPPF)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvSiLU(channels, channels // 2)
        self.merge = ConvSiLU(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        pools = [self.reduce(x)]
        for _ in range(3):
            pools.append(max_pool2d(pools[-1], 5, stride=1, padding=2))
        return self.merge(torch.cat(pools, dim=1))


class Detect(nn.Module):
    """Three heads at strides 8, 16, 32 to boxes [1, boxes, 4 + 1 + classes] in pixels."""

    STRIDES = (8, 16, 32)
    ANCHORS = (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    )

    def __init__(self, classes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.fields = classes + 5
        self.heads = nn.ModuleList(nn.Conv2d(c, 3 * self.fields, 1) for c in channels)
        self.register_buffer("anchors", torch.tensor(self.ANCHORS, dtype=torch.float32))

    def forward(self, features: list[Tensor]) -> Tensor:
        boxes: list[Tensor] = []
        anchors = self.get_buffer("anchors")
        for level, (head, x) in enumerate(zip(self.heads, features, strict=True)):
            height, width = x.shape[2:]
            y = head(x).view(1, 3, self.fields, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            cell = torch.stack([columns, rows], dim=-1).to(y.dtype)
            centre = (y[..., 0:2] * 2 - 0.5 + cell) * self.STRIDES[level]
            size = (y[..., 2:4] * 2) ** 2 * anchors[level].view(1, 3, 1, 1, 2)
            boxes.append(torch.cat([centre, size, y[..., 4:]], dim=-1).view(1, -1, self.fields))
        return torch.cat(boxes, dim=1)


class YoloV5s(nn.Module):
    """A detector with the layout and size of YOLOv5s (7.2 M parameters): [1, 3, 640, 640] to [1, 25200, 85].

    CSP backbone, pyramid pooling, path-aggregation neck, three anchor heads; non-maximum suppression, which
    depends on data, is the caller's.
    """

    def __init__(self, classes: int = 80, width: int = 32) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(
            ConvSiLU(3, w, 6, 2), ConvSiLU(w, 2 * w, 3, 2), C3(2 * w, 2 * w, 1), ConvSiLU(2 * w, 4 * w, 3, 2)
        )
        self.stage3 = C3(4 * w, 4 * w, 2)
        self.stage4 = nn.Sequential(ConvSiLU(4 * w, 8 * w, 3, 2), C3(8 * w, 8 * w, 3))
        self.stage5 = nn.Sequential(
            ConvSiLU(8 * w, 16 * w, 3, 2), C3(16 * w, 16 * w, 1), FastPyramidPooling(16 * w)
        )
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.reduce5 = ConvSiLU(16 * w, 8 * w)
        self.up4 = C3(16 * w, 8 * w, 1, shortcut=False)
        self.reduce4 = ConvSiLU(8 * w, 4 * w)
        self.up3 = C3(8 * w, 4 * w, 1, shortcut=False)
        self.down3 = ConvSiLU(4 * w, 4 * w, 3, 2)
        self.out4 = C3(8 * w, 8 * w, 1, shortcut=False)
        self.down4 = ConvSiLU(8 * w, 8 * w, 3, 2)
        self.out5 = C3(16 * w, 16 * w, 1, shortcut=False)
        self.detect = Detect(classes, (4 * w, 8 * w, 16 * w))

    def forward(self, x: Tensor) -> Tensor:
        c3 = self.stage3(self.stem(x))
        c4 = self.stage4(c3)
        p5 = self.reduce5(self.stage5(c4))
        p4 = self.reduce4(self.up4(torch.cat([self.upsample(p5), c4], dim=1)))
        n3 = self.up3(torch.cat([self.upsample(p4), c3], dim=1))
        n4 = self.out4(torch.cat([self.down3(n3), p4], dim=1))
        n5 = self.out5(torch.cat([self.down4(n4), p5], dim=1))
        return self.detect([n3, n4, n5])


class WordLanguageModel(nn.Module):
    """Recurrent language model (Zaremba et al., 2014, medium): tokens [1, T] to scores [1, T, vocabulary]."""

    def __init__(self, vocabulary: int = 10_000, width: int = 650, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.recurrent = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.recurrent(self.embedding(tokens))
        return self.head(hidden)


class SpeakerEncoder(nn.Module):
    """d-vector encoder (Wan et al., 2018): mel frames [1, T, 40] to a unit vector [1, 256]."""

    def __init__(self, mels: int = 40, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(mels, width, layers, batch_first=True)
        self.head = nn.Linear(width, width)

    def forward(self, frames: Tensor) -> Tensor:
        _, (hidden, _) = self.recurrent(frames)
        return nn.functional.normalize(self.head(hidden[-1]).relu(), dim=1)


class SpeechGru(nn.Module):
    """Bidirectional GRU over strided convolutions, as Deep Speech 2: [1, 1, 80, T] to [1, T/2, symbols]."""

    def __init__(self, mels: int = 80, width: int = 512, layers: int = 3, symbols: int = 29) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv2d(1, 32, (41, 11), (2, 2), (20, 5), bias=False),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20),
            nn.Conv2d(32, 32, (21, 11), (2, 1), (10, 5), bias=False),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20),
        )
        self.recurrent = nn.GRU(32 * mels // 4, width, layers, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, symbols)

    def forward(self, spectrogram: Tensor) -> Tensor:
        features = self.front(spectrogram).flatten(1, 2).transpose(1, 2)
        hidden, _ = self.recurrent(features)
        return self.head(hidden).log_softmax(dim=-1)
