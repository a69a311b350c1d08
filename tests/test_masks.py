"""Tubes that carry masks: what they hold, where the geometry takes them, and that metrics and controls read them."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidattr_bench import check_data, plugin_checks, plugins, pointing_controls
from vidattr_bench.clip import Clip, Tube, VideoTruth, boxes_around, collate
from vidattr_bench.errors import DataError
from vidattr_bench.metric import Case
from vidattr_bench.metrics.localisation import PointingGame
from vidattr_bench.model import ClipInput, VideoModel
from vidattr_bench.transform import fit, fit_boxes, fit_masks

T, H, W = 5, 12, 17
GEOMETRIES = [
    ClipInput(size=(37, 53)),
    ClipInput(size=(37, 53), resize=48),
    ClipInput(size=(37, 53), resize=(60, 61), interpolation="nearest"),
    ClipInput(size=(37, 53), crop="none", interpolation="bilinear"),
    ClipInput(size=(53, 37), resize=70),
    ClipInput(size=(96, 120), resize=(96, 120)),
    ClipInput(size=(150, 201)),
]


def corner(n: int = 3, h: int = H, w: int = W) -> torch.Tensor:
    """An L that moves to the right, bool (n, h, w): its box is twice as large as it."""
    masks = torch.zeros(n, h, w, dtype=torch.bool)
    for i in range(n):
        masks[i, 2:8, 3 + i : 5 + i] = True
        masks[i, 6:8, 3 + i : 9 + i] = True
    return masks


def blobs(n: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Smooth shapes with holes, bool (n, h, w)."""
    noise = torch.rand(n, 1, h // 6, w // 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (h, w), mode="bicubic")[:, 0] > 0.55


# --- the tube


def test_the_masks_are_the_truth_and_their_boxes_are_tight():
    tube = Tube.outlined(1, 1, corner())
    assert tube.boxes.tolist() == [[3 + i, 2, 9 + i, 8] for i in range(3)]
    whole = tube.mask(T, H, W)
    assert torch.equal(whole[1:4], corner())
    assert whole[[0, 4]].count_nonzero() == 0
    boxed = dataclasses.replace(tube, masks=None).mask(T, H, W)
    assert (boxed.sum(), whole.sum()) == (3 * 36, 3 * 20)
    assert torch.equal(boxed & whole, whole)


def test_a_tube_that_lasts_longer_than_the_clip_is_cut():
    assert torch.equal(Tube.outlined(1, 3, corner()).mask(T, H, W)[3:], corner()[:2])


def test_boxes_around_masks_are_found_as_by_hand():
    masks = blobs(9, 36, 54)
    masks[4] = False
    masks[5], masks[5, 35, 53] = False, True
    masks[6] = True
    expected = torch.zeros(9, 4, dtype=torch.float64)
    for box, mask in zip(expected, masks, strict=True):
        if mask.any():
            (y0, x0), (y1, x1) = mask.nonzero().amin(0).tolist(), (mask.nonzero().amax(0) + 1).tolist()
            box[:] = torch.tensor([x0, y0, x1, y1])
    assert torch.equal(boxes_around(masks), expected)
    assert boxes_around(masks)[4:7].tolist() == [[0, 0, 0, 0], [53, 35, 54, 36], [0, 0, 54, 36]]
    assert boxes_around(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize("masks", [corner(w=W + 1), corner(2), corner()[0]])
def test_masks_of_another_shape_are_refused(masks):
    tube = Tube(1, 1, boxes_around(corner()), masks)
    with pytest.raises(DataError, match=r"masks have shape .*\(3, 12, 17\)"):
        tube.mask(T, H, W)


def test_a_clip_of_masks_goes_through_a_worker_and_a_batch():
    clip = Clip("a", "g", torch.zeros(3, T, H, W), 1, (Tube.outlined(1, 1, corner()),), torch.ones(T).bool())
    batch = collate([pickle.loads(pickle.dumps(clip))] * 2)
    assert torch.equal(batch.tubes[1, 1:4], corner())
    assert torch.equal(batch.instances[0][0], batch.tubes[0])


def test_the_contract_asks_for_boxes_around_the_masks():
    frames, annotated = torch.zeros(3, T, H, W), torch.ones(T, dtype=torch.bool)
    tube = Tube.outlined(1, 1, corner())
    plugin_checks._assert_tubes_inside(Clip("a", "g", frames, 1, (tube,), annotated), 2)
    for wrong, what in (
        (dataclasses.replace(tube, masks=corner().float()), "bool"),
        (dataclasses.replace(tube, masks=corner(w=W + 1)), r"\(n, H, W\)"),
        (dataclasses.replace(tube, boxes=tube.boxes + torch.tensor([0, 0, 1, 0])), "around the masks"),
    ):
        with pytest.raises(AssertionError, match=what):
            plugin_checks._assert_tubes_inside(Clip("a", "g", frames, 1, (wrong,), annotated), 2)


# --- the geometry


def test_a_voxel_belongs_that_is_half_covered_or_more():
    masks = torch.zeros(1, 6, 9, dtype=torch.bool)
    masks[0, 0, 0] = True  # a sixth of a voxel of 2 x 3
    masks[0, 0:1, 3:6] = True  # half of one
    masks[0, 2:4, 6:8] = True  # two thirds
    masks[0, 4:6, 0:1] = True  # a third
    fitted = fit_masks(masks, (6, 9), ClipInput(size=(3, 3), crop="none"))
    assert fitted.tolist() == [[[False, True, False], [False, False, True], [False, False, False]]]


@pytest.mark.parametrize("sizes", [((96, 120), (37, 53)), ((40, 30), (11, 7)), ((5, 7), (23, 31))])
def test_exact_halves_belong_whatever_the_sizes(sizes):
    """A mask of the upper half of each voxel's height, by the least common multiple of both heights."""
    (height, width), (h, w) = sizes
    masks = torch.zeros(1, 2 * h * height, width, dtype=torch.bool)
    masks[0].view(h, 2, height, width)[:, 0] = True
    assert fit_masks(masks, (height, width), ClipInput(size=(h, w), crop="none")).all()
    masks[0, 0] = False
    assert not fit_masks(masks, (height, width), ClipInput(size=(h, w), crop="none"))[0, 0].any()


@pytest.mark.parametrize("wanted", GEOMETRIES)
def test_masks_go_where_the_pixels_that_they_were_drawn_on_go(wanted):
    masks = blobs(2, 96, 120)
    frames = (255 * masks[..., None].expand(-1, -1, -1, 3)).to(torch.uint8)
    pixels, _ = fit(frames, torch.zeros(0, 4), dataclasses.replace(wanted, interpolation="area"))
    fitted = fit_masks(masks, (96, 120), wanted)
    assert fitted.shape == (2, *wanted.size)
    decided = (pixels[0] - 0.5).abs() > 1e-5
    assert torch.equal((pixels[0] > 0.5)[decided], fitted[decided])
    assert 0.1 < fitted.double().mean() < 0.9


@pytest.mark.parametrize("wanted", GEOMETRIES)
def test_the_mask_of_a_box_is_what_the_box_holds(wanted):
    box = torch.tensor([[42.0, 34, 78, 56]])
    mask = Tube(0, 0, box).mask(1, 96, 120)
    fitted = fit_masks(mask, (96, 120), wanted)
    # Half open, a box has not the centre that its lower or right side goes through, of a voxel covered by half.
    closed = fit_boxes(box + torch.tensor([0, 0, 1e-3, 1e-3]), (96, 120), wanted)
    differ = (fitted != Tube(0, 0, closed).mask(1, *wanted.size)).nonzero()
    # A corner, of which both sides leave half or more and together less, is in the box alone.
    assert len(differ) <= 4
    assert fitted.sum() > 20


def test_masks_at_another_resolution_than_the_frames_go_to_the_same_place():
    wanted = ClipInput(size=(20, 25), resize=24)
    masks = blobs(2, 48, 60)
    large = masks.repeat_interleave(3, 1).repeat_interleave(5, 2)
    assert torch.equal(fit_masks(masks, (48, 60), wanted), fit_masks(large, (48, 60), wanted))


def test_what_the_crop_hides_is_empty_and_what_is_thin_keeps_the_voxels_that_it_covers_most():
    masks = torch.zeros(2, 40, 100, dtype=torch.bool)
    masks[0, :, :20] = True
    masks[1, :, 50] = True
    fitted = fit_masks(masks, (40, 100), ClipInput(size=(10, 12), resize=10))
    assert not fitted[0].any()
    assert boxes_around(fitted).tolist() == [[0, 0, 0, 0], [6, 0, 7, 10]]
    masks[1, :, 50], masks[1, 17, 46] = False, True
    assert fit_masks(masks, (40, 100), ClipInput(size=(10, 12), resize=10))[1].nonzero().tolist() == [[4, 5]]
    assert fit_masks(masks[:0], (40, 100), ClipInput(size=(10, 12))).shape == (0, 10, 12)


# --- metrics and controls


@pytest.mark.parametrize("name", ["tube_mass", "roc_auc", "average_precision", "rank_accuracy", "pointing_game"])
def test_metrics_score_the_mask_and_not_its_box(name):
    tube = Tube.outlined(1, 1, corner())
    clip = Clip("a", "g", torch.zeros(3, T, H, W), 1, (tube,), torch.ones(T).bool())
    batch = collate([clip])
    hole = (dataclasses.replace(tube, masks=None).mask(T, H, W) & ~tube.mask(T, H, W)).float()[None]
    metric = plugins.create("metrics", "pointing_game:tolerance=0" if name == "pointing_game" else name)
    model, targets = VideoModel(nn.Flatten(), ["a", "b"]), torch.ones(1, dtype=torch.int64)
    at_mask, at_hole = (
        float(metric.measure(Case(model, batch, targets, relevance, seed=0)).values)
        for relevance in (batch.tubes.float(), hole)
    )
    assert at_mask == pytest.approx(1)
    assert at_hole < 0.5


def a_truth() -> VideoTruth:
    masks = blobs(30, 90, 120)
    masks[7] = False
    return VideoTruth("clip", "group", 1, 47, (90, 120), (Tube.outlined(1, 3, masks),))


def test_controls_score_on_masks_what_the_metric_scores():
    truth, wanted = a_truth(), ClipInput(length=47, anchor="start", size=(48, 64), crop="none")
    tubes = torch.zeros(1, 47, 48, 64, dtype=torch.bool)
    tubes[0, 3:33] = fit_masks(truth.tubes[0].masks, truth.size, wanted)
    frames = torch.zeros(1, 3, 47, 48, 64)
    clip = Clip("clip", "g", frames[0], 1, (Tube.outlined(1, 0, tubes[0]),), torch.ones(47).bool())
    batch, targets = collate([clip]), torch.ones(1, dtype=torch.int64)
    scores = {row.control: row.frames for row in pointing_controls.controls([truth], wanted)}
    model = VideoModel(nn.Flatten(), ["a", "b"])
    for name, relevance in (
        ("centre", plugins.create("methods", "centre").attribute(model, frames, targets)),
        ("random", torch.ones(1, 47, 48, 64)),
        ("oracle", tubes.float()),
    ):
        measured = PointingGame().measure(Case(model, batch, targets, relevance, seed=0))
        assert scores[name] == pytest.approx(float(measured.values[0]), abs=1e-12)
    assert 0 < scores["random"] < scores["oracle"] == 1


def test_distances_to_a_mask_are_those_to_its_nearest_voxel():
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, 1, 2:4] = True
    masks[0, 3, 0] = True
    found = pointing_controls._squared_to(masks)
    assert found[0].tolist() == [[5, 2, 1, 1, 2, 5], [4, 1, 0, 0, 1, 4], [1, 2, 1, 1, 2, 5], [0, 1, 4, 4, 5, 8]]
    assert found[1].isinf().all()
    box = torch.zeros(1, 40, 60, dtype=torch.bool)
    box[0, 7:19, 30:51] = True
    assert torch.equal(pointing_controls._squared_to(box), pointing_controls._squared(boxes_around(box), (40, 60)))


def test_masks_are_counted_by_their_boxes_and_not_kept():
    counted = check_data._counted(a_truth())
    assert counted.tubes[0].masks is None
    (counts,) = {check_data.count([truth]) for truth in (a_truth(), counted)}
    assert (counts.tubes, counts.boxes, counts.tube_frames) == (1, 29, 29)
