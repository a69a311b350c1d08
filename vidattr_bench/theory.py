"""What theory says that control maps get on a metric, held against what it measures on clips whose evidence is known.

The clips show a bright box that moves over dim noise; the model is linear: a class's logit is proportional to the mean
brightness in the tube of that class, so that the annotated tube holds all evidence and nothing else does. Metrics that
explain again see a model that reads the brightness of the whole clip.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from vidattr_bench import randomness
from vidattr_bench.clip import Batch
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.metric import Case, Cost, Explain, Measurement, Metric
from vidattr_bench.model import ClipInput, VideoModel
from vidattr_bench.shared import Shared

_DRAWN = "random"
_TOLD = ("oracle", "inverted_oracle")
CONTROLS = (*_TOLD, _DRAWN, "constant")
SIZE = (16, 7, 14)
_BLIND = "it cannot explain another clip"
_EXACT = 1e-9
_ERRORS = 5.0


def scenes() -> Tensor:
    """Bool (3, T, H, W): the tube of each class, a moving box that is absent from the first and the last frames."""
    tubes = torch.zeros(3, *SIZE, dtype=torch.bool)
    for tube, (top, left, down, right) in zip(tubes, ((0, 9, 1, -1), (3, 0, -1, 1), (0, 5, 0, -1)), strict=True):
        for step in range(10):
            y, x = top + down * (step // 3), left + right * step // 2
            tube[3 + step, y : y + 4, x : x + 5] = True
    return tubes


class MaskReader(nn.Module):
    """A linear video model: logit k of a clip (N, 3, T, H, W) is 6 times its mean brightness in mask k.

    Args:
        masks: bool (K, T, H, W); the logit of an empty one is 0.
    """

    def __init__(self, masks: Tensor) -> None:
        super().__init__()
        weight = 6 * masks.double() / (3 * masks.sum((1, 2, 3), keepdim=True)).clamp(min=1)
        flat = weight[:, None].expand(-1, 3, -1, -1, -1).flatten(1)
        self.head = nn.Linear(flat.shape[1], len(flat), bias=False, dtype=torch.float64)
        self.head.weight.data.copy_(flat)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(x.double().flatten(1))
        return logits


def known_clips(copies: int) -> Batch:
    """`copies` clips of each scene, labelled with it; they differ in their ids, and so in every draw, and in noise."""
    tubes = scenes().repeat(copies, 1, 1, 1)
    ids = [f"scene {i % 3}, copy {i // 3}" for i in range(len(tubes))]
    noise = torch.stack([torch.rand(3, *SIZE, generator=randomness.generator(0, id, "background")) for id in ids])
    frames = 0.2 * noise + 0.7 * tubes[:, None]
    return Batch(ids, frames, torch.arange(len(ids)) % 3, tubes, torch.ones(len(ids), SIZE[0], dtype=torch.bool))


def control(name: str, batch: Batch, draw: int = 0) -> Tensor:
    """The map (N, T, H, W) of a control; `draw` counts for the random one alone."""
    maps: dict[str, Callable[[], Tensor]] = {
        "oracle": lambda: batch.tubes.float(),
        "inverted_oracle": lambda: 1 - batch.tubes.float(),
        _DRAWN: lambda: torch.stack([_noise(id, draw) for id in batch.ids]),
        "constant": lambda: torch.ones(batch.tubes.shape),
    }
    return maps[name]()


def _noise(id: str, draw: int) -> Tensor:
    return torch.rand(SIZE, generator=randomness.generator(draw, id, "random map"))


def _explain(name: str, batch: Batch) -> Explain:
    def explain(model: VideoModel, frames: Tensor, targets: Tensor, draw: int = 0) -> Tensor:
        if name in _TOLD:
            raise NotApplicableError(_BLIND)
        return control(name, batch, draw)

    return explain


def cases(copies: int) -> dict[str, Case]:
    """A case of each control on the same clips, which share what methods share; the tubes hold all evidence."""
    return _cases(known_clips(copies), scenes())


def indifferent_cases(copies: int) -> dict[str, Case]:
    """The same for a model that sees the brightness of the whole clip and one class alone, whatever is done to a clip.

    Metrics that explain changed clips leave out those whose prediction changes.
    """
    batch = known_clips(copies)
    everywhere = torch.zeros_like(scenes())
    everywhere[0] = True
    return _cases(dataclasses.replace(batch, labels=torch.zeros_like(batch.labels)), everywhere)


@functools.cache
def few_cases(explains: bool) -> dict[str, Case]:
    """As many as tests need, the same for all metrics of one kind: those that explain again are costly."""
    return indifferent_cases(2) if explains else cases(12)


def _cases(batch: Batch, masks: Tensor) -> dict[str, Case]:
    model = VideoModel(MaskReader(masks), ["a", "b", "c"], input=ClipInput(length=SIZE[0], size=SIZE[1:]))
    shared = Shared(model, batch, batch.labels, forward_batch=32, donor=lambda id: batch.frames[_donor(batch, id)])
    return {
        name: Case(
            model,
            batch,
            batch.labels,
            control(name, batch),
            shared=shared,
            cost=Cost(1.0, 1.0, 1.0, 1.0),
            explain=_explain(name, batch),
        )
        for name in CONTROLS
    }


def _donor(batch: Batch, id: str) -> int:
    return (list(batch.ids).index(id) + 1) % len(batch)


def measure(metric: Metric, found: Mapping[str, Case]) -> dict[str, Measurement]:
    """What each control gets; where a metric does not apply, it is undefined with the reason `not_applicable: why`."""
    return {name: _measure(metric, case) for name, case in found.items()}


def _measure(metric: Metric, case: Case) -> Measurement:
    try:
        return metric.measure(case)
    except NotApplicableError as error:
        return Measurement.of([f"not_applicable: {error}"] * len(case))


Quantity = Callable[[Tensor], float]
"""A number that the truth (T, H, W) of a clip alone decides."""


def _share(inside: Tensor) -> float:
    return float(inside.double().mean())


def _frame_share(inside: Tensor) -> float:
    return _share(inside.flatten(1).any(1))


def _random_precision(inside: Tensor) -> float:
    """Expected average precision of a random order: precision at rank i, where a hit, is (1 + (i-1)(G-1)/(N-1)) / i."""
    n, g = inside.numel(), int(inside.sum())
    harmonic = sum(1 / i for i in range(1, n + 1))
    return (harmonic + (g - 1) / (n - 1) * (n - harmonic)) / n


QUANTITIES: Mapping[str, Quantity] = {
    "|G|/N": _share,
    "1 - |G|/N": lambda inside: 1 - _share(inside),
    "max(0, 2 - N/|G|)": lambda inside: max(0.0, 2 - 1 / _share(inside)),
    "max(0, 2|G|/N - 1)": lambda inside: max(0.0, 2 * _share(inside) - 1),
    "|F|/t": _frame_share,
    "max(0, 2|F|/t - 1)": lambda inside: max(0.0, 2 * _frame_share(inside) - 1),
    "(H + (|G|-1)(N-H)/(N-1))/N": _random_precision,
    "log|G| / log N": lambda inside: math.log(int(inside.sum())) / math.log(inside.numel()),
}
"""What claims may name: G the voxels in the tubes, N all, F the tube frames, t all, H the sum of 1/i for i to N."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What theory says of one control: a relation to an operand, or an exact reason.

    Attributes:
        relation: =, <, >, <=, >= or undefined.
        operand: a number, a quantity, chance, an option of the metric, a control, each perhaps negative; or the reason.
    """

    relation: str
    operand: str

    @staticmethod
    def of(text: str | float) -> Claim:
        """Read a claim of `Metric.theory`."""
        if str(text).startswith("not_applicable"):
            return Claim("undefined", str(text))
        relation, operand = re.fullmatch(r"(undefined:|[<>]=?|=)? ?(.+)", str(text)).groups()  # type: ignore[union-attr]
        return Claim((relation or "=").rstrip(":"), operand)


def broken(metric: Metric, found: Mapping[str, Measurement], inside: Tensor) -> dict[str, str]:
    """The claims of a metric that its measurements of controls do not meet, with what was found instead.

    Numbers hold to 1e-9 for each clip; for random maps, and where two controls are equal, means hold within 5 standard
    errors.

    Args:
        metric: whose claims are tested.
        found: measurement by control.
        inside: bool (N, T, H, W), the tubes.
    """
    claims = {name: Claim.of(metric.theory[name]) for name in CONTROLS if name in metric.theory}
    return {
        name: _shown(found[name]) for name, claim in claims.items() if not _holds(metric, name, claim, found, inside)
    }


def _shown(measured: Measurement) -> str:
    defined = measured.values[~measured.values.isnan()].tolist()
    return f"{sum(defined) / len(defined)}" if defined else ", ".join(sorted(set(measured.reasons)))


def _holds(metric: Metric, name: str, claim: Claim, found: Mapping[str, Measurement], inside: Tensor) -> bool:
    if claim.relation == "undefined":
        return set(found[name].reasons) == {claim.operand}
    differences = found[name].values - _operand(metric, name, claim.operand, found, inside)
    differences = differences[~differences.isnan()]
    if not len(differences):
        return False
    if claim.relation == "=":
        return _is_zero(differences, in_expectation=_DRAWN in (name, claim.operand) or _control(claim.operand) in found)
    mean = float(differences.mean())
    return {"<": mean < -_EXACT, ">": mean > _EXACT, "<=": mean <= _EXACT, ">=": mean >= -_EXACT}[claim.relation]


def _is_zero(differences: Tensor, in_expectation: bool) -> bool:
    if not in_expectation:
        return bool((differences.abs() <= _EXACT).all())
    error = float(differences.std(unbiased=True)) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return abs(float(differences.mean())) <= _EXACT + _ERRORS * error


def _control(operand: str) -> str:
    return operand.removeprefix("-")


def _operand(metric: Metric, name: str, text: str, found: Mapping[str, Measurement], inside: Tensor) -> Tensor:
    """What a claim compares with, a number a clip (N,)."""
    if text.startswith("-"):
        return -_operand(metric, name, text[1:], found, inside)
    if text in found:
        return found[text].values
    if text == "chance":
        chance = found[name].chance
        assert chance is not None, f"{metric} has no chance level"
        return chance
    if text in QUANTITIES:
        return torch.tensor([QUANTITIES[text](tube) for tube in inside], dtype=torch.float64)
    fields = {field.name for field in dataclasses.fields(metric)}
    try:
        number = float(getattr(metric, text)) if text in fields else float(text)
    except ValueError:
        known = ", ".join([*QUANTITIES, "chance", *found, *sorted(fields)])
        raise ValueError(f"theory of {name} names {text!r}, which is neither a number nor one of {known}") from None
    return torch.full((len(inside),), number, dtype=torch.float64)
