"""What each way of running a phase takes, counted once, and the cheapest of those that fit into a budget."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from diffusers import AutoencoderKL

from engine.memory.case import Case
from engine.memory.phases import Counted
from engine.memory.residence import bytes_on_device, offloads
from engine.memory.search import largest_that
from engine.memory.subject import Subject, weights_bytes
from engine.memory.timeline import Counts
from engine.priors.interface import Role
from engine.priors.vae import downscale

LEAST_TILE = 4
"""Smaller tiles, in latents, would be all overlap."""
USABLE = 0.95
"""The share of a budget that is planned for; see `plan`."""
CUBLAS_BYTES = 2 * 32 * 2**20
"""What torch holds for cuBLAS at most: 32 MiB (its default on Hopper, 8 MiB before) for each of two threads, forward's
and backward's."""
FLOPS_A_SECOND, BYTES_A_SECOND, SECONDS_AN_OPERATOR = 5e13, 1e10, 1e-5
"""Orders of magnitude of a GPU in half precision, its bus, and a launch: they rank plans, and predict no time."""
PHASES = ("text", "sampling", "guidance", "decode", "polish")
LEARNING = ("cat", "rows")
"""The phases that learning tokens adds: a gradient by the prompts' context, and from there by the tokens' rows."""
PLAIN = (False, False)
WAYS = {
    "guidance": (PLAIN, (True, False)),
    "cat": (PLAIN, (False, True), (True, False), (True, True)),
}
"""(checkpoint, staged) of the phases whose gradient can save memory: the cheapest way first, the leanest last."""
_counts: dict[Hashable, Counts] = {}


@dataclass(frozen=True)
class Choice:
    """A way to run every phase. cost: seconds a batch, as the constants above make them."""

    cases: dict[str, Case]
    offload: tuple[str, ...]
    cost: float


class Costs:
    """The cases of one request: `images` sampled together in `steps` steps. Counts are made when asked for.

    learning: whether the phases of token learning have to fit as well.
    """

    def __init__(
        self,
        subject: Subject,
        device: torch.device,
        images: int,
        steps: int,
        learning: bool = False,
    ) -> None:
        idle = {"guidance"} if subject.alignment is None else set[str]()
        idle |= set() if subject.polish.steps else {"polish"}
        self.phases = tuple(phase for phase in PHASES if phase not in idle)
        self.phases += LEARNING if learning else ()
        self.subject = subject
        self.device = device
        self.images = images
        self.steps = steps
        self.learning = learning
        self._tile = 0
        self._counts = _counts.setdefault(subject.identity, Counts())

    def of(self, subject: Subject) -> "Costs":
        """The same request of other models."""
        return Costs(subject, self.device, self.images, self.steps, self.learning)

    @property
    def tile(self) -> int:
        """Side in latents of the tiles in which the full VAE may decode: half an image's, or 0 where that is small."""
        prior = self.subject.prior
        if not isinstance(prior.vae, AutoencoderKL):
            return 0
        half = min(prior.image_size) // downscale(prior.vae) // 2
        return half if half >= LEAST_TILE else 0

    @cached_property
    def weights(self) -> dict[str, int]:
        """Bytes of each network's parameters and buffers; what two share counts once."""
        seen = set[int]()
        networks = self.subject.networks()
        return {name: weights_bytes(network, seen) for name, network in networks.items()}

    @cached_property
    def _roles(self) -> dict[str, Role]:
        return {part.name: part.role for part in self.subject.prior.components()}

    def counted(self, case: Case) -> Counted:
        return self._counts.of(self.subject, case)

    def peak(self, case: Case, offload: tuple[str, ...]) -> int:
        """The predicted peak of a case in bytes, with the weights that are then on the device."""
        weights = bytes_on_device(case.phase, self.weights, self._roles, offload)
        workspaces = CUBLAS_BYTES if self.device.type == "cuda" else 0
        return weights + self.counted(case).peak_bytes + workspaces

    def cheapest(self, budget: int) -> Choice | None:
        """The cheapest way that keeps within a budget, None if there is none."""
        # Tiles are seen in images, so whole ones go first whatever they cost.
        for tile in (0, self.tile):
            self._tile = tile
            choices = [
                choice
                for offload in offloads(self.subject, self.device)
                if (choice := self._choice(budget, offload))
            ]
            if choices or not self.tile:
                break
        return min(choices, key=lambda choice: choice.cost, default=None)

    def learning_cases(self, budget: int, offload: tuple[str, ...]) -> dict[str, tuple[Case, bool]]:
        """The cheapest case of each phase of token learning, or the leanest where none fits; and whether it fits."""
        best = {phase: self._best(phase, budget, offload) for phase in LEARNING}
        return {
            phase: (case or self._leanest(phase), case is not None) for phase, case in best.items()
        }

    def smallest(self) -> int:
        """The smallest budget that can be met."""
        offload = max(offloads(self.subject, self.device), key=len)
        whole = {p: self.peak(Case(p, self.images, self.images), offload) for p in self.phases}
        peak = 0
        for phase in sorted(whole, key=lambda phase: whole[phase], reverse=True):
            if whole[phase] > peak:  # else another phase decides
                peak = max(peak, self.peak(self._leanest(phase), offload))
        return int(peak / USABLE) + 1

    def largest_batch(self, budget: int, offload: tuple[str, ...]) -> int:
        """The most images that pass every phase of sampling undivided and without checkpointing; 0 if not one does."""
        limit = int(USABLE * budget)

        def fits(phase: str, images: int) -> bool:
            return self.peak(Case(phase, images, images), offload) <= limit

        # A phase that takes the whole batch takes fewer images, and only the others bound the number.
        scarce = [p for p in self.phases if self.images > 1 and not fits(p, self.images)]
        bounding = scarce or self.phases
        if not all(fits(phase, 2) for phase in bounding):
            return int(all(fits(phase, 1) for phase in self.phases))
        bounds = {phase: self._largest_part(phase, limit, offload) for phase in bounding}
        found = min(bounds.values())
        # The scarcest phase first: the others mostly fit at once.
        for phase in sorted(bounds, key=lambda phase: bounds[phase]):
            found = largest_that(partial(fits, phase), found)
        return found

    def _largest_part(self, phase: str, limit: int, offload: tuple[str, ...]) -> int:
        """An upper bound: where a line through two peaks, of two images and of more, reaches the limit.

        Peaks are convex in the number of images, as the highest of many straight lines: beyond its two points the line
        lies below them. The second point is the batch, which is counted anyway; where it does not fit, it is the bound.
        """
        more = max(3, self.images)
        low, high = (self.peak(Case(phase, images, images), offload) for images in (2, more))
        if high > limit:
            return more - 1
        return 2 + (limit - low) * (more - 2) // max(1, high - low)

    def _choice(self, budget: int, offload: tuple[str, ...]) -> Choice | None:
        cases: dict[str, Case] = {}
        for phase in self.phases:
            best = self._best(phase, budget, offload)
            if best is None:
                return None
            cases[phase] = best
        moved = 2 * sum(self.weights[part] for part in offload) / BYTES_A_SECOND
        return Choice(cases, offload, moved + sum(self._cost(case) for case in cases.values()))

    def _best(self, phase: str, budget: int, offload: tuple[str, ...]) -> Case | None:
        one, whole = (self._case(phase, part) for part in (1, self.images))
        # Learning seldom fits whole, and never where one image does not.
        tried = (one, whole) if phase in LEARNING and phase in WAYS else (whole,)
        if all(self.peak(case, offload) <= USABLE * budget for case in tried):
            return whole
        cases: list[Case] = []
        for way in WAYS.get(phase, (PLAIN,)):
            cases += self._largest(phase, way, budget, offload)
            if cases and cases[-1].part == self.images:
                break  # in one piece, the ways behind it only cost more
        return min(cases, key=self._cost, default=None)

    def _largest(
        self, phase: str, way: tuple[bool, bool], budget: int, offload: tuple[str, ...]
    ) -> list[Case]:
        """The case with the largest parts that fit, parts of nearly equal size; none where one image does not."""
        one, whole = (self._case(phase, part, *way) for part in (1, self.images))
        limit = USABLE * budget
        if self.peak(one, offload) > limit:
            return []
        if self.peak(whole, offload) <= limit:
            return [whole]
        lowest, highest = self.peak(one, offload), self.peak(whole, offload)
        # Peaks are convex in the size of a part, so the straight line lies above them: what it allows, fits.
        part = 1 + int((limit - lowest) * (self.images - 1) / (highest - lowest))
        return [self._case(phase, -(-self.images // -(-self.images // part)), *way)]

    def _case(self, phase: str, part: int, checkpoint: bool = False, staged: bool = False) -> Case:
        tile = self._tile if phase == "decode" else 0
        return Case(phase, self.images, part, checkpoint, tile, staged)

    def _leanest(self, phase: str) -> Case:
        tile = self.tile if phase == "decode" else 0
        ways = WAYS.get(phase, (PLAIN,))[-2:]
        cases = [Case(phase, self.images, 1, way[0], tile, way[1]) for way in ways]
        return min(cases, key=lambda case: self.counted(case).peak_bytes)

    def _cost(self, case: Case) -> float:
        count = self.counted(case)
        subject = self.subject
        times = {
            "sampling": self.steps,
            "guidance": self.steps * subject.moves,
            "polish": subject.polish.steps,
        }
        flops = count.flops * case.images / case.part
        return times.get(case.phase, 1) * (
            flops / FLOPS_A_SECOND + count.operators * count.parts * SECONDS_AN_OPERATOR
        )
