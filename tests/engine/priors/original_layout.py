"""Weights of a Stable Diffusion pipeline by the names of the original code, as single files have them."""

import re
from typing import Any

from torch import Tensor

ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
IN_RESNETS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
IN_VAES = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
    ("group_norm", "norm"),
    (r"to_([qkv])", r"\1"),
    (r"to_out\.0", "proj_out"),
)


def original_layout(pipe: Any) -> dict[str, Tensor]:
    """All weights of a pipeline's UNet, VAE and text encoder."""
    found = {}
    for name, value in pipe.unet.state_dict().items():
        layers = pipe.unet.config.layers_per_block
        found[f"model.diffusion_model.{_of_unet(name, layers, pipe.unet)}"] = value
    for name, value in pipe.vae.state_dict().items():
        # Attention was made of convolutions of one pixel.
        is_attention = "attentions" in name and value.dim() == 2
        key = _of_vae(name, len(pipe.vae.config.block_out_channels))
        found[f"first_stage_model.{key}"] = value[:, :, None, None] if is_attention else value
    for name, value in pipe.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    return {name: value.contiguous() for name, value in found.items()}


def _of_unet(name: str, layers: int, unet: Any) -> str:
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if name.startswith("mid_block."):
        _, part, number, rest = name.split(".", 3)
        place = "1" if part == "attentions" else str(2 * int(number))
        return f"middle_block.{place}.{_of_resnet(rest) if part == 'resnets' else rest}"
    way, block, part, number, rest = name.split(".", 4)
    first = int(block) * (layers + 1)
    if way == "down_blocks":
        if part == "downsamplers":
            return f"input_blocks.{1 + first + layers}.0.op.{rest.removeprefix('conv.')}"
        place = f"input_blocks.{1 + first + int(number)}"
    else:
        attends = hasattr(unet.up_blocks[int(block)], "attentions")
        if part == "upsamplers":
            return f"output_blocks.{first + layers}.{1 + attends}.{rest}"
        place = f"output_blocks.{first + int(number)}"
    return f"{place}.1.{rest}" if part == "attentions" else f"{place}.0.{_of_resnet(rest)}"


def _of_resnet(rest: str) -> str:
    layer, _, kind = rest.rpartition(".")
    return f"{IN_RESNETS[layer]}.{kind}"


def _of_vae(name: str, blocks: int) -> str:
    """Up blocks are counted from the image down."""
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{blocks - 1 - int(m[1])}", name)
    for ours, theirs in IN_VAES:
        name = re.sub(ours, theirs, name)
    return name
