"""What the base class promises for every method: clones, modes, restoration, resizing, refusals."""

import dataclasses

import pytest
import torch
from torch import nn

from vidattr_bench.errors import NotApplicableError, PluginError
from vidattr_bench.fixtures import explain, small_batch, small_model
from vidattr_bench.method import AttributionMethod, hook_tables
from vidattr_bench.plugins import create


@dataclasses.dataclass(frozen=True)
class Given(AttributionMethod):
    """Puts out what the test gives it: a tensor, or what a function of the arguments of `attribute` returns."""

    native: object = None

    def attribute(self, model, frames, targets, *extra):
        return self.native(model, frames, targets, *extra) if callable(self.native) else self.native


@dataclasses.dataclass(frozen=True)
class Nearest(Given):
    """The same, enlarged without interpolation."""

    interpolation = "nearest"


@dataclasses.dataclass(frozen=True)
class Stochastic(Given):
    """The same, with seeds."""

    stochastic = True


@dataclasses.dataclass(frozen=True)
class Truth(Given):
    """The same, with the tubes."""

    needs_truth = True


@dataclasses.dataclass(frozen=True)
class Demanding(Given):
    """The same, for models that nobody has heard of."""

    requires = ("relu_module",)


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def batch():
    return small_batch(2)


@pytest.mark.parametrize("size", [(3, 5, 7), (6, 20, 28), (1, 1, 1)])
def test_native_maps_are_enlarged_with_aligned_cells(model, batch, size):
    native = torch.rand(2, *size)
    found = explain(Given(native), model, batch)
    expected = nn.functional.interpolate(native[:, None], (6, 20, 28), mode="trilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found, expected)
    assert found.data_ptr() != native.data_ptr()


def test_nearest_keeps_the_native_values(model, batch):
    native = torch.rand(2, 3, 5, 7)
    found = explain(Nearest(native), model, batch)
    torch.testing.assert_close(found, native.repeat_interleave(2, 1).repeat_interleave(4, 2).repeat_interleave(4, 3))


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 3, 5, 7), (2, 1, 3, 5, 7)])
def test_a_map_of_the_wrong_shape(model, batch, shape):
    with pytest.raises(ValueError, match=r"Given.attribute gave .* must be \(N, t, h, w\) with N = 2"):
        explain(Given(torch.zeros(shape)), model, batch)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_names_its_clip(model, batch, bad):
    native = torch.zeros(2, 3, 5, 7)
    native[1, 2, 3, 4] = bad
    with pytest.raises(FloatingPointError, match=r"clips \[1\]"):
        explain(Given(native), model, batch)


@pytest.mark.parametrize(
    ("frames", "targets"), [((3, 6, 20, 28), (2,)), ((2, 3, 6, 20, 28), (3,)), ((2, 3, 6, 20, 28), ())]
)
def test_frames_and_targets_of_the_wrong_shape(model, frames, targets):
    with pytest.raises(ValueError, match="targets"):
        Given()(model, torch.zeros(frames), torch.zeros(targets, dtype=torch.long))


def test_a_method_works_on_clones(model, batch):
    def vandal(model, frames, targets):
        frames.zero_()
        targets.fill_(-1)
        return frames[:, 0]

    before = small_batch(2)
    explain(Given(vandal), model, batch)
    assert torch.equal(batch.frames, before.frames)
    assert torch.equal(batch.labels, before.labels)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_gradients_exist_in_every_mode_of_the_caller(model, mode):
    with mode():
        relevance = explain(create("methods", "gradient"), model, small_batch(2))
    assert relevance.flatten(1).any(1).all()
    assert not relevance.requires_grad
    assert not relevance.is_inference()


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("fails", [False, True])
def test_whatever_a_method_does_to_the_model_is_undone(model, batch, fails):
    kept = model.net.conv1.register_forward_hook(lambda module, args, output: None, with_kwargs=False)

    def vandal(model, frames, targets):
        model.net.conv1._forward_hooks.clear()
        for module in model.net.modules():
            module.register_forward_hook(lambda module, args, output: None)
            module.register_forward_pre_hook(lambda module, args, kwargs: None, with_kwargs=True)
            module.register_full_backward_hook(lambda module, gradient, signal: None)
            nn.Module.train(module)
        for parameter in model.parameters():
            parameter.requires_grad_()
        model(frames).sum().backward()
        assert model.net.head.weight.grad is not None
        if fails:
            raise RuntimeError("half-way")
        return frames[:, 0]

    with pytest.raises(RuntimeError, match="half-way") if fails else torch.enable_grad():
        explain(Given(vandal), model, batch)
    hooks = [list(table) for module in model.modules() for table in hook_tables(module) if table]
    assert hooks == [[kept.id]]
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


def test_stochastic_methods_get_one_seed_a_clip(model, batch):
    native = Stochastic(lambda model, frames, targets, seeds: torch.tensor(seeds).float()[:, None, None, None])
    found = native(model, batch.frames, batch.labels, [3, 5])
    assert found.flatten(1).unique(dim=1).flatten().tolist() == [3, 5]
    for seeds in (None, [1], [1, 2, 3]):
        with pytest.raises(ValueError, match="one seed a clip"):
            native(model, batch.frames, batch.labels, seeds)


def test_only_the_oracle_gets_the_tubes(model, batch):
    truth = Truth(lambda model, frames, targets, tubes: tubes.float())
    assert torch.equal(truth(model, batch.frames, batch.labels, tubes=batch.tubes), batch.tubes.float())
    with pytest.raises(ValueError, match="needs the tubes"):
        truth(model, batch.frames, batch.labels)
    blind = Given(lambda model, frames, targets: frames[:, 0])
    blind(model, batch.frames, batch.labels, tubes=batch.tubes)


def test_an_unknown_requirement_names_the_known_ones(model, batch):
    with pytest.raises(PluginError, match="did you mean relu_modules"):
        explain(Demanding(), model, batch)


def test_a_requirement_is_found_out_once_a_clip_size(model):
    method = create("methods", "deconvnet")
    forwards = []
    model.net.conv1.register_forward_hook(lambda module, args, output: forwards.append(len(output)))
    for size, known in (((6, 20, 28), False), ((6, 20, 28), True), ((5, 16, 24), False)):
        forwards.clear()
        explain(method, model, small_batch(2, size))
        assert forwards[-1] == 2
        assert set(forwards[:-1]) == (set() if known else {1})
    assert (model.calls.forwards, model.calls.backwards) == (6, 6)


def test_not_applicable_beats_a_map_of_another_kind(batch):
    with pytest.raises(NotApplicableError, match="GELU"):
        explain(create("methods", "deconvnet"), small_model(nn.GELU), batch)


def test_the_network_alone_follows_the_callers_autocast():
    model, batch, seen = small_model(), small_batch(2), []
    with (
        model.net.conv2.register_forward_hook(lambda module, args, output: seen.append(output.dtype)),
        torch.autocast("cpu", torch.bfloat16),
    ):
        relevance = explain(create("methods", "gradient"), model, batch)
        sums = batch.frames[:, 0].flatten(1) @ batch.frames[:, 0].flatten(1).T
    assert set(seen) == {torch.bfloat16}
    assert relevance.dtype == torch.float32
    assert sums.dtype == torch.bfloat16
