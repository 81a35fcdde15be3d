"""What every packed folder has: half-precision weights, a card, and pictures as a sheet."""

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

LICENCE = "Weights: Apache-2.0. PACS (Li et al. 2017) was used for training and is not contained."
SHEET_PX = 96


def half(module: nn.Module) -> dict[str, Tensor]:
    """A state dict in float16, but for vectors and scalars: running variances need float32's range."""
    return {
        name: value.cpu().half().contiguous() if value.dim() > 1 else value.cpu().contiguous()
        for name, value in module.state_dict().items()
    }


def sheet(rows: list[Tensor]) -> Image.Image:
    """Rows of images (C, 3, H, W) in [0, 1], all of one shape, as one picture with thin white gaps."""
    grid = torch.nn.functional.pad(torch.stack(rows), (1, 1, 1, 1), value=1.0)
    high, wide, _, height, width = grid.shape
    pixels = grid.permute(0, 3, 1, 4, 2).reshape(high * height, wide * width, 3)
    picture = Image.fromarray((pixels * 255).round().byte().numpy())
    zoom = max(1, SHEET_PX // height)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def card(folder: Path, title: str, summary: str, facts: dict[str, str]) -> None:
    """Write the card of a packed folder."""
    lines = [
        f"# {title}",
        "",
        summary,
        "",
        *(f"- **{name}**: {value}" for name, value in facts.items()),
    ]
    (folder / "README.md").write_text("\n".join([*lines, "", LICENCE, ""]))


def add_to_card(folder: Path, facts: dict[str, str]) -> None:
    """Put facts behind those that a card has, in place of those of the same names."""
    file = folder / "README.md"
    old = file.read_text().removesuffix(f"\n{LICENCE}\n").splitlines()
    kept = [line for line in old if not line.startswith(tuple(f"- **{name}**: " for name in facts))]
    added = [f"- **{name}**: {value}" for name, value in facts.items()]
    file.write_text("\n".join([*kept, *added, "", LICENCE, ""]))


def forget_origin(folder: Path) -> None:
    """Take the folder that a continued part was read from out of the configs: it is nobody's business."""
    for config in folder.rglob("config.json"):
        facts = json.loads(config.read_text())
        facts.pop("_name_or_path", None)
        config.write_text(json.dumps(facts, indent=2) + "\n")
