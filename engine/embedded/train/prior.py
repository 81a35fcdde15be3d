"""Train the embedded latent diffusion model: a small CLIP text encoder and a UNet, together, by v-prediction."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.embedded.captions import caption_chances, every_caption
from engine.embedded.train.data import CLASSES, DOMAINS, Images, random_views
from engine.embedded.train.loop import CPU, Machine, Recipe, train
from engine.files import whole_file

RECIPE = Recipe(steps=60_000, batch=48, learning_rate=5e-4, averaging=0.9995)
VIEWS, SMALLEST = 4, 0.92
"""Views of each image whose latents are kept, and the least share of the side that one shows."""
STRONGEST = 5.0
"""The most that a step weighs in terms of clean latents, where v-prediction's own weight is the signal-to-noise
ratio + 1."""
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


@torch.no_grad()
def encode_views(
    vae: AutoencoderTiny, images: Images, resolution: int, seed: int, machine: Machine = CPU
) -> Tensor:
    """Latents of some random views of every image, on the device: (VIEWS, N, C, h, w), not yet scaled."""
    vae = machine.place(vae)
    rng = Generator(machine.device).manual_seed(seed)
    rounds = []
    for _ in range(VIEWS):
        views = (
            random_views(pixels.to(machine.device), resolution, rng, SMALLEST)
            for pixels in images.pixels.split(64)
        )
        rounds.append(torch.cat([vae.encode(view * 2 - 1).latents for view in views]))
    return torch.stack(rounds)


def kept_views(
    vae: AutoencoderTiny, images: Images, resolution: int, seed: int, machine: Machine, file: Path
) -> Tensor:
    """The latents of `encode_views`, read from `file` where it holds those of the same encoder."""
    weights = b"".join(value.cpu().numpy().tobytes() for value in vae.encoder.state_dict().values())
    key = hashlib.sha256(weights + f"{resolution} {seed} {len(images)}".encode()).hexdigest()
    if file.is_file():
        saved = torch.load(file, weights_only=True, map_location=machine.device)
        if saved["key"] == key:
            return saved["latents"].float()
    latents = encode_views(vae, images, resolution, seed, machine)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as opened:
        torch.save({"key": key, "latents": latents.half()}, opened)
    return latents


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


class Balanced:
    """Draws of images, each pair of domain and class equally often, and of a caption for each."""

    def __init__(self, images: Images, captions: list[str], device: str) -> None:
        found = images.pairs.unique().tolist()
        members = [torch.where(images.pairs == pair)[0] for pair in found]
        self.counts = torch.tensor([len(group) for group in members], device=device)
        self.members = pad_sequence(members, batch_first=True).to(device)
        chances = torch.zeros(len(found), len(captions))
        place = {text: number for number, text in enumerate(captions)}
        for row, pair in enumerate(found):
            domain, noun = divmod(pair, len(images.class_names))
            told = caption_chances(images.domain_names[domain], images.class_names[noun])
            for text, chance in told.items():
                chances[row, place[text]] = chance
        self.chances = chances.to(device)

    def draw(self, number: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """The index of `number` images and of a caption for each."""
        first = torch.randint(len(self.counts), (1,), generator=rng, device=rng.device)
        row = (first + torch.arange(number, device=rng.device)) % len(self.counts)
        chance = torch.rand(number, generator=rng, device=rng.device)
        index = self.members[row, (chance * self.counts[row]).long()]
        return index, torch.multinomial(self.chances[row], 1, generator=rng)[:, 0]


def train_prior(
    images: Images,
    vae: AutoencoderTiny,
    resolution: int,
    recipe: Recipe,
    folder: Path,
    start: Path | None = None,
    machine: Machine = CPU,
) -> PriorNetworks:
    """Train on latents of `images`, each pair of domain and class drawn equally often.

    From new networks, or from the folder `start` of a packed prior as far as its weights fit. Latents are scaled to a
    deviation of 1, but as `start` says where its autoencoder gives the same latents.
    """
    tokenizer = build_tokenizer(images.class_names, images.domain_names)
    latents = kept_views(vae, images, resolution, recipe.seed, machine, folder / "latents.pt")
    model = PriorNetworks(tokenizer, *latent_shape(vae, resolution))
    scale = round(1 / latents.std().item(), 4)
    if start is not None:
        adopt(model, tokenizer, start)
        scale = known_scale(vae, start) or scale
    model.scale.fill_(scale)
    latents = latents * scale
    machine.place(model)
    fast = machine.fast(model)
    texts = every_caption(images.class_names, images.domain_names)
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    ids, balanced = ids.to(machine.device), Balanced(images, texts, machine.device)
    scheduler = build_scheduler()
    kept = scheduler.alphas_cumprod.to(machine.device)

    def loss(rng: Generator, _: float) -> Tensor:
        number, place = recipe.batch, rng.device
        index, told = balanced.draw(number, rng)
        clean = latents[torch.randint(0, VIEWS, (number,), generator=rng, device=place), index]
        order = torch.randperm(number, generator=rng, device=place)
        stratum = (order + torch.rand(number, generator=rng, device=place)) / number
        timesteps = (stratum * len(kept)).long()
        noise = torch.randn(clean.shape, generator=rng, device=place)
        signal = kept[timesteps][:, None, None, None]
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
        error = (fast(noisy, timesteps, ids, told).float() - velocity).square().mean((1, 2, 3))
        return (error * (STRONGEST * (1 - kept[timesteps])).clamp(max=1)).mean()

    train(model, loss, recipe, folder, machine)
    return model


def latent_shape(vae: AutoencoderTiny, resolution: int) -> tuple[int, int]:
    """Side and channels of the latents of images of one resolution."""
    halvings = len(vae.config.decoder_block_out_channels) - 1
    return resolution // 2**halvings, vae.config.latent_channels


def known_scale(vae: AutoencoderTiny, start: Path) -> float | None:
    """The scaling factor of a packed prior, if its autoencoder gives the latents of `vae`."""
    other = AutoencoderTiny.from_pretrained(start / "vae", torch_dtype=torch.float32)
    theirs, ours = other.encoder.state_dict(), vae.encoder.state_dict()
    same = theirs.keys() == ours.keys() and all(
        torch.equal(theirs[name], value.cpu()) for name, value in ours.items()
    )
    return other.config.scaling_factor if same else None


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
