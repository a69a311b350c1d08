"""Tiny3D: shipped weights, its layers as methods need them, and whether it looks at the actor."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vidattr_bench import checkpoints, requirements
from vidattr_bench.errors import ModelError
from vidattr_bench.plugins import create, load

SEEDS = (0, 1, 2)
WEIGHTS = Path(checkpoints.__file__).parent / "weights"


@pytest.fixture(scope="module")
def model():
    return create("models", "tiny3d").build()


@pytest.fixture(scope="module")
def batch():
    module = create("datasets", "planted_actions:part=dev,clips=20")
    clips = [module.load(ref) for ref in module.refs()]
    return torch.stack([clip.frames for clip in clips]), torch.tensor([clip.label for clip in clips])


def test_three_seeds_ship_in_two_megabytes():
    files = list(WEIGHTS.glob("tiny3d-*.safetensors"))
    assert len(files) == len(SEEDS)
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 2_000_000


@pytest.mark.parametrize("seed", SEEDS)
def test_shipped_weights_tell_held_out_clips_apart(seed, batch):
    frames, labels = batch
    trained = create("models", f"tiny3d:seed={seed}").build()
    assert (trained(frames).argmax(1) == labels).float().mean() >= 0.9
    record = checkpoints.read_metadata(WEIGHTS / f"tiny3d-{seed}.safetensors")
    assert record["training"]["settings"]["seed"] == seed
    assert record["training"]["accuracy"] >= 0.97


def test_the_masked_twin_is_trained_as_seed_0_but_for_the_masks(batch):
    frames, labels = batch
    twin = create("models", "tiny3d:masked=True").build()
    record = checkpoints.read_metadata(WEIGHTS / "tiny3d_masked-0.safetensors")["training"]
    plain = checkpoints.read_metadata(WEIGHTS / "tiny3d-0.safetensors")["training"]["settings"]
    assert record["settings"] == {**plain, "mask_augment": 0.5}
    assert (twin(frames).argmax(1) == labels).float().mean() >= 0.9
    assert record["accuracy"] >= 0.95


def test_a_twin_that_is_not_shipped_is_refused():
    with pytest.raises(ModelError, match=r"there are: 0$"):
        create("models", "tiny3d:masked=True,seed=1").build()


def test_classes_are_those_of_the_data_set(model):
    assert model.classes == load("datasets", "planted_actions")().classes


def test_its_input_is_neither_square_nor_as_long_as_wide(model):
    assert model.input.length == 16
    assert model.input.size == (48, 64)


def test_the_mean_colour_is_zero_in_x(model):
    grey = torch.full((1, 3, 16, 48, 64), 0.5)
    assert model.declares_normalisation
    assert torch.equal(model.normalise(grey), torch.zeros_like(grey))


def test_features_keep_time_and_space(model, batch):
    x = model.normalise(batch[0][:2])
    assert model.feature_layer(x) == "features"
    assert model.net.features(model.net[: list(model.net._modules).index("features")](x)).shape == (2, 64, 8, 12, 16)


def test_the_head_is_linear_on_the_mean_of_the_features(model, batch):
    head = model.linear_head(model.normalise(batch[0][:1]))
    assert head.layer.startswith("features")
    assert head.weight is model.net.head.weight


def test_every_relu_is_a_module_used_once(model, batch):
    calls = []
    relus = [module for module in model.net.modules() if isinstance(module, nn.ReLU)]
    hooks = [module.register_forward_hook(lambda module, *_: calls.append(module)) for module in relus]
    model(batch[0][:1])
    for hook in hooks:
        hook.remove()
    assert sorted(map(id, calls)) == sorted(map(id, relus))
    assert requirements.missing("relu_modules", model, batch[0]) is None


def test_without_the_actor_the_class_goes_and_without_a_distractor_it_stays(model):
    module = create("datasets", "planted_actions:part=dev,clips=20")
    scenes = [(module.scene(ref), ref) for ref in module.refs()]

    def predict(change):
        return model(torch.stack([module.clip(change(scene), ref).frames for scene, ref in scenes])).argmax(1)

    clean = predict(lambda scene: scene)
    labels = torch.tensor([ref.label for _, ref in scenes])
    assert (predict(lambda scene: scene.without_actor()) == labels).float().mean() <= 0.35
    assert (predict(lambda scene: scene.without_distractor(0)) == clean).float().mean() >= 0.9


def test_the_prediction_stays_when_all_but_the_dilated_tube_is_swapped(model):
    from vidattr_bench.datasets import _planted_verification as verification

    module = create("datasets", "planted_actions:part=dev,clips=20")
    rates = verification.verify(model, module)
    assert rates["outside swapped"].hits >= 17


def test_a_seed_that_is_not_shipped_is_refused():
    with pytest.raises(ModelError, match="there are: 0, 1, 2"):
        create("models", "tiny3d:seed=7").build()


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="does not say its classes"):
        create("models", f'tiny3d:checkpoint="{path}"').build()
