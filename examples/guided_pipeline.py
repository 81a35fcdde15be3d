"""Guide a diffusers pipeline that you have already: wrap its scheduler, then call it as usual.

python examples/guided_pipeline.py [folder]

The pipeline here is the small one that ships. Yours may be of Stable Diffusion, SDXL, FLUX and others; on a GPU, load
it with `dtype=torch.bfloat16`, move it with `.to("cuda")`, and name a tiny decoder: see docs/drop-in.md.
"""

import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import engine
from engine import Alignment, GuidedScheduler, load_classifier

SHIPPED = Path(engine.__file__).parent / "embedded" / "weights" / "prior"
WORD = "horse"


def draw(pipe: DiffusionPipeline, number: int, steps: int) -> Tensor:
    """Images (N, 3, H, W) in [0, 1], each from a seed of its own."""
    seeds = [torch.Generator().manual_seed(seed) for seed in range(number)]
    prompts = [f"a {WORD}"] * number
    return pipe(prompts, num_inference_steps=steps, generator=seeds, output_type="pt").images


def main(out: Path, number: int = 8, steps: int = 20) -> None:
    pipe = DiffusionPipeline.from_pretrained(SHIPPED, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    classifier = load_classifier("embedded:sketch", device="cpu")

    drawn = {"plain": draw(pipe, number, steps)}
    pipe.scheduler = GuidedScheduler(pipe, classifier, Alignment(class_weight=0.5), classes=[WORD])
    drawn["guided"] = draw(pipe, number, steps)
    pipe.scheduler = pipe.scheduler.inner  # as it was

    out.mkdir(parents=True, exist_ok=True)
    for name, images in drawn.items():
        sure = classifier.logits(images).softmax(1)[:, classifier.labels.index(WORD)]
        print(f"{name}: the classifier of sketches is {sure.mean():.0%} sure of a {WORD}")
        for seed, picture in enumerate(pipe.image_processor.postprocess(2 * images - 1)):
            picture.save(out / f"{name}-{seed}.png")
    print(f"{2 * number} images in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/guided_pipeline"))
