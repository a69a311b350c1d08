"""Localisation against slow transcriptions of the definitions, loop by loop, on small clips with any truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.clip import Clip, Tube, collate
from vidattr_bench.metric import Case
from vidattr_bench.metrics._truth import chance_iou
from vidattr_bench.model import VideoModel

Voxel = tuple[int, int, int]
T, H, W = 4, 6, 9


@st.composite
def clips(draw: st.DrawFn, size: tuple[int, int, int] = (T, H, W), tubes: int = 2) -> Clip:
    """A clip with one or more whole-pixel tubes of label 1, one of another label, and unknown frames."""
    t, h, w = size
    found = []
    for label in [1] * draw(st.integers(1, tubes)) + [0]:
        start = draw(st.integers(0, t - 1))
        boxes = []
        for _ in range(draw(st.integers(1, t - start))):
            x0, y0 = draw(st.integers(0, w - 1)), draw(st.integers(0, h - 1))
            boxes.append([x0, y0, draw(st.integers(x0 + 1, w)), draw(st.integers(y0 + 1, h))])
        found.append(Tube(label, start, torch.tensor(boxes).float()))
    known = draw(st.lists(st.booleans(), min_size=t, max_size=t).filter(any))
    return Clip("clip", "group", torch.zeros(3, t, h, w), 1, tuple(found), torch.tensor(known))


def maps(seed: int, distinct: int, size: tuple[int, int, int] = (T, H, W)) -> torch.Tensor:
    """Relevance with this many distinct values, some negative."""
    return torch.randint(-1, distinct - 1, size, generator=torch.Generator().manual_seed(seed)).float()


MAPS = (st.integers(0, 10**6), st.sampled_from([2, 3, 8, 10**6]))


def value(spec: str, clip: Clip, relevance: torch.Tensor) -> float | str:
    """The value, or the reason why there is none."""
    batch = collate([clip])
    case = Case(VideoModel(nn.Flatten(), ["a", "b"]), batch, batch.labels, relevance[None])
    measured = plugins.create("metrics", spec).measure(case)
    return measured.reasons[0] or float(measured.values[0])


def voxels(clip: Clip) -> Iterator[Voxel]:
    """All voxels of annotated frames."""
    _, t, h, w = clip.frames.shape
    return ((i, y, x) for i in range(t) if clip.annotated[i] for y in range(h) for x in range(w))


def in_tube(tube: Tube, voxel: Voxel) -> bool:
    t, y, x = voxel
    if not 0 <= t - tube.start < len(tube.boxes):
        return False
    x0, y0, x1, y1 = tube.boxes[t - tube.start].tolist()
    return x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1


def truth(clip: Clip) -> set[Voxel]:
    """G: voxels of annotated frames in a tube of the label."""
    return {v for v in voxels(clip) if any(in_tube(tube, v) for tube in clip.tubes if tube.label == clip.label)}


def is_defined(clip: Clip) -> bool:
    return 0 < len(truth(clip)) < len(list(voxels(clip)))


def slow_pointing_game(clip: Clip, relevance: torch.Tensor, scope: str, tolerance: float) -> float | str:
    inside = truth(clip)
    tube_frames = sorted({v[0] for v in inside})
    candidates = [[v for v in voxels(clip) if v[0] == t] for t in tube_frames]
    if scope == "clip":
        candidates = [list(voxels(clip))]
    if all(v in inside for frame in candidates for v in frame):
        return "all_tube"
    shares = []
    for frame in candidates:
        best = max(float(relevance[v]) for v in frame)
        tied = [v for v in frame if float(relevance[v]) == best]
        near = [
            any(g[0] == v[0] and math.dist(g[1:], v[1:]) <= tolerance * clip.frames.shape[2] for g in inside)
            for v in tied
        ]
        shares.append(sum(near) / len(tied))
    return sum(shares) / len(shares)


@settings(max_examples=40)
@given(clips(), *MAPS, st.sampled_from(["frame", "clip"]), st.sampled_from([0, 0.1, 0.17, 0.25, 0.4, 0.5]))
def test_pointing_game(clip, seed, distinct, scope, tolerance):
    if not is_defined(clip):
        return
    relevance = maps(seed, distinct)
    expected = slow_pointing_game(clip, relevance, scope, tolerance)
    assert value(f"pointing_game:scope={scope},tolerance={tolerance}", clip, relevance) == pytest.approx(expected)


@settings(max_examples=25)
@given(clips(), *MAPS)
def test_mass_and_ranks_of_voxels(clip, seed, distinct):
    if not is_defined(clip):
        return
    relevance, inside = maps(seed, distinct), truth(clip)
    labels = [v in inside for v in voxels(clip)]
    scores = [float(relevance[v]) for v in voxels(clip)]
    positive = sum(max(a, 0) for a in scores)
    mass = sum(max(a, 0) for a, hit in zip(scores, labels, strict=True) if hit) / positive if positive else None
    assert value("tube_mass", clip, relevance) == pytest.approx(mass or ("no_positive_relevance", 0.0)[mass == 0])
    assert value("roc_auc", clip, relevance) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = average_precision_score(labels, scores)
    assert value("average_precision", clip, relevance) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=15)
@given(clips(size=(1, 2, 4), tubes=1), st.lists(st.integers(-1, 2), min_size=8, max_size=8))
def test_rank_accuracy_and_voxel_iou_over_all_orders_of_ties(clip, values):
    if not is_defined(clip):
        return
    relevance, inside = torch.tensor(values).float().view(1, 2, 4), truth(clip)
    hits, ious = [], []
    groups = [[v for v in voxels(clip) if float(relevance[v]) == level] for level in sorted(set(values), reverse=True)]
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        top = set(list(itertools.chain(*orders))[: len(inside)])
        hits.append(len(top & inside) / len(inside))
        ious.append(len(top & inside) / len(top | inside))
    assert value("rank_accuracy", clip, relevance) == pytest.approx(sum(hits) / len(hits), abs=1e-12)
    assert value("voxel_iou", clip, relevance) == pytest.approx(sum(ious) / len(ious), abs=1e-12)


@settings(max_examples=40)
@given(st.integers(2, 3000), st.data())
def test_the_expected_overlap_of_random_sets_is_hypergeometric(total, data):
    size = data.draw(st.integers(1, total - 1))
    drawn = scipy.stats.hypergeom(total, size, size)
    k = np.arange(drawn.support()[0], drawn.support()[1] + 1)
    assert chance_iou(total, size) == pytest.approx(drawn.pmf(k) @ (k / (2 * size - k)), rel=1e-9)


def slow_components(mask: set[Voxel]) -> list[set[Voxel]]:
    """Flood fill through all 26 neighbours."""
    rest, found = set(mask), []
    while rest:
        component, border = set(), [rest.pop()]
        while border:
            t, y, x = border.pop()
            component.add((t, y, x))
            for step in itertools.product((-1, 0, 1), repeat=3):
                neighbour = (t + step[0], y + step[1], x + step[2])
                if neighbour in rest:
                    rest.remove(neighbour)
                    border.append(neighbour)
        found.append(component)
    return found


def slow_boxes(mask: set[Voxel]) -> dict[int, tuple[int, int, int, int]]:
    boxes = {}
    for t in {v[0] for v in mask}:
        ys, xs = [v[1] for v in mask if v[0] == t], [v[2] for v in mask if v[0] == t]
        boxes[t] = (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
    return boxes


def slow_tube_iou(one: dict, other: dict) -> float:
    common = set(one) & set(other)
    if not common:
        return 0.0
    spatial = []
    for t in common:
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = one[t], other[t]
        shared = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
        union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
        spatial.append(shared / union)
    return len(common) / len(set(one) | set(other)) * sum(spatial) / len(spatial)


def slow_score(clip: Clip, mask: set[Voxel], above: float | None) -> float:
    """Every annotated tube with its best component, on the annotated frames, which become neighbours."""
    place = {t: i for i, t in enumerate(clip.annotated.nonzero().flatten().tolist())}
    components = [slow_boxes(found) for found in slow_components({(place[t], y, x) for t, y, x in mask})]
    ious = []
    for tube in clip.tubes:
        seen = slow_boxes({(place[v[0]], *v[1:]) for v in voxels(clip) if in_tube(tube, v)})
        if tube.label == clip.label and seen:
            ious.append(max((slow_tube_iou(seen, found) for found in components), default=0.0))
    return sum(ious if above is None else [iou > above for iou in ious]) / len(ious)


def slow_area_cuts(clip: Clip, relevance: torch.Tensor) -> list[tuple[float, set[Voxel]]]:
    """Each level enters as a whole; the one at the border with the probability that makes the expected area |G|."""
    size, sure = len(truth(clip)), set()
    for level in sorted({float(relevance[v]) for v in voxels(clip)}, reverse=True):
        tied = {v for v in voxels(clip) if float(relevance[v]) == level}
        if len(sure) + len(tied) >= size:
            share = (size - len(sure)) / len(tied)
            return [(share, sure | tied), (1 - share, sure)]
        sure |= tied
    raise AssertionError


@settings(max_examples=30)
@given(clips(), *MAPS, st.sampled_from([None, 0.2, 0.5]))
def test_tube_iou_cut_at_the_area_of_the_truth(clip, seed, distinct, above):
    if not is_defined(clip):
        return
    relevance = maps(seed, distinct)
    expected = sum(share * slow_score(clip, mask, above) for share, mask in slow_area_cuts(clip, relevance))
    option = "" if above is None else f":above={above}"
    assert value(f"tube_iou{option}", clip, relevance) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=20)
@given(clips(), *MAPS)
def test_tube_iou_cut_at_half_of_the_maximum(clip, seed, distinct):
    if not is_defined(clip):
        return
    relevance = maps(seed, distinct)
    best = max(float(relevance[v]) for v in voxels(clip))
    found = {name: value(f"{name}:threshold=half_max", clip, relevance) for name in ("tube_iou", "voxel_iou")}
    if best <= 0:
        assert set(found.values()) == {"no_positive_relevance"}
        return
    mask, inside = {v for v in voxels(clip) if float(relevance[v]) >= best / 2}, truth(clip)
    assert found["tube_iou"] == pytest.approx(slow_score(clip, mask, None), abs=1e-12)
    assert found["voxel_iou"] == pytest.approx(len(mask & inside) / len(mask | inside), abs=1e-12)
