"""Teach a small network on a folder of made images, and compare it with one that was taught on noise.

python examples/distil_student.py [folder]

Give `test="a folder of real images"` to `distill` to measure accuracy; without one, the students are compared by how
often they agree with the teacher on images that are held out.
"""

import sys
from pathlib import Path

from engine import Comparison, Distillation, Sampling, distill, generate

TEACHER = "embedded:photo"


def main(out: Path, images_per_class: int = 16, steps: int = 20, epochs: int = 10) -> None:
    folder = out / "images"
    for _ in generate(
        TEACHER, images_per_class=images_per_class, sampling=Sampling(steps=steps), out=folder
    ):
        pass  # written as they are made; a second call makes what is missing

    report = distill(
        folder,
        TEACHER,
        "resnet8",
        out=out / "students",
        distillation=Distillation(epochs=epochs),
        comparison=Comparison(seeds=1),
    )
    teacher, student = report["teacher"]["parameters"], report["network"]["parameters"]
    print(f"the student has {student:,} parameters, its teacher {teacher:,}")
    for name, row in report["rows"].items():
        print(f"taught on {name}: agrees with the teacher on {row['agreement']['mean']:.0%}")
    print(f"to look at them: ddis report {out / 'images'} {out / 'students'} --out both.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/distil_student"))
