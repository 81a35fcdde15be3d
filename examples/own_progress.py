"""Make images from Python, report progress in your own way, stop after some of them and resume.

python examples/own_progress.py [folder]
"""

import sys
from pathlib import Path

from engine import Sampling, generate
from engine.events import Cancelled, Event, Events, ImageMade, Stepped


def main(out: Path, images_per_class: int = 2, steps: int = 10) -> None:
    wanted = {"images_per_class": images_per_class, "sampling": Sampling(steps=steps, batch=7)}

    def report(event: Event) -> None:
        """Any callable may watch: it gets every event, in order, in the thread that works."""
        match event:
            case Stepped(index=index, total=total, loss=loss) if loss is not None:
                print(f"step {index + 1} of {total}: guidance descends {loss:.3f}")
            case ImageMade(label=label, confidence=confidence):
                print(f"{label}: {confidence:.0%} sure")

    events = Events(report, losses=True)
    try:
        for number, sample in enumerate(
            generate("embedded:photo", out=out, events=events, **wanted), 1
        ):
            print(f"image {number} is on the disk: {sample.label}")
            if number == 3:
                events.cancel()  # from any thread: the run ends at its next event
    except Cancelled as stopped:
        print(stopped)

    left = list(
        generate("embedded:photo", out=out, **wanted)
    )  # makes what is missing, and nothing twice
    print(f"{len(left)} images were missing; all are in {out / 'images'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/own_progress"))
