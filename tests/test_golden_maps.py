"""Maps of today against committed ones: what averages over clips would forgive, these do not.

Where a change is meant, `python tests/test_golden_maps.py` writes tests/golden/maps.npz anew; say why in the commit.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vidattr_bench as vb
from vidattr_bench import plugins
from vidattr_bench.compare import compare

GOLDEN = Path(__file__).parent / "golden" / "maps.npz"
REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "planted_actions-tiny3d"
SPECS = ("grad_cam", "grad_cam:back=1", "saliency_tubes", "gradient")
CLIPS = (3, 17)
EVERY = np.s_[::3, ::5, ::7]  # of T = 16, H = 48, W = 64: prime steps, so that no pattern of the grid is missed
TOLERANCE = 1e-4  # of the largest relevance


def explained(method, threads=1):
    """Maps (2, T, H, W) of two planted clips, one call a clip."""
    data = vb.create("datasets", "planted_actions")
    model = vb.create("models", "tiny3d").build()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        clips = [data.load(data.refs()[i]) for i in CLIPS]
        maps = [method(model, clip.frames[None], torch.tensor([clip.label])) for clip in clips]
    finally:
        torch.set_num_threads(before)
    return torch.cat(maps).numpy()


def write():
    """Write the golden maps."""
    GOLDEN.parent.mkdir(exist_ok=True)
    maps = {spec: explained(vb.create("methods", spec))[:, *EVERY] for spec in SPECS}
    np.savez_compressed(GOLDEN, **maps)


def largest_difference(spec, relevance):
    """The largest difference to the golden map, as a share of its largest relevance."""
    with np.load(GOLDEN, allow_pickle=False) as maps:
        golden = maps[spec]
    return np.abs(relevance[:, *EVERY] - golden).max() / np.abs(golden).max()


@pytest.mark.parametrize("spec", SPECS)
def test_maps_are_the_golden_ones(spec):
    assert largest_difference(spec, explained(vb.create("methods", spec))) < TOLERANCE


def test_the_golden_maps_are_small_and_not_flat():
    assert GOLDEN.stat().st_size < 200_000
    with np.load(GOLDEN, allow_pickle=False) as maps:
        assert set(maps) == set(SPECS)
        assert all(maps[spec].shape == (2, 6, 10, 10) and maps[spec].std((1, 2, 3)).min() > 0 for spec in SPECS)


GradCAM = plugins.load("methods", "grad_cam")


@dataclasses.dataclass(frozen=True)
class NoReLU(GradCAM):
    """Negative evidence is kept."""

    def rectified(self, cam):
        return cam


@dataclasses.dataclass(frozen=True)
class WrongAxis(GradCAM):
    """The gradient is averaged as of an image: over (2, 3) of five axes, so that columns keep weights of their own."""

    def weights(self, A, g):
        return g.mean((2, 3), keepdim=True)


@dataclasses.dataclass(frozen=True)
class ChannelAxis(GradCAM):
    """The channels are averaged and not time, so that every channel has the same weight."""

    def weights(self, A, g):
        return g.mean((1, 3, 4), keepdim=True)


@dataclasses.dataclass(frozen=True)
class StaleGradient(GradCAM):
    """A hook's buffer is read before the backward fills it: the weights are those of the batch before."""

    def weights(self, A, g):
        stale = _BUFFER[:1] or [torch.zeros_like(g)]
        _BUFFER[:] = [g]
        return stale[0][: len(A)].mean((2, 3, 4), keepdim=True)


@dataclasses.dataclass(frozen=True)
class HalfPixelShift(GradCAM):
    """Cells of the layer are taken for corners of the clip as the map is enlarged."""

    def _resize(self, native, frames):
        return F.interpolate(native[:, None], frames.shape[2:], mode="trilinear", align_corners=True)[:, 0]


_BUFFER: list[torch.Tensor] = []


@pytest.mark.parametrize("broken", [NoReLU, WrongAxis, ChannelAxis, StaleGradient, HalfPixelShift])
def test_a_broken_grad_cam_is_caught(broken):
    caught = []
    for back, spec in enumerate(SPECS[:2]):
        _BUFFER.clear()
        caught.append(largest_difference(spec, explained(broken(back=back))))
    assert max(caught) > 100 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("broken", [ChannelAxis, StaleGradient])
def test_compare_catches_a_grad_cam_that_lost_quality(broken, tmp_path, monkeypatch):
    _BUFFER.clear()
    monkeypatch.setattr(GradCAM, "weights", broken.weights)
    run = vb.run(output=tmp_path / "run", methods=["grad_cam"], metrics=["srg", "roc_auc", "tube_mass"], pictures=0)
    found = compare(REFERENCE, run.folder, allow_missing=["methods", "metrics"])
    assert found.exit_status == 1
    worse = {cell.metric for cell in found.cells if cell.verdict == "regressed"}
    assert worse >= {"srg", "roc_auc"}


if __name__ == "__main__":
    write()
