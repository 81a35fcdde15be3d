"""The embedded prior's networks: tokenizer, text encoder, UNet and noise schedule, new or taken from a packed prior."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.embedded.captions import every_caption
from engine.embedded.train.data import CLASSES, DOMAINS

LONGEST_PROMPT = 20
TEXT_WIDTH = 128
UNET_WIDTHS = (48, 96, 192)
TIME_WIDTH = 384


def build_tokenizer(
    nouns: tuple[str, ...] = CLASSES, domains: tuple[str, ...] = DOMAINS
) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with merges learned on the captions: each of their words is one token.

    Any other word still encodes, letter by letter.
    """
    byte_alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [word for text in every_caption(nouns, domains) for word in text.split()]
    specials = ["<|startoftext|>", "<|endoftext|>"]
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        words,
        BpeTrainer(
            vocab_size=10_000, end_of_word_suffix="</w>", show_progress=False, min_frequency=1
        ),
    )
    merges = [tuple(pair) for pair in _model_of(learner)["merges"]]
    pieces = [
        *byte_alphabet,
        *(letter + "</w>" for letter in byte_alphabet),
        *("".join(pair) for pair in merges),
    ]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, *specials]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST_PROMPT)


def _model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())["model"]


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LONGEST_PROMPT,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(latent_side: int, channels: int) -> UNet2DConditionModel:
    """A narrow first level, which costs the most, and attention in the other two; their attention starts as nothing."""
    unet = UNet2DConditionModel(
        sample_size=latent_side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=UNET_WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        time_embedding_dim=TIME_WIDTH,
    )
    for name, value in unet.named_parameters():
        if ".proj_out." in name:
            nn.init.zeros_(value)
    return unet.to(memory_format=torch.channels_last)


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion, with v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


class PriorNetworks(nn.Module):
    """What is trained: text encoder and UNet, and the scale of the latents they learned. Not an inference class."""

    def __init__(self, tokenizer: CLIPTokenizer, latent_side: int, channels: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(tokenizer)
        self.unet = build_unet(latent_side, channels)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def forward(self, latents: Tensor, timesteps: Tensor, ids: Tensor, place: Tensor) -> Tensor:
        """The UNet's output for latents (N, C, h, w) at timesteps (N,); `place` (N,) picks rows of ids (M, L)."""
        if ids.device.type == "cpu":  # elsewhere a fixed shape is worth more than fewer rows
            rows, place = place.unique(return_inverse=True)
            ids = ids[rows]
        context = self.text_encoder(ids).last_hidden_state[place]
        return self.unet(latents, timesteps, context).sample


def latent_shape(vae: AutoencoderTiny, resolution: int) -> tuple[int, int]:
    """Side and channels of the latents of images of one resolution."""
    halvings = len(vae.config.decoder_block_out_channels) - 1
    return resolution // 2**halvings, vae.config.latent_channels


def adopt(model: PriorNetworks, tokenizer: CLIPTokenizer, start: Path) -> None:
    """Take over the weights of a packed prior: those that have their shape, and its words' rows by their spelling.

    A UNet of more levels than the packed one takes its levels for the deepest.
    """
    old = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    words = CLIPTokenizer.from_pretrained(start / "tokenizer").get_vocab()
    rows, old_rows = (part.get_input_embeddings().weight for part in (model.text_encoder, old))
    fitting(model.text_encoder, old.state_dict())
    with torch.no_grad():
        for word, number in tokenizer.get_vocab().items():
            if word in words:
                rows[number] = old_rows[words[word]]
    unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
    fitting(model.unet, deepest(unet, len(model.unet.down_blocks)))


def deepest(unet: UNet2DConditionModel, levels: int) -> dict[str, Tensor]:
    """The weights of a UNet under the names that they have in one of more levels, which are shallower."""
    more = levels - len(unet.down_blocks)
    weights = {}
    for name, value in unet.state_dict().items():
        first, number, *rest = name.split(".")
        if first == "down_blocks":
            name = ".".join([first, str(int(number) + more), *rest])
        elif name == "time_embedding.linear_1.weight":  # a sinusoid of each second frequency
            value = value.unflatten(1, (-1, 2**more)).sum(2)
        weights[name] = value
    return weights


def fitting(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights that the module has a place of their shape for."""
    own = module.state_dict()
    same = {n: value for n, value in weights.items() if n in own and own[n].shape == value.shape}
    module.load_state_dict(same, strict=False)
