"""Mask augmentation: whose draws it takes, how much it removes, and that training without it is left alone."""

import pytest
import torch

from vidattr_bench import augmentation, substrates, training
from vidattr_bench.augmentation import MaskAugmentation, normalisation
from vidattr_bench.checkpoints import read_metadata
from vidattr_bench.cli import main
from vidattr_bench.errors import DataError, PluginError
from vidattr_bench.plugins import create
from vidattr_bench.training import train
from vidattr_bench.units import regular_units

SIZE = (10, 21, 30)
STAGE = normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def clips(n):
    return torch.rand(n, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def names(n):
    return [f"clip {i}" for i in range(n)]


def sets(augmentation, n):
    """What is removed from n clips, bool (n, U)."""
    units = regular_units("tubelet", *SIZE)
    first = torch.stack([(units.labels == unit).flatten().int().argmax() for unit in range(len(units.sizes))])
    masks = [augmentation.removed(SIZE, torch.Generator().manual_seed(seed)) for seed in range(n)]
    return torch.stack([mask.flatten()[first] for mask in masks])


def test_a_draw_is_a_function_of_seed_epoch_and_clip():
    x, augment = clips(6), MaskAugmentation(1.0)
    whole = augment(x, STAGE, names(6), seed=3, epoch=1)
    alone = augment(x[4:5], STAGE, ["clip 4"], seed=3, epoch=1)
    assert torch.equal(whole[4:5], alone)
    for other in ({"seed": 4, "epoch": 1}, {"seed": 3, "epoch": 2}):
        assert not torch.equal(augment(x[4:5], STAGE, ["clip 4"], **other), alone)
    assert not torch.equal(augment(x[4:5], STAGE, ["clip 5"], seed=3, epoch=1), alone)


def test_the_generator_of_torch_is_not_asked():
    before = torch.get_rng_state()
    MaskAugmentation(1.0)(clips(3), STAGE, names(3), seed=0, epoch=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_share_of_clips_that_lose_something():
    """Binomial: 1000 clips, four standard errors; a share drawn near 0 removes nothing from 1 in 2 U clips."""
    x = clips(1).expand(1000, -1, -1, -1, -1)
    changed = (MaskAugmentation(0.3)(x, STAGE, names(1000), seed=0, epoch=0) != x).flatten(1).any(1)
    assert changed.float().mean() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 1000) ** 0.5)
    assert torch.equal(MaskAugmentation(0.0)(x[:20], STAGE, names(20), seed=0, epoch=0), x[:20])


def test_the_share_of_tubelets_removed_is_uniform():
    """Kolmogorov-Smirnov distance of 1000 shares to the uniform distribution; 1.95 / sqrt(n) is its .1 % point."""
    shares = sets(MaskAugmentation(), 1000).double().mean(1).sort().values
    steps = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert float((shares - steps).abs().max()) < 1.95 / 1000**0.5


def test_every_tubelet_is_as_likely_to_go_whatever_the_grain():
    """Half of all, at corners and in the middle; shares vary, so a tubelet's standard error is .5 / sqrt(n)."""
    for grain in (0.0, 1.5):
        rates = sets(MaskAugmentation(grains=(grain,)), 2000).double().mean(0)
        assert float((rates - 0.5).abs().max()) < 5 * 0.5 / 2000**0.5


def test_a_grain_gathers_what_goes():
    """Neighbours along W agree 1/2 + 1/6 of the time where independent given the share: E[f^2 + (1 - f)^2] = 2/3."""
    agree = {}
    for grain in (0.0, 1.5):
        removed = sets(MaskAugmentation(grains=(grain,)), 1000).unflatten(1, (8, 7, 7))
        agree[grain] = float((removed[..., 1:] == removed[..., :-1]).double().mean())
    assert agree[0.0] == pytest.approx(2 / 3, abs=0.02)
    assert agree[1.5] > 0.8


def test_what_stands_in_is_the_substrate_on_whole_tubelets():
    x, units = clips(40), regular_units("tubelet", *SIZE)
    out = MaskAugmentation(1.0, substrates=("blur3d",))(x, STAGE, names(40), seed=0, epoch=0)
    for clip, changed in zip(x, out, strict=True):
        blurred = substrates.gaussian_blur(clip, (1.0, 2.1, 2.1))
        removed = (changed != clip).any(0)
        assert torch.equal(changed, torch.where(removed, blurred, clip))
        share = units.means(removed.float())
        assert set(share.tolist()) <= {0.0, 1.0}


def test_both_substrates_are_drawn():
    x = clips(1).expand(60, -1, -1, -1, -1)
    out = MaskAugmentation(1.0)(x, STAGE, names(60), seed=0, epoch=0)
    held = [torch.isin(clip, x[0]).all() for clip in out if not torch.equal(clip, x[0])]
    assert 10 < sum(held) < 50  # freeze shows values of the clip alone, blur3d others


def test_substrates_that_ask_for_the_normalisation_get_it():
    x = clips(1)
    black = MaskAugmentation(1.0, substrates=("black",))(x, STAGE, ["a"], seed=1, epoch=0)
    assert torch.equal(black[black != x].unique(), torch.tensor([-2.0]).expand(1))


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_no_share_is_refused(share):
    with pytest.raises(DataError, match="from 0 to 1"):
        MaskAugmentation(share)


def test_an_unknown_substrate_is_refused():
    with pytest.raises(PluginError, match="blur3d"):
        MaskAugmentation(substrates=("blurd3",))


def trained(path, **options):
    module = create("datasets", 'planted_actions:part=dev,clips=10,length=8,size="[24,32]",train_clips=20')
    quiet = {"accelerator": "cpu", "devices": 1, "progress": False}
    train(module, create("models", "tiny3d"), path, epochs=2, batch_size=5, **quiet, **options)
    return path.read_bytes()


def test_training_without_it_never_asks_and_says_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(augmentation.MaskAugmentation, "__call__", lambda *_: pytest.fail("asked"))
    plain = trained(tmp_path / "a.safetensors")
    assert trained(tmp_path / "b.safetensors", mask_augment=0.0) == plain
    assert "mask_augment" not in read_metadata(tmp_path / "a.safetensors")["training"]["settings"]


def test_training_with_it_repeats_itself_and_says_so(tmp_path):
    masked = trained(tmp_path / "a.safetensors", mask_augment=0.5)
    assert trained(tmp_path / "b.safetensors", mask_augment=0.5, workers=2) == masked
    assert trained(tmp_path / "c.safetensors") != masked
    assert read_metadata(tmp_path / "a.safetensors")["training"]["settings"]["mask_augment"] == 0.5


def test_every_epoch_removes_something_else(tmp_path, monkeypatch):
    seen = []
    plain = MaskAugmentation.__call__

    def spy(self, x, model, ids, seed, epoch):
        seen.append((seed, epoch, tuple(ids)))
        assert float(x.min()) < -1  # pixels are in [0, 1]; substrates belong to the normalised clip
        return plain(self, x, model, ids, seed, epoch)

    monkeypatch.setattr(training.MaskAugmentation, "__call__", spy)
    trained(tmp_path / "a.safetensors", mask_augment=0.5, seed=7)
    assert {(seed, epoch) for seed, epoch, _ in seen} == {(7, 0), (7, 1)}
    for wanted in (0, 1):
        ids = [id for _, epoch, names in seen for id in names if epoch == wanted]
        assert sorted(ids) == [f"train-{i:05d}" for i in range(20)]


def test_the_command_takes_it(tmp_path, capsys):
    options = 'planted_actions:part=dev,clips=10,length=8,size="[24,32]",train_clips=10'
    path = tmp_path / "x.safetensors"
    command = ["train", "--dataset", options, "--output", str(path), "--epochs", "1", "--accelerator", "cpu"]
    assert main([*command, "--mask-augment", "0.25"]) == 0
    assert read_metadata(path)["training"]["settings"]["mask_augment"] == 0.25
    assert main([*command, "--mask-augment", "2"]) == 2
    assert "from 0 to 1" in capsys.readouterr().err
