"""Train the embedded latent diffusion model: a small CLIP text encoder and a UNet, together, by v-prediction."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.embedded.captions import every_caption, random_caption
from engine.embedded.train.data import CLASSES, DOMAINS, Images, random_views
from engine.embedded.train.loop import Recipe, train

RECIPE = Recipe(steps=6800, batch=48, learning_rate=5e-4, averaging=0.999)
CONTINUED = Recipe(steps=2000, batch=96, learning_rate=3e-4, averaging=0.999, seed=1)
"""For a prior that is trained already (`--start-from`)."""
VIEWS = 6
LONGEST_PROMPT = 20
TEXT_WIDTH = 128


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair encoding with merges learned on the captions: each of their words is one token.

    Any other word still encodes, letter by letter.
    """
    byte_alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [word for text in every_caption(CLASSES) for word in text.split()]
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


def build_unet(latent_side: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=latent_side,
        in_channels=4,
        out_channels=4,
        block_out_channels=(96, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    ).to(memory_format=torch.channels_last)


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


@torch.no_grad()
def encode_views(vae: AutoencoderTiny, images: Images, resolution: int, seed: int) -> Tensor:
    """Latents of some random views of every image: (VIEWS, N, 4, h, w), not yet scaled."""
    rng = Generator().manual_seed(seed)
    rounds = []
    for _ in range(VIEWS):
        views = [
            random_views(pixels, resolution, rng, smallest=0.85)
            for pixels in images.pixels.split(64)
        ]
        rounds.append(torch.cat([vae.encode(view * 2 - 1).latents for view in views]))
    return torch.stack(rounds)


class PriorNetworks(nn.Module):
    """What is trained: text encoder and UNet. Not an inference class."""

    def __init__(self, tokenizer: CLIPTokenizer, latent_side: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(tokenizer)
        self.unet = build_unet(latent_side)

    def forward(self, latents: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """The network's output for noisy latents (N, 4, h, w), timesteps (N,) and token ids (N, L)."""
        different, place = ids.unique(dim=0, return_inverse=True)
        context = self.text_encoder(different).last_hidden_state[place]
        return self.unet(latents, timesteps, context).sample


def train_prior(
    images: Images,
    vae: AutoencoderTiny,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    start: Path | None = None,
) -> PriorNetworks:
    """Train on latents of `images`, each pair of domain and class drawn equally often.

    From new networks, and then it sets the autoencoder's scaling factor; or from the folder `start` of a packed prior,
    whose autoencoder `vae` is.
    """
    tokenizer = build_tokenizer()
    latents = encode_views(vae, images, resolution, recipe.seed)
    if start is None:
        vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    latents = latents * vae.config.scaling_factor
    model = PriorNetworks(tokenizer, latents.shape[-1])
    if start is not None:
        model.text_encoder = CLIPTextModel.from_pretrained(
            start / "text_encoder", dtype=torch.float32
        )
        unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        model.unet = unet.to(memory_format=torch.channels_last)
    model.train()
    scheduler = build_scheduler()
    pairs = [(domain, label) for domain in range(len(DOMAINS)) for label in range(len(CLASSES))]
    members = [torch.where((images.domains == d) & (images.classes == c))[0] for d, c in pairs]
    members = [group for group in members if len(group)]

    def loss(rng: Generator, _: float) -> Tensor:
        number = recipe.batch
        first = int(torch.randint(len(members), (), generator=rng))
        places = torch.rand(number, generator=rng).tolist()
        chosen = [members[(first + i) % len(members)] for i in range(number)]
        index = torch.stack(
            [group[int(place * len(group))] for group, place in zip(chosen, places, strict=True)]
        )
        clean = latents[torch.randint(0, VIEWS, (number,), generator=rng), index]
        texts = [
            random_caption(DOMAINS[domain], CLASSES[label], rng)
            for domain, label in zip(images.domains[index], images.classes[index], strict=True)
        ]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        stratum = (
            torch.randperm(number, generator=rng) + torch.rand(number, generator=rng)
        ) / number
        timesteps = (stratum * scheduler.config.num_train_timesteps).long()
        noise = torch.randn(clean.shape, generator=rng)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        return mse_loss(
            model(noisy, timesteps, ids), scheduler.get_velocity(clean, noise, timesteps)
        )

    train(model, loss, recipe, folder)
    return model
