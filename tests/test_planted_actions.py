"""Planted actions: the truth is true by construction, clips are functions of their names, the folder is UCF101's."""

import dataclasses
import importlib
import importlib.util
from pathlib import Path

import pytest
import torch
from scipy.io import loadmat

from vidattr_bench.clip import collate
from vidattr_bench.errors import DataError
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create, load

rendering = importlib.import_module("vidattr_bench.datasets._planted_rendering")
verification = importlib.import_module("vidattr_bench.datasets._planted_verification")
writing = importlib.import_module("vidattr_bench.datasets._planted_writing")
PlantedActions = load("datasets", "planted_actions")
OPPOSITES = [
    ("FlashDarkLight", "FlashLightDark"),
    ("Grow", "Shrink"),
    ("MoveDown", "MoveUp"),
    ("MoveLeft", "MoveRight"),
    ("TurnAnticlockwise", "TurnClockwise"),
]


@pytest.fixture(scope="module")
def dev():
    return PlantedActions(part="dev", clips=20)


def masks(clip):
    t, h, w = clip.frames.shape[1:]
    return torch.stack([tube.mask(t, h, w) for tube in clip.tubes]).any(0)


def test_clips_are_16_x_48_x_64_in_the_unit_interval(dev):
    clip = dev.load(dev.refs()[3])
    assert clip.frames.shape == (3, 16, 48, 64)
    assert clip.frames.dtype == torch.float32
    assert clip.frames.min() >= 0
    assert clip.frames.max() <= 1
    assert clip.annotated.all()


def test_a_clip_is_a_function_of_seed_part_and_index_in_any_order(dev):
    refs = dev.refs()
    forwards = [dev.load(ref).frames for ref in refs[:4]]
    again = PlantedActions(part="dev", clips=20)
    backwards = [again.load(ref).frames for ref in reversed(refs[:4])]
    for first, second in zip(forwards, reversed(backwards), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(forwards[0], PlantedActions(part="dev", clips=20, scenes=1).load(refs[0]).frames)
    assert not torch.equal(forwards[0], PlantedActions(part="test").load(PlantedActions().refs()[0]).frames)


def test_more_clips_leave_the_first_ones_as_they_are(dev):
    assert PlantedActions(part="dev", clips=30).refs()[:20] == dev.refs()


def test_every_part_is_balanced_and_every_clip_its_own_group():
    refs = PlantedActions(part="all", clips=20, train_clips=50).refs()
    assert len({ref.id for ref in refs}) == len({ref.group for ref in refs}) == len(refs) == 90
    assert torch.bincount(torch.tensor([ref.label for ref in refs])).tolist() == [9] * 10


def test_the_default_test_part_has_at_least_40_groups():
    assert len(PlantedActions().refs()) >= 40


def test_an_unknown_or_empty_part_says_so():
    with pytest.raises(DataError, match="did you mean test"):
        PlantedActions(part="tests").refs()
    with pytest.raises(DataError, match="holds no clip"):
        PlantedActions(clips=0).refs()


def test_without_the_actor_not_a_voxel_outside_the_tube_changes(dev):
    for ref in dev.refs():
        scene = dev.scene(ref)
        clip, empty = dev.clip(scene, ref), dev.clip(scene.without_actor(), ref)
        changed = (clip.frames != empty.frames).any(0)
        assert not (changed & ~masks(clip)).any()
        acting = masks(clip).any(2).any(1)
        assert torch.equal(changed.any(2).any(1), acting)
        assert not empty.tubes


def test_boxes_are_as_tight_as_whole_pixels_allow(dev):
    for ref in dev.refs():
        scene = dev.scene(ref)
        t, h, w = 16, 48, 64
        actor = scene.actor
        touched = actor.opacity(actor.pose(t), h, w) > 0
        for box, picture in zip(actor.boxes(t, h, w).int().tolist(), touched, strict=True):
            x0, y0, x1, y1 = box
            assert picture.sum() == picture[y0:y1, x0:x1].sum() > 0
            inside = picture[y0:y1, x0:x1]
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def test_frames_outside_the_span_are_empty_and_there_are_some(dev):
    for ref in dev.refs():
        clip = dev.load(ref)
        (tube,) = clip.tubes
        assert 0 < len(tube.boxes) < 16
        assert len(masks(clip).any(2).any(1).nonzero()) == len(tube.boxes)


@pytest.mark.parametrize(("one", "other"), OPPOSITES)
def test_opposite_classes_hold_the_same_frames_in_reversed_order(one, other, dev):
    here, there = dev.classes.index(one), dev.classes.index(other)
    ref = next(ref for ref in dev.refs() if ref.label == here)
    scene = dev.scene(ref)
    reversed_scene = scene.backwards()
    factor = {i: extent for i, extent in enumerate(reversed_scene.actor.motion) if extent}
    module = importlib.import_module(PlantedActions.__module__)
    expected = module._MOTIONS[dev.classes[there]]
    assert {i: value > 0 for i, value in factor.items()} == {i: v > 0 for i, v in enumerate(expected) if v}
    clip, backwards = dev.clip(scene, ref), dev.clip(reversed_scene, ref)
    torch.testing.assert_close(backwards.frames, clip.frames.flip(1), rtol=0, atol=2e-5)
    torch.testing.assert_close(masks(backwards), masks(clip).flip(0))


def test_nothing_but_the_actor_depends_on_the_class(dev):
    ref = dev.refs()[0]
    height, width = dev.clip_input.size
    scenes = [dev.scene(dataclasses.replace(ref, label=label)) for label in range(len(dev.classes))]
    frames = [scene.without_actor().render(16, height, width) for scene in scenes]
    assert all(torch.equal(frames[0], other) for other in frames[1:])


def test_the_textured_background_moves_and_so_do_some_distractors(dev):
    scene = dev.scene(dev.refs()[0])
    bare = dataclasses.replace(scene, actor=None, distractors=()).render(16, 48, 64)
    assert (bare[:, 1:] - bare[:, :-1]).abs().mean() > 1e-3
    assert bare.std((1, 2, 3)).min() > 0.03
    moving = [any(sprite.motion) for sprite in scene.distractors]
    assert sorted(moving) == [False, False, True, True]


def test_a_moving_distractor_ends_where_it_began_on_average():
    generator = torch.Generator().manual_seed(0)
    sways = [sprite for _ in range(200) for sprite in rendering._draw_distractors(generator, 4 / 3) if sprite.cycles]
    drifts = torch.stack([(sprite.pose(16).x[-1] - sprite.pose(16).x[0]) for sprite in sways])
    assert drifts.mean().abs() < 3 * drifts.std() / len(drifts) ** 0.5


def test_the_centre_control_does_not_find_the_actors():
    module = PlantedActions(part="dev", clips=200)
    ys, xs = (torch.arange(48) + 0.5) / 48 - 0.5, (torch.arange(64) + 0.5) / 64 - 0.5
    rank = (-(ys[:, None] ** 2 + xs**2)).flatten().argsort().argsort().double()
    areas = []
    for ref in module.refs():
        actor = module.scene(ref).actor
        inside = torch.cat([(p > 0).flatten().nonzero()[:, 0] for p in actor.opacity(actor.pose(16), 48, 64)])
        # With a map constant in time, the area under the ROC curve is the mean rank inside, but for a share of G.
        areas.append(rank[inside].mean() / (48 * 64))
    assert torch.stack(areas).mean() <= 0.6


def test_the_same_scene_is_rendered_at_any_size(dev):
    ref = dev.refs()[2]
    scene = dev.scene(ref)
    small, large = scene.render(16, 48, 64), scene.render(16, 240, 320)
    reduced = torch.nn.functional.avg_pool3d(large, (1, 5, 5))
    assert (reduced - small).abs().mean() < 0.01


def test_a_model_gets_the_length_and_size_it_asks_for(dev):
    module = PlantedActions(part="dev", clips=2)
    module.adapt(ClipInput(length=10, size=(56, 40)))
    clip = module.load(module.refs()[0])
    assert clip.frames.shape == (3, 10, 56, 40)
    assert clip.tubes[0].boxes[:, 2].max() <= 40
    assert clip.tubes[0].boxes[:, 3].max() <= 56
    assert collate([clip]).tubes.any()


def test_dilation_reaches_exactly_so_far():
    mask = torch.zeros(5, 9, 11, dtype=torch.bool)
    mask[2, 4, 5] = True
    grown = verification.dilate(mask, frames=1, voxels=2)
    expected = torch.zeros_like(mask)
    expected[1:4, 2:7, 3:8] = True
    assert torch.equal(grown, expected)


def test_swapping_the_outside_keeps_the_dilated_tube_and_nothing_else(dev):
    first, second = (dev.load(ref) for ref in dev.refs()[:2])
    swapped = verification.swap_outside(first, second)
    inside = verification.dilate(masks(first), 1, 4)
    assert torch.equal(swapped[:, inside], first.frames[:, inside])
    assert torch.equal(swapped[:, ~inside], second.frames[:, ~inside])


def test_wilsons_interval_against_his_formula():
    low, high = verification.Rate(8, 10).interval
    assert (low, high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # statsmodels proportion_confint, wilson


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    module = PlantedActions(clips=10, train_clips=10)
    writing.write_ucf101(module, root)
    return root, module


def test_the_folder_lies_as_ucf101_does(written):
    root, module = written
    test = (root / "splits" / "testlist01.txt").read_bytes().decode()
    assert test.startswith("FlashDarkLight/v_FlashDarkLight_g01_c01.avi\r\n")
    train = (root / "splits" / "trainlist01.txt").read_text().split("\n")
    assert train[1] == "FlashLightDark/v_FlashLightDark_g02_c01.avi 2"
    assert (root / "splits" / "classInd.txt").read_text().split("\n")[9] == "10 TurnClockwise"
    for line in test.split():
        assert (root / "UCF-101" / line).is_file()
    annotations = loadmat(root / "tubes" / "finalAnnots.mat", squeeze_me=True, struct_as_record=False)["annot"]
    assert len(annotations) == 20
    tube = annotations[2].tubes
    clip = dataclasses.replace(module, size=(240, 320)).load(module.refs()[2])
    assert (annotations[2].name, annotations[2].num_imgs) == ("Grow/v_Grow_g01_c01", 16)
    assert (tube.sf, tube.ef) == (clip.tubes[0].start + 1, clip.tubes[0].start + len(clip.tubes[0].boxes))
    x, y, w, h = tube.boxes[0].astype(int)
    assert clip.tubes[0].boxes[0].tolist() == [x - 1, y - 1, x - 1 + w, y - 1 + h]
    assert getattr(tube, "class") == module.classes.index("Grow") + 1


def test_the_command_writes_the_folder(tmp_path: Path):
    module = importlib.import_module(PlantedActions.__module__)
    module.main(["write", str(tmp_path), "--clips", "1", "--train-clips", "1"])
    assert len(list(tmp_path.glob("UCF-101/*/*.avi"))) == 2


@pytest.mark.skipif(
    importlib.util.find_spec("vidattr_bench.datasets.ucf101") is None, reason="there is no ucf101 data set"
)
def test_the_ucf101_module_reads_the_folder_back(written):
    root, module = written
    module.adapt(ClipInput(length=16, size=(240, 320)))
    ucf101 = create("datasets", f'ucf101:root="{root}"', split=1)
    ucf101.adapt(ClipInput(length=16, stride=1, size=(240, 320)))
    refs = ucf101.refs()
    assert len(refs) == 10
    assert [ucf101.classes[ref.label] for ref in refs] == list(module.classes)
    for theirs, ours in list(zip(refs, module.refs(), strict=True))[::3]:
        read, made = ucf101.load(theirs), module.load(ours)
        assert (read.frames - made.frames).abs().max() <= 0.5 / 255 + 1e-6
        assert torch.equal(masks(read), masks(made))
        assert read.annotated.all()
