"""Small networks with the structure of well-known ones: every kind of graph the zoo has, quick to run.

`SMALL` maps a name to a function that constructs the network, `build` makes it ready for use: at most a few
megabytes of seeded weights, batch 1. U-Net, the detector, the recurrent networks and the decode steps are the
zoo's at a reduced width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from decode_step import DecodeStep
from networks import SpeakerEncoder, SpeechGru, UNet, WordLanguageModel, YoloV5s
from zoo_entry import ZooModel, seeded


def image(side: int = 64) -> tuple[Tensor]:
    return (torch.randn(1, 3, side, side),)


def tokens(count: int, vocabulary: int) -> Tensor:
    return torch.randint(0, vocabulary, (1, count))


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation] if activation is not None else []))


class Mlp(nn.Sequential):
    """Linear layers and tanh: [1, 64] to [1, 10]."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


class AlexNet(nn.Module):
    """Convolutions with bias, max pools, linear layers with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 11, 4, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(16, 48, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d((6, 6)),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(48 * 36, 256), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(256, 100)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class ResNetBottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a residual, projected where the shape changes; dilated where asked."""

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        self.layers = nn.Sequential(
            conv_norm(inputs, width, 1, activation=nn.ReLU(inplace=True)),
            conv_norm(width, width, 3, stride, dilation=dilation, activation=nn.ReLU(inplace=True)),
            conv_norm(width, outputs, 1),
        )
        self.project = (
            conv_norm(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.project(x), inplace=True)


class ResNet(nn.Module):
    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm(3, width, 7, 2, activation=nn.ReLU(inplace=True)), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(
            ResNetBottleneck(width, width),
            ResNetBottleneck(4 * width, width),
            ResNetBottleneck(4 * width, 2 * width, stride=2),
            ResNetBottleneck(8 * width, 2 * width),
            ResNetBottleneck(8 * width, 4 * width, stride=2),
        )
        self.head = nn.Linear(16 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Hardsigmoid(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x)


class InvertedResidual(nn.Module):
    """MobileNetV3's block: widen, filter depthwise, squeeze and excite, narrow."""

    def __init__(self, channels: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = 4 * channels
        self.layers = nn.Sequential(
            conv_norm(channels, width, 1, activation=nn.Hardswish(inplace=True)),
            conv_norm(width, width, kernel, stride, groups=width, activation=nn.Hardswish(inplace=True)),
            SqueezeExcitation(width),
            conv_norm(width, outputs, 1),
        )
        self.residual = stride == 1 and channels == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(3, 16, 3, 2, activation=nn.Hardswish(inplace=True)),
            InvertedResidual(16, 16, 3, 1),
            InvertedResidual(16, 24, 5, 2),
            InvertedResidual(24, 24, 5, 1),
            InvertedResidual(24, 40, 3, 2),
        )
        self.head = nn.Sequential(nn.Linear(40, 128), nn.Hardswish(inplace=True), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Inception(nn.Module):
    """Parallel branches that are concatenated, one of them of asymmetric kernels, one pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 32, 3, 2, activation=nn.ReLU(inplace=True))
        self.one = conv_norm(32, 16, 1, activation=nn.ReLU(inplace=True))
        self.three = nn.Sequential(
            conv_norm(32, 16, 1, activation=nn.ReLU(inplace=True)),
            conv_norm(16, 24, 3, activation=nn.ReLU(inplace=True)),
        )
        self.cross = nn.Sequential(
            nn.Conv2d(32, 24, (1, 7), padding=(0, 3)), nn.ReLU(), nn.Conv2d(24, 24, (7, 1), padding=(3, 0))
        )
        self.pool = conv_norm(32, 16, 1, activation=nn.ReLU(inplace=True))
        self.head = nn.Linear(80 + 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = F.avg_pool2d(x, 3, 1, 1)
        y = torch.cat([self.one(x), self.three(x), self.cross(x), self.pool(pooled)], dim=1)
        y = torch.cat([F.max_pool2d(y, 2), F.max_pool2d(x, 2)], dim=1)
        return self.head(y.mean((2, 3)))


class DenseNet(nn.Module):
    """Every layer sees all before it: a concat that grows."""

    def __init__(self, growth: int = 12, layers: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(16 + growth * index),
                nn.ReLU(),
                nn.Conv2d(16 + growth * index, growth, 3, padding=1, bias=False),
            )
            for index in range(layers)
        )
        self.norm = nn.BatchNorm2d(16 + growth * layers)
        self.head = nn.Linear(16 + growth * layers, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        y = F.relu(self.norm(torch.cat(features, dim=1)))
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class ShuffleNet(nn.Module):
    """Half of the channels pass by, then the channels are interleaved."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        half = channels // 2
        self.stem = conv_norm(3, channels, 3, 2, activation=nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                conv_norm(half, half, 1, activation=nn.ReLU(inplace=True)),
                conv_norm(half, half, 3, groups=half),
                conv_norm(half, half, 1, activation=nn.ReLU(inplace=True)),
            )
            for _ in range(3)
        )
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            left, right = x.chunk(2, dim=1)
            x = F.channel_shuffle(torch.cat([left, block(right)], dim=1), 2)
        return self.head(x.mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm and two linear layers in channels-last order, a scale per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.widen = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.widen(y))).permute(0, 3, 1, 2)
        return x + self.scale * y


class ConvNeXt(nn.Module):
    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, 4)
        self.blocks = nn.Sequential(ConvNeXtBlock(channels), ConvNeXtBlock(channels))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x)).mean((2, 3))))


class Attention(nn.Module):
    """Self-attention, query, key and value from one projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(query, key, value)
        return self.project(y.transpose(1, 2).reshape(batch, length, width))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches by a strided convolution, a class token put in front."""

    def __init__(self, side: int = 64, patch: int = 8, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], dim=1) + self.position
        return self.head(self.norm(self.blocks(y))[:, 0])


class Swin(nn.Module):
    """Attention in windows, shifted by a roll in the second block; patches merged at the end."""

    def __init__(self, width: int = 32, window: int = 4) -> None:
        super().__init__()
        self.window = window
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.ModuleList(TransformerBlock(width, 2) for _ in range(2))
        self.merge = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).permute(0, 2, 3, 1)
        for index, block in enumerate(self.blocks):
            shift = index * (self.window // 2)
            y = torch.roll(y, (-shift, -shift), dims=(1, 2)) if shift else y
            y = self.whole(block(self.windows(y)), y.shape)
            y = torch.roll(y, (shift, shift), dims=(1, 2)) if shift else y
        corners = [y[:, 0::2, 0::2], y[:, 1::2, 0::2], y[:, 0::2, 1::2], y[:, 1::2, 1::2]]
        return self.head(self.merge(self.norm(torch.cat(corners, dim=-1))).mean((1, 2)))

    def windows(self, y: Tensor) -> Tensor:
        batch, height, width, channels = y.shape
        w = self.window
        y = y.view(batch, height // w, w, width // w, w, channels).transpose(2, 3)
        return y.reshape(-1, w * w, channels)

    def whole(self, y: Tensor, shape: torch.Size) -> Tensor:
        batch, height, width, channels = shape
        w = self.window
        y = y.view(batch, height // w, width // w, w, w, channels).transpose(2, 3)
        return y.reshape(shape)


class MlpMixer(nn.Module):
    """Linear layers along patches and along channels in turn."""

    def __init__(self, width: int = 32, patches: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.norm1 = nn.LayerNorm(width)
        self.along_patches = nn.Sequential(nn.Linear(patches, 128), nn.GELU(), nn.Linear(128, patches))
        self.norm2 = nn.LayerNorm(width)
        self.along_channels = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).mT
        y = y + self.along_patches(self.norm1(y).mT).mT
        y = y + self.along_channels(self.norm2(y))
        return self.head(y.mean(1))


class Fcn(nn.Module):
    """Dilated residual backbone, masks scaled back to the image bilinearly."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            conv_norm(3, width, 7, 2, activation=nn.ReLU(inplace=True)),
            ResNetBottleneck(width, width, stride=2),
            ResNetBottleneck(4 * width, 2 * width, dilation=2),
            ResNetBottleneck(8 * width, 2 * width, dilation=4),
        )
        self.head = nn.Sequential(
            conv_norm(8 * width, 2 * width, activation=nn.ReLU()), nn.Conv2d(2 * width, 21, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.backbone(x))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


class DiffusionStep(nn.Module):
    """The pieces of a diffusion U-Net: group norm, a time embedding, attention over pixels, two scales."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Conv2d(4, width, 3, padding=1)
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width)
        self.attention = Attention(width, 4)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.leave = nn.Conv2d(2 * width, 4, 3, padding=1)

    def forward(self, latent: Tensor, timestep: Tensor) -> Tensor:
        frequency = torch.exp(torch.arange(16, dtype=torch.float32) * -0.5)
        angle = timestep.to(torch.float32)[:, None] * frequency
        time = self.time(torch.cat([angle.cos(), angle.sin()], dim=-1))
        x = self.enter(latent)
        x = x + self.conv1(F.silu(self.norm1(x))) + time[:, :, None, None]
        rows = self.norm2(x).flatten(2).transpose(1, 2)
        x = x + self.attention(rows).transpose(1, 2).reshape(x.shape)
        y = F.interpolate(F.silu(self.down(x)), scale_factor=2.0, mode="nearest")
        return self.leave(torch.cat([x, self.up(y)], dim=1))


class Wave(nn.Module):
    """One-dimensional convolutions over samples, as in wav2vec 2.0 and CREPE: [1, 1, T] to [1, 20]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 32, 10, 5, bias=False),
            nn.GroupNorm(32, 32),
            nn.GELU(),
            nn.Conv1d(32, 32, 3, 2),
            nn.GELU(),
            nn.MaxPool1d(2),
            nn.ConstantPad1d((1, 2), 0.0),
            nn.Conv1d(32, 64, 4, groups=2),
            nn.LeakyReLU(0.1),
        )
        self.head = nn.Linear(64, 20)

    def forward(self, samples: Tensor) -> Tensor:
        return self.head(self.layers(samples).mean(-1)).sigmoid()


class StockTransformer(nn.Module):
    """torch's own encoder and decoder layers, post-norm, with a causal mask."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.network = nn.Transformer(width, 4, 1, 1, 128, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.network(source, target, tgt_mask=mask, tgt_is_causal=True)


def bert() -> ZooModel:
    config = transformers.BertConfig(
        vocab_size=1000,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    mask = torch.ones(1, 24, dtype=torch.int64)
    mask[:, 16:] = 0
    inputs = {"input_ids": tokens(24, 1000), "attention_mask": mask}
    return ZooModel(transformers.BertModel(config), inputs, "transformer")


def distilbert() -> ZooModel:
    config = transformers.DistilBertConfig(
        vocab_size=1000, dim=64, n_layers=2, n_heads=4, hidden_dim=128, max_position_embeddings=64
    )
    return ZooModel(transformers.DistilBertModel(config), {"input_ids": tokens(24, 1000)}, "transformer")


def gpt2_network() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=1000, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config).eval()


def llama_network(dtype: torch.dtype = torch.float32) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


class Scores(nn.Module):
    """A causal language model without a cache: tokens [1, T] to scores [1, T, vocabulary]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def scores(network: nn.Module) -> ZooModel:
    return ZooModel(Scores(network), {"input_ids": tokens(24, 1000)}, "transformer")


def decode(network: nn.Module) -> ZooModel:
    inputs = {"token": torch.tensor([[7]]), "position": torch.tensor([0])}
    return ZooModel(DecodeStep(network, 32), inputs, "decode step")


def t5() -> ZooModel:
    config = transformers.T5Config(
        vocab_size=1000,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        use_cache=False,
        decoder_start_token_id=0,
    )
    inputs = {"input_ids": tokens(24, 1000), "decoder_input_ids": tokens(8, 1000)}
    return ZooModel(transformers.T5ForConditionalGeneration(config), inputs, "transformer")


def whisper_encoder() -> ZooModel:
    config = transformers.WhisperConfig(
        d_model=64,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=128,
        num_mel_bins=16,
        max_source_positions=50,
    )
    encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    return ZooModel(encoder, {"input_features": torch.randn(1, 16, 100)}, "transformer")


def clip() -> ZooModel:
    size = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = transformers.CLIPConfig(
        text_config=size
        | {"vocab_size": 1000, "max_position_embeddings": 32, "bos_token_id": 998, "eos_token_id": 999},
        vision_config=size | {"image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    input_ids = tokens(16, 900)
    input_ids[0, -1] = 999
    inputs = {"input_ids": input_ids, "pixel_values": image(64)[0]}
    return ZooModel(transformers.CLIPModel(config), inputs, "transformer")


def mixture_of_experts() -> ZooModel:
    config = transformers.MixtralConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=12,
        max_position_embeddings=64,
    )
    return ZooModel(
        Scores(transformers.MixtralForCausalLM(config)), {"input_ids": tokens(3, 1000)}, "transformer"
    )


def mamba() -> ZooModel:
    config = transformers.MambaConfig(
        vocab_size=1000, hidden_size=32, num_hidden_layers=1, state_size=8, use_mambapy=False
    )
    inputs = {"input_ids": tokens(6, 1000)}
    return ZooModel(Scores(transformers.MambaForCausalLM(config)), inputs, "state space")


SMALL: dict[str, Callable[[], ZooModel]] = {
    "mlp": lambda: ZooModel(Mlp(), (torch.randn(1, 64),), "linear"),
    "alexnet": lambda: ZooModel(AlexNet(), image(), "convolution"),
    "resnet": lambda: ZooModel(ResNet(), image(), "convolution"),
    "mobilenet_v3": lambda: ZooModel(MobileNetV3(), image(), "convolution"),
    "inception": lambda: ZooModel(Inception(), image(), "convolution"),
    "densenet": lambda: ZooModel(DenseNet(), image(32), "convolution"),
    "shufflenet": lambda: ZooModel(ShuffleNet(), image(32), "convolution"),
    "convnext": lambda: ZooModel(ConvNeXt(), image(), "convolution"),
    "unet": lambda: ZooModel(UNet(width=8), image(), "convolution"),
    "yolo": lambda: ZooModel(YoloV5s(classes=3, width=8), image(), "convolution"),
    "fcn": lambda: ZooModel(Fcn(), image(), "convolution"),
    "diffusion": lambda: ZooModel(
        DiffusionStep(), (torch.randn(1, 4, 16, 16), torch.tensor([500])), "convolution"
    ),
    "wave": lambda: ZooModel(Wave(), (torch.randn(1, 1, 1024),), "convolution"),
    "vit": lambda: ZooModel(VisionTransformer(), image(), "transformer"),
    "swin": lambda: ZooModel(Swin(), image(), "transformer"),
    "mixer": lambda: ZooModel(MlpMixer(), image(), "linear"),
    "stock_transformer": lambda: ZooModel(
        StockTransformer(), (torch.randn(1, 12, 64), torch.randn(1, 8, 64)), "transformer"
    ),
    "bert": bert,
    "distilbert": distilbert,
    "gpt2": lambda: scores(gpt2_network()),
    "gpt2_decode": lambda: decode(gpt2_network()),
    "llama": lambda: scores(llama_network()),
    "llama_bf16": lambda: scores(llama_network(torch.bfloat16)),
    "llama_decode": lambda: decode(llama_network()),
    "t5": t5,
    "whisper_encoder": whisper_encoder,
    "clip": clip,
    "mixture_of_experts": mixture_of_experts,
    "mamba": mamba,
    "lstm_lm": lambda: ZooModel(WordLanguageModel(1000, 96), (tokens(12, 1000),), "recurrent"),
    "lstm_speaker": lambda: ZooModel(SpeakerEncoder(width=64), (torch.randn(1, 30, 40),), "recurrent"),
    "gru_speech": lambda: ZooModel(SpeechGru(32, 48, 2), (torch.randn(1, 1, 32, 60),), "recurrent"),
}


def build(name: str) -> ZooModel:
    """The network `name` in eval mode, the same bits at every call. Raises KeyError for an unknown name."""
    return seeded(SMALL[name])
