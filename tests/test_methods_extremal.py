"""Mask optimisation: TorchRay's and STEP's equations written out, shuffled ties, and a network that reads one block."""

import functools
import importlib
import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vidattr_bench.errors import PluginError
from vidattr_bench.fixtures import explain, small_batch, small_model
from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.plugins import create, label, load

# Nine frames of 14 x 21 pixels, 2 x 3 parameters a frame, 7 pixels apart, each reaching 11 pixels: STEP's geometry.
T, H, W, STEP, SIGMA = 9, 14, 21, 7, 11
AREAS = (0.1, 0.3)
GEOMETRY = f'areas="{list(AREAS)}",blur={20 * 112 / W},grid=3,sigma={SIGMA * 112 / W}'

extremal = importlib.import_module("vidattr_bench.methods._extremal")
smooth_max = importlib.import_module("vidattr_bench.methods._smooth_max")
step = importlib.import_module("vidattr_bench.methods.step")


@functools.cache
def points_around(size, grid, spacing, sigma):
    """For every pixel of the padded mask: numbers of the points around it (the last is a zero) and their weights."""
    radius, padding = 1 + math.ceil(sigma / spacing), 1 + math.ceil(2 * sigma / spacing)
    numbers, weights = [], []
    for y, x in itertools.product(range(size[0] + 2 * sigma), range(size[1] + 2 * sigma)):
        for ky, kx in itertools.product(range(2 * radius + 1), repeat=2):
            iy, ix = y // spacing + ky - padding, x // spacing + kx - padding
            inside = 0 <= iy < grid[0] and 0 <= ix < grid[1]
            distance = math.hypot(y - sigma - spacing * iy, x - sigma - spacing * ix)
            numbers.append(iy * grid[1] + ix if inside else grid[0] * grid[1])
            weights.append(math.exp(-2 * max(0, distance / sigma - 0.5) ** 2))
    shape = (size[0] + 2 * sigma, size[1] + 2 * sigma, -1)
    return torch.tensor(numbers).view(shape), torch.tensor(weights, dtype=torch.float64).view(shape)


def written_out_masks(parameters, size=(H, W), spacing=STEP, sigma=SIGMA):
    """Every pixel of the padded mask from the points around it: Fong et al. 2019, equation 4, as TorchRay places it."""
    numbers, weights = points_around(size, tuple(parameters.shape[-2:]), spacing, sigma)
    points = nn.functional.pad(parameters.flatten(-2), (0, 1))
    a = weights * points[..., numbers]
    return (a * (20 * a).softmax(-1)).sum(-1)


def written_out_clip(x, masks, strongest=20):
    """The clip at every mask's strength of blur: eight levels, each a convolution with a Gaussian among zeros."""
    levels = []
    for level in range(8):
        sigma = strongest * (1 - level / 7)
        reach = math.ceil(4 * sigma)
        offsets = torch.arange(-reach, reach + 1, dtype=x.dtype)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2 + 1e-30))
        kernel /= kernel.sum()
        frames = x.flatten(0, 1)[:, None]
        frames = nn.functional.conv2d(frames, kernel[None, None, :, None], padding=(reach, 0))
        frames = nn.functional.conv2d(frames, kernel[None, None, None, :], padding=(0, reach))
        levels.append(frames.view_as(x))
    levels.append(levels[-1])
    pyramid, height = torch.stack(levels), 7 * masks
    blended = []
    for level in range(8):
        share = height - level
        between = pyramid[level] * (1 - share[:, None]) + pyramid[level + 1] * share[:, None]
        blended.append(between * (height.floor() == level)[:, None])
    return sum(blended)


def written_out_area_loss(mask, area):
    flat = mask.flatten()
    reference = torch.ones_like(flat)
    reference[: int(len(flat) * (1 - area))] = 0
    return ((flat.sort().values - reference) ** 2).mean()


def written_out_core_loss(mask, area, size):
    """The mean of the mask in an ellipsoid at every place where its box fits, by loops."""
    t, h, w = size
    inside = torch.zeros(size, dtype=torch.bool)
    for place in itertools.product(range(t), range(h), range(w)):
        inside[place] = sum((2 * i / (n - 1) - 1) ** 2 for i, n in zip(place, size, strict=True)) <= 1 + 1e-9
    responses = []
    for k in range(mask.shape[0] - t + 1):
        for y in range(0, mask.shape[1] - h + 1, h):
            for x in range(0, mask.shape[2] - w + 1, w):
                responses.append(mask[k : k + t, y : y + h, x : x + w][inside].mean())
    ordered = torch.stack(responses).sort(descending=True).values
    top = math.ceil(area * mask.numel() / (t * h * w * 0.5236))
    return ((ordered[:top] - 1) ** 2).mean() + (ordered[top:] ** 2).mean()


def written_out_descent(model, x, target, start, steps, core_start=None):
    """SGD with momentum and dampening .9, as torch defines them: the first velocity is the gradient itself."""
    parameters, velocity = start.clone(), None
    for done in range(steps):
        parameters.requires_grad_()
        padded = written_out_masks(parameters)
        clips = written_out_clip(x, padded[..., SIGMA : SIGMA + H, SIGMA : SIGMA + W])
        loss = -model.net(clips).softmax(1)[:, target].log().sum()
        for mask, area in zip(padded, AREAS, strict=True):
            loss = loss + 300 * 1.0008668**done * written_out_area_loss(mask, area)
            if core_start is not None and done >= core_start:
                loss = loss + 300 * written_out_core_loss(mask, area, (8, 11, 11))
        (gradient,) = torch.autograd.grad(loss, parameters)
        velocity = gradient if velocity is None else 0.9 * velocity + 0.1 * gradient
        parameters = (parameters.detach() - 0.05 * velocity).clamp(0, 1)
    return parameters


@pytest.fixture
def model() -> VideoModel:
    """In double precision, where no voxel changes sides of a threshold by rounding."""
    return small_model().double()


@pytest.fixture
def x(model):
    return model.normalise(small_batch(1, (T, H, W)).frames.double())[0]


@pytest.fixture
def start():
    """Parameters without ties, whose order a sort would have to invent."""
    return torch.rand(len(AREAS), T, 2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize(("size", "spacing", "sigma"), [((H, W), STEP, SIGMA), ((10, 17), 4, 6), ((9, 8), 2, 3)])
@pytest.mark.parametrize("padded", [True, False])
def test_masks_are_the_smooth_maximum_written_out(size, spacing, sigma, padded):
    generator = smooth_max.MaskGenerator(size, spacing, sigma, padded)
    parameters = torch.rand(2, *generator.grid, dtype=torch.float64)
    expected = written_out_masks(parameters, size, spacing, sigma)
    if not padded:
        expected = expected[:, sigma : sigma + size[0], sigma : sigma + size[1]]
    torch.testing.assert_close(generator(parameters), expected)


def test_the_weights_are_converted_once():
    class Copies(TorchDispatchMode):
        names = ()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names += (func.overloadpacket,)
            return func(*args, **kwargs or {})

    for _ in range(2):
        generator = smooth_max.MaskGenerator((H, W), STEP, SIGMA)
        with Copies() as copies:
            generator(torch.zeros(1, *generator.grid))
    assert torch.ops.aten.exp in copies.names
    assert torch.ops.aten._to_copy not in copies.names


def test_gradient_of_the_smooth_maximum():
    generator = smooth_max.MaskGenerator((5, 6), 2, 3, True)
    parameters = torch.rand(1, *generator.grid, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(generator, (parameters,))


def test_the_pyramid_is_written_out(x):
    masks = torch.rand(3, T, H, W, dtype=torch.float64)
    masks[0, :2], masks[1, :2] = 0, 1
    torch.testing.assert_close(extremal.BlurPyramid(x, 20.0).apply(masks), written_out_clip(x, masks))
    torch.testing.assert_close(extremal.BlurPyramid(x, 20.0).apply(torch.ones_like(masks))[1], x)


@pytest.mark.parametrize("area", [0.05, 0.1, 0.5])
def test_the_area_loss_needs_no_sort(area):
    mask = torch.rand(1, 5, 6, 7, dtype=torch.float64, requires_grad=True)
    found, expected = extremal.area_loss(mask, (area,)), written_out_area_loss(mask[0], area)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, mask), torch.autograd.grad(expected, mask))


def test_ties_get_the_mean_gradient_over_all_orders():
    values = torch.tensor([0.5, 0.2, 0.5, 0.9, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    gradients = []
    for order in itertools.permutations(range(6)):
        loss = written_out_area_loss(values[list(order)], 0.4)
        gradients.append(torch.autograd.grad(loss, values)[0])
    found = torch.autograd.grad(extremal.area_loss(values.view(1, 1, 2, 3), (0.4,)), values)[0]
    torch.testing.assert_close(found, torch.stack(gradients).mean(0))


def test_the_core_loss_is_written_out():
    masks = torch.rand(2, T, 24, 35, dtype=torch.float64, requires_grad=True)
    found = step.core_loss(masks, AREAS, step.ellipsoid(4, 11, 11).double())
    expected = sum(written_out_core_loss(mask, area, (4, 11, 11)) for mask, area in zip(masks, AREAS, strict=True))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, masks), torch.autograd.grad(expected, masks))


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_the_descent_is_written_out(steps, model, x, start):
    method = create("methods", f"extremal_perturbation:iterations={steps},{GEOMETRY}")
    found = method.descend(model, x, torch.tensor(2), method.generator((H, W)), start)
    torch.testing.assert_close(found, written_out_descent(model, x, 2, start, steps), rtol=1e-4, atol=1e-4)


def test_the_descent_of_step_is_written_out(model, x, start):
    method = create("methods", f"step:core_start=1,iterations=3,{GEOMETRY}")
    found = method.descend(model, x, torch.tensor(2), method.generator((H, W)), start)
    torch.testing.assert_close(found, written_out_descent(model, x, 2, start, 3, 1), rtol=1e-4, atol=1e-4)


def test_the_map_is_the_blurred_sum_of_the_last_masks_from_ones(model, x):
    batch = small_batch(1, (T, H, W))
    method = create("methods", f"extremal_perturbation:iterations=1,{GEOMETRY}")
    masks = method.masks(model, x, batch.labels[0])
    ones = torch.ones(len(AREAS), T, 2, 3, dtype=torch.float64)
    parameters = method.descend(model, x, batch.labels[0], method.generator((H, W)), ones)
    expected = written_out_masks(parameters)[..., SIGMA : SIGMA + H, SIGMA : SIGMA + W]
    torch.testing.assert_close(masks, expected)
    blurred = importlib.import_module("vidattr_bench.substrates").gaussian_blur(
        expected.sum(0)[None], (0, 10 * H / 112, 10 * H / 112)
    )
    relevance = explain(method, model, small_batch(1, (T, H, W)))
    torch.testing.assert_close(relevance, blurred.float(), rtol=1e-4, atol=1e-4)


class OneBlock(nn.Module):
    """Reads nothing but the mean of one block: frames 2 to 5, rows 8 to 15, columns 16 to 27."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        evidence = 8 * x[:, :, 2:6, 8:16, 16:28].mean((1, 2, 3, 4))
        return torch.stack([evidence, torch.full_like(evidence, 4)], 1)


@pytest.mark.parametrize("name", ["extremal_perturbation", "step"])
def test_the_preserved_area_lands_on_the_block_that_the_network_reads(name):
    model = VideoModel(OneBlock(), ["seen", "not seen"])
    frames = torch.zeros(1, 3, 8, 24, 40)
    frames[:, :, 2:6, 8:16, 16:28] = 1
    start = ",core_start=5" if name == "step" else ""
    method = create("methods", f'{name}:areas="[0.1]",grid=10,iterations=60,rate=0.3{start}')
    inside = torch.zeros(8, 24, 40, dtype=torch.bool)
    inside[2:6, 8:16, 16:28] = True
    with torch.enable_grad():
        mask = method.masks(model, frames[0], torch.tensor(0))[0]
    assert mask[inside].mean() > 0.8
    assert mask[~inside].mean() < 0.25 * mask[inside].mean()
    relevance = method(model, frames, torch.tensor([0]))[0]
    assert inside.flatten()[relevance.argmax()]


@pytest.mark.parametrize("region", ["frame", "padded"])
def test_masks_reach_their_areas(region):
    batch, model = small_batch(1, (6, 28, 42)), small_model()
    method = create("methods", f"extremal_perturbation:grid=12,iterations=120,rate=0.2,region={region}")
    generator = method.generator((28, 42))
    with torch.enable_grad():
        start = torch.ones(4, 6, *generator.grid)
        parameters = method.descend(model, model.normalise(batch.frames)[0], batch.labels[0], generator, start)
        masks = extremal._generate(generator, parameters)
    torch.testing.assert_close(masks.mean((1, 2, 3)), torch.tensor(method.areas), rtol=0.1, atol=0.02)


def test_step_makes_blobs():
    """With the core loss, fewer voxels than without it differ from their neighbour in the next frame."""
    batch, model = small_batch(1, (12, 24, 40)), small_model()
    changes = []
    for spec in ("extremal_perturbation:", "step:core_start=5,"):
        method = create("methods", f'{spec}areas="[0.1]",grid=10,iterations=40,rate=0.3')
        with torch.enable_grad():
            mask = method.masks(model, model.normalise(batch.frames)[0], batch.labels[0])[0]
        changes.append(float(mask.diff(dim=0).abs().mean() / mask.mean()))
    assert changes[1] < 0.8 * changes[0]


@pytest.mark.parametrize(
    "spec",
    [
        "extremal_perturbation:iterations=0",
        'extremal_perturbation:areas="[0.1,1]"',
        'extremal_perturbation:areas="[]"',
        "extremal_perturbation:rate=0",
        "step:iterations=100",
        "step:core_frames=0",
    ],
)
def test_settings_without_meaning_are_refused(spec):
    with pytest.raises(PluginError, match="cannot configure"):
        create("methods", spec)


@pytest.mark.parametrize("name", ["extremal_perturbation", "step"])
def test_the_papers_settings_are_the_defaults_and_a_budget_shows(name):
    paper: AttributionMethod = create("methods", name)
    assert paper.cost(small_model(), small_batch(1).frames[0]) == (4800, 4800)
    (budget,) = load("methods", name).variants
    assert "iterations=10" in label("methods", create("methods", f"{name}:{budget}"))
