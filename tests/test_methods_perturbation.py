"""Perturbation methods: closed forms, Captum, and slow transcriptions of the papers' equations."""

import importlib
import math

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidattr_bench import substrates
from vidattr_bench.errors import NotApplicableError, PluginError
from vidattr_bench.fixtures import CLASSES, as_model, explain, small_batch, small_model
from vidattr_bench.flow import optical_flow
from vidattr_bench.plugins import create

T, H, W = 6, 20, 28


def helper(name):
    return importlib.import_module(f"vidattr_bench.methods.{name}")


class LinearNet(nn.Module):
    """Logits = weight . x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(CLASSES), 3, T, H, W))

    def forward(self, x):
        return torch.einsum("ncthw,kcthw->nk", x, self.weight)


class ConstantNet(nn.Module):
    """The same logits for every clip."""

    def forward(self, x):
        return torch.arange(5.0).expand(len(x), -1) + 0 * x.sum()


class MotionNet(nn.Module):
    """Class k's logit is how much frame k + 1 differs from frame k."""

    def forward(self, x):
        return 20 * x.diff(dim=2).abs().mean((1, 3, 4))[:, :5]


@pytest.fixture
def batch():
    return small_batch(3)


def black(model):
    return model.normalise(torch.zeros(1, 3, 1, 1, 1))


def assert_close(found, expected, tolerance=1e-4):
    """Equal but for `tolerance` of the largest value: drops are differences of large scores."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


# Occlusion


def windows(length, size, stride):
    """Where windows begin and end on an axis; the first one covers its first `stride` indices."""
    start = stride - size
    while start < length:
        yield max(start, 0), min(start + size, length)
        start += stride


def test_occlusion_of_a_linear_model_is_the_mean_share_of_its_windows(batch):
    model = as_model(LinearNet)
    difference = model.normalise(batch.frames) - black(model)
    share = (difference * model.net.weight[batch.labels]).sum(1)
    total, count = torch.zeros_like(share), torch.zeros(T, H, W)
    for t0, t1 in windows(T, 4, 3):
        for h0, h1 in windows(H, 6, 3):
            for w0, w1 in windows(W, 8, 4):
                inside = (..., slice(t0, t1), slice(h0, h1), slice(w0, w1))
                total[inside] += share[inside].sum((1, 2, 3))[:, None, None, None]
                count[inside] += 1
    method = create("methods", "occlusion:size=0.3,frame_stride=3,substrate=black")
    assert_close(explain(method, model, batch), total / count)


@pytest.mark.parametrize("score", ["logit", "prob"])
def test_occlusion_without_overlap_is_captums(batch, score):
    model = small_model()
    x, fill = model.normalise(batch.frames), black(model)

    def scores(x):
        return model.net(x).softmax(1) if score == "prob" else model.net(x)

    expected = captum.attr.Occlusion(scores).attribute(
        x, (3, 2, 5, 7), strides=(3, 2, 5, 7), baselines=fill.expand_as(x).contiguous(), target=batch.labels
    )
    spec = f"occlusion:frames=2,frame_stride=2,stride=1,substrate=black,score={score}"
    found = explain(create("methods", spec), model, batch)
    assert_close(found, expected[:, 0])


def test_occlusion_by_overlapping_windows_is_captums_on_the_padded_clip(batch):
    """Captum's first window starts at the border: as many voxels as a window reaches over it are padded."""
    model = small_model()
    size, stride = (4, 5, 7), (2, 2, 4)
    margin = [s - step for s, step in zip(size, stride, strict=True)]
    padding = [m for m in reversed(margin) for _ in range(2)]
    inside = (..., *(slice(m, m + length) for m, length in zip(margin, (T, H, W), strict=True)))
    x = model.normalise(batch.frames)
    expected = captum.attr.Occlusion(lambda padded: model.net(padded[inside])).attribute(
        F.pad(x, padding), (3, *size), strides=(3, *stride), target=batch.labels
    )[:, 0][inside]
    found = explain(create("methods", "occlusion"), model, batch)
    assert_close(found, expected)


@pytest.mark.parametrize(("length", "size", "stride"), [(16, 4, 2), (15, 6, 3), (7, 4, 1), (5, 5, 5)])
def test_every_index_lies_in_as_many_windows(length, size, stride):
    cover = helper("occlusion")._cover(length, size, stride)
    assert (cover.sum(0) == size // stride).all()


@pytest.mark.parametrize("options", ["frames=0", "frames=2", "stride=1.5", "stride=0", "size=2"])
def test_occlusion_refuses_windows_that_leave_gaps(options):
    with pytest.raises(PluginError, match="occlusion"):
        create("methods", f"occlusion:frame_stride=3,{options}")


# RISE


def drawn_masks(n, seed, cells=(4, 7, 7), p=0.5):
    """Petsiuk et al., section 3.2, literally: enlarge each grid as a volume to (cells + 1) whole cells, then crop."""
    draws = torch.Generator().manual_seed(seed)
    grids = (torch.rand(n, *cells, generator=draws) < p).float()
    sides = [math.ceil(length / k) for length, k in zip((T, H, W), cells, strict=True)]
    shifts = [torch.randint(side, (n,), generator=draws) for side in sides]
    size = [(k + 1) * side for k, side in zip(cells, sides, strict=True)]
    masks = []
    for i in range(n):
        large = F.interpolate(grids[i][None, None], size, mode="trilinear", align_corners=False)[0, 0]
        crop = [slice(int(s[i]), int(s[i]) + length) for s, length in zip(shifts, (T, H, W), strict=True)]
        masks.append(large[tuple(crop)])
    return masks


@pytest.mark.parametrize("score", ["prob", "logit"])
def test_rise_is_the_papers_sum(batch, score):
    model, seed, n = small_model(), 5, 11
    x, c = model.normalise(batch.frames)[1], int(batch.labels[1])
    expected, masks = torch.zeros(T, H, W), drawn_masks(n, seed)
    for mask in masks:
        logits = model.net((x * mask)[None])[0]
        expected += (logits.softmax(0)[c] if score == "prob" else logits[c]) * mask
    rise = create("methods", f"rise:masks={n},score={score}")
    found = rise(model, batch.frames[1:2], batch.labels[1:2], [seed])[0]
    assert_close(found, expected / (n * 0.5))
    coverage = create("methods", f"rise:masks={n},score={score},normalise=coverage")
    found = coverage(model, batch.frames[1:2], batch.labels[1:2], [seed])[0]
    assert_close(found, expected / sum(masks))


def test_rise_by_coverage_is_the_score_where_masks_do_not_matter(batch):
    model = as_model(ConstantNet)
    even = explain(create("methods", "rise:masks=20,normalise=coverage"), model, batch)
    scores = torch.arange(5.0).softmax(0)[batch.labels]
    torch.testing.assert_close(even, scores[:, None, None, None].expand_as(even), rtol=1e-4, atol=0)
    assert explain(create("methods", "rise:masks=20"), model, batch)[0].std() > 0.01 * scores[0]


def test_rise_masks_do_not_depend_on_chunks(batch, monkeypatch):
    rise, x = create("methods", "rise:masks=13,frames=3,cells=5,p=0.3"), batch.frames[0]
    masks = torch.cat(list(rise.draw(x, 3)))
    monkeypatch.setattr(helper("rise"), "CHUNK", 5)
    torch.testing.assert_close(torch.cat(list(rise.draw(x, 3))), masks, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(masks, torch.stack(drawn_masks(13, 3, (3, 5, 5), 0.3)), rtol=1e-5, atol=1e-6)


def test_rise_masks_keep_a_voxel_with_probability_p(batch):
    masks = torch.cat(list(create("methods", "rise:masks=600,p=0.3").draw(batch.frames[0], 0)))
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert masks.mean().item() == pytest.approx(0.3, abs=0.01)
    assert masks.mean(0).sub(0.3).abs().max() < 0.1


# Adaptive occlusion


def moving_clip(speed=(1, 2)):
    """A textured square that moves over a still texture by `speed` pixels a frame, (3, T, 48, 64)."""
    noise = torch.rand(2, 1, 12, 16, generator=torch.Generator().manual_seed(0))
    still, square = F.interpolate(noise, (48, 64), mode="bicubic")[:, 0].clamp(0, 1)
    frames = (0.4 * still).repeat(T, 1, 1)
    for t in range(T):
        y, x = 12 + speed[0] * t, 20 + speed[1] * t
        patch = frames[t, y : y + 18, x : x + 18]
        patch.copy_(0.3 + 0.7 * square[: len(patch), : len(patch[0])])
    return frames.expand(3, -1, -1, -1)


def test_the_flow_follows_what_moves():
    frames = moving_clip()
    field = optical_flow(frames, warps=2, iterations=5)
    assert field.shape == (T - 1, 2, 48, 64)
    places, inside, motion = helper("_flow").follow(torch.tensor([[21, 29], [40, 55]]), field)
    expected = torch.tensor([[21 + t, 29 + 2 * t] for t in range(T)])
    assert (places[0] - expected).abs().max() <= 1
    assert (places[1] - torch.tensor([40, 55])).abs().max() <= 1
    assert inside.all()
    torch.testing.assert_close(motion[0].view(-1, 2).mean(0), torch.tensor([1.0, 2.0]), rtol=0, atol=0.2)


def test_points_end_where_the_flow_leaves_the_frame():
    field = torch.zeros(4, 2, 9, 13)
    field[:, 0], field[:, 1] = -1.4, 2.6
    places, inside, _ = helper("_flow").follow(torch.tensor([[3, 2], [8, 0]]), field)
    assert places[1].tolist() == [[8, 0], [7, 3], [5, 5], [4, 8], [2, 10]]
    assert inside.tolist() == [[True, True, True, False, False], [True] * 5]


def test_slow_motion_adds_up():
    field = torch.zeros(15, 2, 9, 13)
    field[:, 1] = 0.4
    places, inside, _ = helper("_flow").follow(torch.tensor([[3, 2]]), field)
    assert places[0, :, 1].tolist() == [round(2 + 0.4 * t) for t in range(16)]
    assert inside.all()


def test_similar_motion_is_by_cosine():
    motion = torch.tensor([[1.0, 0.0], [5.0, 1.0], [0.0, 2.0], [-1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    groups = helper("_flow").similar_motion(motion, 2)
    assert groups[:, 0].tolist() == list(range(6))
    assert [sorted(set(group)) for group in groups.tolist()] == [[0, 1, 4], [0, 1, 4], [1, 2, 4], [3], [1, 2, 4], [5]]


def literal_volumes(frames, side, stride, similar):
    """The authors' volumes: boxes of `side` on a grid of `stride`, moved by the flow; unions of the most similar.

    The authors round each place before the next step; here fractions of pixels are carried along.
    """
    flow = optical_flow(frames, 2, 5).numpy()
    t, (h, w) = frames.shape[1], frames.shape[2:]
    boxes, motions = [], []
    for y0 in range(stride // 2, h, stride):
        for x0 in range(stride // 2, w, stride):
            box, motion, (y, x), tracked = np.zeros((t, h, w)), [], (y0, x0), True
            for i in range(t):
                row, column = int(np.round(y)), int(np.round(x))
                top, left = row - side // 2, column - side // 2
                if tracked:
                    box[i, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 1
                if i < t - 1:
                    dy, dx = flow[i, :, row, column]
                    motion += [dy, dx]
                    tracked = tracked and 0 <= y + dy <= h - 1 and 0 <= x + dx <= w - 1
                    y, x = np.clip(y + dy, 0, h - 1), np.clip(x + dx, 0, w - 1)
            boxes.append(box)
            motions.append(motion)
    unit = np.array(motions) / np.maximum(np.linalg.norm(motions, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 0)
    order = np.argsort(cosine, 1)[:, ::-1][:, :similar]
    return [
        np.max([boxes[i], *(boxes[j] for j in order[i] if cosine[i, j] > 0)], axis=0).astype(np.float32)
        for i in range(len(boxes))
    ]


@pytest.mark.parametrize("similar", [0, 3])
def test_adaptive_occlusion_is_the_authors_map_but_for_a_constant(similar):
    """Theirs is the mean of (score - clean score) times what a volume keeps, over the share of voxels that it keeps."""
    model, frames = small_model(), moving_clip((2, 7))
    target, x = torch.tensor([2]), model.normalise(frames[None])
    clean = model.net(x).softmax(1)[0, 2]
    volumes = torch.tensor(np.stack(literal_volumes(frames, side=12, stride=6, similar=similar)))
    authors, added = torch.zeros(frames.shape[1:]), torch.zeros(frames.shape[1:])
    for removed in volumes:
        change = model.net(x * (1 - removed)).softmax(1)[0, 2] - clean
        authors += change * (1 - removed) / (1 - removed).mean() / len(volumes)
        added -= change * removed
    found = create("methods", f"adaptive_occlusion:size=0.25,similar={similar}")(model, frames[None], target)[0]
    difference = found - authors
    assert difference.max() - difference.min() < 1e-4 * found.abs().max()
    assert found.std() > 0.1 * found.abs().max()
    mean = create("methods", f"adaptive_occlusion:size=0.25,similar={similar},average=coverage")
    expected = added / volumes.sum(0).clamp_min(1)
    assert_close(mean(model, frames[None], target)[0], expected)


def test_adaptive_occlusion_of_a_still_clip_is_constant_in_time():
    frames = small_batch(1).frames[:, :, :1].expand(-1, -1, T, -1, -1)
    relevance = create("methods", "adaptive_occlusion:size=0.3")(small_model(), frames, torch.tensor([1]))[0]
    torch.testing.assert_close(relevance, relevance[:1].expand_as(relevance))


# Temporal masks


def literal_freeze(x, mask):
    shown = x.clone()
    for t in range(1, x.shape[1]):
        shown[:, t] = (1 - mask[t]) * x[:, t] + mask[t] * shown[:, t - 1]
    return shown


def literal_reverse(x, mask):
    shown, block = x.clone(), []
    for t in range(x.shape[1] + 1):
        if t < x.shape[1] and mask[t] > 0.1:
            block.append(t)
            continue
        for u in range(len(block) // 2):
            early, late, m = block[u], block[-1 - u], mask[block[u]]
            shown[:, early] = (1 - m) * x[:, early] + m * x[:, late]
            shown[:, late] = (1 - m) * x[:, late] + m * x[:, early]
        block = []
    return shown


@pytest.mark.parametrize("length", [2, 3, 9])
def test_frozen_and_reversed_clips_are_the_papers(length):
    module, draws = helper("temporal_mask"), torch.Generator().manual_seed(0)
    for _ in range(20):
        x, mask = torch.rand(3, length, 4, 5, generator=draws), torch.rand(length, generator=draws)
        mask[torch.rand(length, generator=draws) < 0.3] = 0.05
        for found, expected in [
            (module.freeze(x, mask), literal_freeze(x, mask)),
            (module.reverse(x, mask), literal_reverse(x, mask)),
        ]:
            assert_close(found, expected)


def test_a_hard_mask_freezes_and_reverses_whole_frames():
    module, x = helper("temporal_mask"), torch.arange(7.0).view(1, 7, 1, 1)
    mask = torch.tensor([1.0, 0, 1, 1, 1, 0, 1])
    assert module.freeze(x, mask).flatten().tolist() == [0, 1, 1, 1, 1, 5, 5]
    assert module.reverse(x, mask).flatten().tolist() == [0, 1, 4, 3, 2, 5, 6]
    assert module.freeze(x, mask).flatten().tolist() == bound_freeze(x, mask).flatten().tolist()


def bound_freeze(x, mask):
    """The substrate `freeze` on whole frames."""
    replace = substrates.bind("freeze", x, small_model(), 0, "")
    removed = (mask * torch.tensor([0.0] + [1] * 6))[None, :, None, None].expand(1, 7, 1, 1)
    return replace(removed, torch.empty_like(x)[None])[0]


def literal_variation(mask):
    return sum(abs(mask[u - 1] - mask[u]) ** 3 + abs(mask[u + 1] - mask[u]) ** 3 for u in range(1, len(mask) - 1))


@pytest.mark.parametrize("perturbation", ["freeze", "reverse"])
def test_the_mask_is_what_the_papers_loss_and_adam_give(perturbation, batch):
    """The whole search again, with finite differences in double precision for gradients and Adam written out."""
    model = small_model()
    x, c = model.normalise(batch.frames)[1].double(), int(batch.labels[1])
    net = model.net.double()
    perturb = literal_freeze if perturbation == "freeze" else literal_reverse

    def score(clip):
        return net(clip[None]).softmax(1)[0, c].item()

    def loss(logits):
        mask = 1 / (1 + np.exp(-logits))
        return score(perturb(x, mask)) + 0.01 * mask.sum() + 0.02 * literal_variation(mask)

    clean, frozen = score(x), score(literal_freeze(x, np.ones(T)))
    first = np.ones(T)
    for margin in range(1, T // 2):
        run = np.ones(T)
        run[:margin] = run[-margin:] = 0
        if clean - score(perturb(x, run)) < 0.9 * (clean - frozen):
            break
        first = run
    logits, mean, square = 10 * first - 5, np.zeros(T), np.zeros(T)
    for step in range(1, 13):
        gradient = np.array([(loss(logits + e) - loss(logits - e)) / 2e-5 for e in 1e-5 * np.eye(T)])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        logits = logits - 0.2 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    net.float()
    method = create("methods", f"temporal_mask:iterations=12,perturbation={perturbation}")
    found = method(model, batch.frames[1:2], batch.labels[1:2])[0]
    expected = torch.from_numpy(1 / (1 + np.exp(-logits))).float()
    torch.testing.assert_close(found[:, 0, 0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("label", [0, 2, 4])
def test_only_the_frame_that_brings_the_change_is_frozen(label):
    model, clip = as_model(MotionNet), small_batch(1).frames
    for threshold in ("", ",threshold=0.5"):
        mask = create("methods", f"temporal_mask:iterations=80,score=logit,tv=0{threshold}")(
            model, clip, torch.tensor([label])
        )[0]
        assert torch.equal(mask, mask[:, :1, :1].expand_as(mask))
        assert (mask[:, 0, 0] > 0.5).tolist() == [t == label + 1 for t in range(T)]
    assert set(mask.flatten().tolist()) == {0.0, 1.0}


def test_a_single_frame_has_no_temporal_mask():
    with pytest.raises(NotApplicableError, match="one frame"):
        explain(create("methods", "temporal_mask"), small_model(), small_batch(1, (1, H, W)))
