"""The conformance checks find what is wrong: each of these plug-ins breaks one promise."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import nn

from vidattr_bench import method_checks, plugin_checks, plugins
from vidattr_bench.fixtures import small_model
from vidattr_bench.method import AttributionMethod
from vidattr_bench.metric import Measurement, Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.testing import CHECKS, check_method, check_metric, check_model


@dataclasses.dataclass(frozen=True)
class Good(AttributionMethod):
    """A plain gradient that keeps every promise."""

    reference = "Simonyan et al. 2013, arXiv:1312.6034"
    scale: float = 1.0

    def attribute(self, model, frames, targets, *extra):
        x = model.normalise(frames).requires_grad_()
        (gradient,) = torch.autograd.grad(model.logits(x).gather(1, targets[:, None]).sum(), x)
        return gradient.abs().amax(1)

    def cost(self, model, clip):
        return (1, 1)


@dataclasses.dataclass(frozen=True)
class Undocumented(Good):
    pass


@dataclasses.dataclass(frozen=True)
class Sourceless(Good):
    """A gradient that names no paper."""

    reference = ""


class Undecorated(Good):
    """A gradient with an option that is no field."""

    power: float = 2.0


@dataclasses.dataclass(frozen=True)
class TargetBlind(Good):
    """A map that is the same for all clips of a batch."""

    def attribute(self, model, frames, targets):
        return super().attribute(model, frames, targets).mean(0, keepdim=True).expand(len(frames), -1, -1, -1)


@dataclasses.dataclass(frozen=True)
class Vandal(Good):
    """A map that leaves every ReLU working in place."""

    def attribute(self, model, frames, targets):
        model.net.activation2.inplace = True
        return super().attribute(model, frames, targets)


@dataclasses.dataclass(frozen=True)
class LeavesOnError(Good):
    """A map that cleans up only where all goes well."""

    def attribute(self, model, frames, targets):
        model.net.activation2.inplace = True
        relevance = super().attribute(model, frames, targets)
        model.net.activation2.inplace = False
        return relevance


@dataclasses.dataclass(frozen=True)
class GlobalDraws(Good):
    """A map that draws from the global generator."""

    def attribute(self, model, frames, targets):
        return torch.rand(frames[:, 0].shape)

    def cost(self, model, clip):
        return (0, 0)


@dataclasses.dataclass(frozen=True)
class Seedless(GlobalDraws):
    """A stochastic map that does not look at its seeds."""

    stochastic = True

    def attribute(self, model, frames, targets, seeds):
        return frames[:, 0]


@dataclasses.dataclass(frozen=True)
class Cheap(Good):
    """A gradient that says it costs nothing."""

    def cost(self, model, clip):
        return (0, 0)


@dataclasses.dataclass(frozen=True)
class Peeping(Good):
    """A control that looks at the model."""

    informed = False


@dataclasses.dataclass(frozen=True)
class Careless(Good):
    """A gradient that says what it requires and does not ask."""

    requires = ("relu_modules",)

    def __call__(self, model, frames, targets, seeds=None, *, tubes=None):
        return Good()(model, frames, targets)


@dataclasses.dataclass(frozen=True)
class Unpicklable(Good):
    """A gradient with an option that is a function."""

    scale: object = dataclasses.field(default_factory=lambda: lambda x: x)


@dataclasses.dataclass(frozen=True)
class ModeDependent(Good):
    """A map that is another where the caller has switched gradients off."""

    def __call__(self, model, frames, targets, seeds=None, *, tubes=None):
        return super().__call__(model, frames, targets) * (1 + torch.is_grad_enabled())


@dataclasses.dataclass(frozen=True)
class Square(Good):
    """A map for square frames alone."""

    def __call__(self, model, frames, targets, seeds=None, *, tubes=None):
        return super().__call__(model, frames, targets).mT


@dataclasses.dataclass(frozen=True)
class Modifying(Good):
    """A map that normalises the frames where they lie."""

    def __call__(self, model, frames, targets, seeds=None, *, tubes=None):
        return super().__call__(model, frames.sub_(0.5), targets)


@dataclasses.dataclass(frozen=True)
class Negative(Good):
    """A map below zero whose sign nobody can take away."""

    def __call__(self, model, frames, targets, seeds=None, *, tubes=None):
        return super().__call__(model, frames, targets) - 1


BROKEN_METHODS = [
    (Undocumented, "documented"),
    (Sourceless, "documented"),
    (Undecorated, "documented"),
    (Square, "maps_have_the_clips_shape"),
    (Modifying, "input_is_not_modified"),
    (Vandal, "nothing_stays_behind"),
    (LeavesOnError, "nothing_stays_behind_after_an_error"),
    (GlobalDraws, "draws_depend_on_seeds_alone"),
    (Seedless, "draws_depend_on_seeds_alone"),
    (TargetBlind, "neighbours_do_not_matter"),
    (ModeDependent, "callers_mode_does_not_matter"),
    (Cheap, "costs_what_it_declares"),
    (Peeping, "costs_what_it_declares"),
    (Negative, "sign_is_declared"),
    (Careless, "refuses_models_that_lack_what_it_requires"),
]


def test_a_good_method_passes():
    check_method(Good())


@pytest.mark.parametrize(("broken", "check"), BROKEN_METHODS, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_method_is_found_by_its_check(broken, check):
    with pytest.raises(AssertionError):
        getattr(method_checks, check)(broken(), small_model())


def test_an_option_that_is_a_function_neither_pickles_nor_survives_its_spec():
    with pytest.raises((AssertionError, AttributeError, plugins.PluginError)):
        method_checks.can_be_pickled(Unpicklable(), small_model())
    with pytest.raises((AssertionError, plugins.PluginError)):
        method_checks.survives_its_spec(Unpicklable(), small_model())


def test_every_method_check_has_a_method_that_breaks_it():
    tried = {check for _, check in BROKEN_METHODS} | {"can_be_pickled", "survives_its_spec"}
    assert {check.__name__ for check in CHECKS["methods"]} == tried


@dataclasses.dataclass(frozen=True)
class Mass(Metric):
    """The share of the relevance that lies inside the tubes."""

    family = "localisation"
    theory: ClassVar = {"oracle": 1, "inverted_oracle": 0, "random": "|G|/N", "constant": "|G|/N"}

    def measure(self, case):
        maps = zip(case.relevance.double(), case.batch.tubes, strict=True)
        inside = [map_[tube].sum() / map_.sum() for map_, tube in maps]
        return Measurement.of([float(value) for value in inside])


@dataclasses.dataclass(frozen=True)
class Relative(Mass):
    """A mass that is relative to the largest of the batch."""

    def measure(self, case):
        found = super().measure(case)
        return dataclasses.replace(found, values=found.values / found.values.max().clamp(min=1e-9))


@dataclasses.dataclass(frozen=True)
class Silent(Mass):
    """A mass that is undefined without saying why."""

    def measure(self, case):
        return Measurement.of([float("nan")] * len(case))


@dataclasses.dataclass(frozen=True)
class Homeless(Mass):
    """A mass of no known family."""

    family = "beauty"


@dataclasses.dataclass(frozen=True)
class Clamping(Mass):
    """A mass that clamps the relevance where it lies."""

    def measure(self, case):
        case.relevance.clamp_(max=0.5)
        return super().measure(case)


@dataclasses.dataclass(frozen=True)
class Talkative(Mass):
    """A mass that sends a clip through the model and keeps it to itself."""

    def measure(self, case):
        case.forward(case.model.normalise(case.batch.frames[:1]))
        return super().measure(case)


@dataclasses.dataclass(frozen=True)
class Boastful(Mass):
    """A mass that promises more of noise than it holds."""

    theory: ClassVar = {**Mass.theory, "random": 1}


@dataclasses.dataclass(frozen=True)
class Speechless(Mass):
    """A mass that does not say what noise gets."""

    theory: ClassVar = {"oracle": 1, "inverted_oracle": 0, "constant": "|G|/N"}


@dataclasses.dataclass(frozen=True)
class Unspeakable(Mass):
    """A mass with an option that is a function."""

    power: object = dataclasses.field(default_factory=lambda: lambda x: x)


def test_a_good_metric_passes():
    check_metric(Mass())


BROKEN_METRICS = [
    (Relative, "metric_ignores_neighbours"),
    (Silent, "metric_gives_one_value_a_clip"),
    (Homeless, "metric_declares_itself"),
    (Clamping, "metric_modifies_nothing"),
    (Talkative, "metric_declares_its_forwards"),
    (Boastful, "metric_keeps_its_theory"),
    (Speechless, "metric_keeps_its_theory"),
]


@pytest.mark.parametrize(("broken", "check"), BROKEN_METRICS)
def test_a_broken_metric_is_found_by_its_check(broken, check):
    with pytest.raises(AssertionError):
        getattr(plugin_checks, check)(broken())


def test_a_metric_with_an_option_that_is_a_function_does_not_survive_its_spec():
    with pytest.raises((AssertionError, AttributeError, plugins.PluginError)):
        plugin_checks.metric_survives_its_spec(Unspeakable())


def test_every_metric_check_has_a_metric_that_breaks_it():
    tried = {check for _, check in BROKEN_METRICS} | {"metric_survives_its_spec"}
    assert {check.__name__ for check in CHECKS["metrics"]} == tried


class BatchStatistics(nn.Module):
    """A network whose logits depend on the batch."""

    def forward(self, x):
        pooled = x.mean((2, 3, 4))
        return pooled - pooled.mean(0)


class Detached(nn.Module):
    """A network that lets no gradient through."""

    def forward(self, x):
        return x.detach().mean((2, 3, 4)) + 0 * x.mean((2, 3, 4))


class DetachedState(nn.Module):
    """A recurrent network that hands its state on without its history, so that only the last frame is explained."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 3)

    def forward(self, x):
        state = x.new_zeros(len(x), 3)
        for frame in x.mean((3, 4)).unbind(2):
            state = self.cell(frame, state.detach())
        return state


def test_a_good_model_passes():
    check_model(small_model())


@pytest.mark.parametrize(
    ("net", "classes", "check"),
    [
        (BatchStatistics(), 3, "model_ignores_neighbours"),
        (Detached(), 3, "model_passes_gradients"),
        (DetachedState(), 3, "model_passes_gradients"),
        (nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten()), 4, "model_gives_logits"),
    ],
)
def test_a_broken_model_is_found_by_its_check(net, classes, check):
    model = VideoModel(net, [str(i) for i in range(classes)], input=small_model().input)
    with pytest.raises(AssertionError):
        getattr(plugin_checks, check)(model)
