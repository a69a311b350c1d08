"""One stream of two: what explains it, removes it and draws it leaves the other one as it is."""

import dataclasses

import pytest
import torch
from torch import nn

import vidattr_bench as vb
from vidattr_bench import evaluation, plugins
from vidattr_bench.clip import Batch
from vidattr_bench.errors import DataError, ModelError, NotApplicableError
from vidattr_bench.metrics._randomised import layers_of
from vidattr_bench.model import NO_MOTION, ClipInput, VideoModel
from vidattr_bench.plan import check_stream, configure_dataset
from vidattr_bench.rows import Subject
from vidattr_bench.selection import run_names
from vidattr_bench.shared import Shared
from vidattr_bench.streams import channels_of, of_stream, shown
from vidattr_bench.substrates import bind

T, H, W, K, FIELDS = 4, 10, 12, 3, 2
WANTED = ClipInput(length=T, size=(H, W), flow=FIELDS)
CHANNELS = 3 + 2 * FIELDS
STREAMS = {"rgb": slice(0, 3), "flow": slice(3, CHANNELS)}


class TwoStreams(nn.Module):
    """Features of pixels and of flow, put together by a convolution, pooled and classified."""

    def __init__(self):
        super().__init__()
        self.rgb_1, self.rgb_2, self.rgb_relu = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 4, 1), nn.ReLU()
        self.flow_1, self.flow_2 = nn.Conv3d(2 * FIELDS, 4, 3, padding=1), nn.Conv3d(4, 4, 1)
        self.flow_relu = nn.ReLU()
        self.fusion, self.relu, self.head = nn.Conv3d(8, 5, 1), nn.ReLU(), nn.Linear(5, K)

    def forward(self, x):
        pixels = self.rgb_relu(self.rgb_2(self.rgb_1(x[:, :3])))
        flow = self.flow_relu(self.flow_2(self.flow_1(x[:, 3:])))
        return self.head(self.relu(self.fusion(torch.cat([pixels, flow], 1))).mean((2, 3, 4)))


def two_streams(net):
    layers = {"rgb": "rgb_relu", "flow": "flow_relu"} if isinstance(net, TwoStreams) else None
    mean, std = [0.4] * 3 + [NO_MOTION] * 2 * FIELDS, [0.25] * 3 + [0.5] * 2 * FIELDS
    return VideoModel(net, [*"abc"], mean, std, input=WANTED, feature_layers=layers, name="two")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return two_streams(TwoStreams())


@pytest.fixture
def frames():
    return torch.rand(3, CHANNELS, T, H, W, generator=torch.Generator().manual_seed(1))


TARGET = torch.tensor([1])


@pytest.mark.parametrize("stream", STREAMS)
def test_the_stream_is_all_that_changes(model, frames, stream):
    own = STREAMS[stream]
    view = of_stream(model, stream, frames[:1])
    assert channels_of(model, stream) == own
    assert torch.equal(view(frames[:1, own]), model(frames[:1]))
    mixed = frames[:1].expand(3, -1, -1, -1, -1).clone()
    mixed[:, own] = frames[:, own]
    before = model.calls.forwards
    assert torch.equal(view(frames[:, own]), model(mixed))
    assert model.calls.forwards == before + 6, "calls of the view count as calls of the model"
    assert view.input.streams == {stream: own.stop - own.start}


@pytest.mark.parametrize("spec", ["input_x_gradient", "lrp"])
def test_what_adds_up_over_channels_adds_up_over_streams(model, frames, spec):
    method = vb.create("methods", spec)
    parts = [method(of_stream(model, s, frames[:1]), frames[:1, own], TARGET) for s, own in STREAMS.items()]
    torch.testing.assert_close(sum(parts), method(model, frames[:1], TARGET), rtol=1e-4, atol=1e-7)


def test_integrated_gradients_add_up_to_what_no_motion_takes_away(model, frames):
    """The baseline `black` of the flow is a clip in which nothing moves, and the pixels stay."""
    method = vb.create("methods", "integrated_gradients:score=logit,steps=200")
    total = method(of_stream(model, "flow", frames[:1]), frames[:1, STREAMS["flow"]], TARGET).sum()
    still = frames[:1].clone()
    still[:, STREAMS["flow"]] = NO_MOTION
    torch.testing.assert_close(total, (model(frames[:1]) - model(still))[0, 1], rtol=5e-3, atol=2e-6)


def test_a_linear_model_has_the_map_of_each_stream_in_closed_form(frames):
    weights = torch.randn(CHANNELS, T, H, W, generator=torch.Generator().manual_seed(2))
    net = nn.Sequential(nn.Flatten(), nn.Linear(weights.numel(), K, bias=False))
    net[1].weight.data[:] = 0
    net[1].weight.data[1] = weights.flatten()
    model = two_streams(net)
    x = model.normalise(frames[:1])
    for stream, own in STREAMS.items():
        view = of_stream(model, stream, frames[:1])
        method = vb.create("methods", "input_x_gradient:score=logit")
        found = method(view, frames[:1, own], TARGET)
        torch.testing.assert_close(found, (x * weights)[:, own].sum(1), rtol=1e-4, atol=1e-5)


def test_layers_keep_their_names_and_each_stream_has_its_own(model, frames):
    for stream, own in STREAMS.items():
        view = of_stream(model, stream, frames[:1])
        x = view.normalise(frames[:1, own])
        assert view.feature_layer(x) == f"{stream}_relu"
        assert view.module("fusion") is model.module("fusion")
        assert view.output_shape("fusion", x) == (5, T, H, W)
        grad_cam, fused = (vb.create("methods", spec) for spec in ("grad_cam", "grad_cam:layer=relu"))
        assert not torch.equal(grad_cam(view, frames[:1, own], TARGET), fused(view, frames[:1, own], TARGET))
        other = "rgb" if stream == "flow" else "flow"
        with pytest.raises(NotApplicableError, match="does not depend on the stream"):
            vb.create("methods", f"grad_cam:layer={other}_relu")(view, frames[:1, own], TARGET)


def test_two_views_of_two_clips_do_not_meet(model, frames):
    first, second = (of_stream(model, "flow", frames[i : i + 1]) for i in range(2))
    method, own = vb.create("methods", "lrp"), STREAMS["flow"]
    before = method(first, frames[:1, own], TARGET)
    method(second, frames[1:2, own], TARGET)
    assert torch.equal(method(first, frames[:1, own], TARGET), before)


def test_black_is_no_motion_where_there_is_flow(model, frames):
    everything = torch.ones(1, T, H, W)
    for view, own in ((model, slice(0, CHANNELS)), (of_stream(model, "flow", frames[:1]), STREAMS["flow"])):
        x = view.normalise(frames[:1, own])[0]
        out = bind("black", x, view, 0, "clip", None)(everything, torch.empty_like(x)[None])
        pixels = out[0] * view.std[0] + view.mean[0]
        expected = torch.tensor([0.0] * 3 + [NO_MOTION] * 2 * FIELDS)[own]
        torch.testing.assert_close(pixels[:, 0, 0, 0], expected, rtol=0, atol=1e-6)


METHODS, METRICS = ("gradient", "grad_cam", "random"), ("srg", "srg:substrate=other_clip", "roc_auc")


def rows_of(model, frames, stream, only=slice(None), ids=("a", "b", "c"), donor=None, names=(METHODS, METRICS)):
    methods = {name: plugins.create("methods", name) for name in names[0]}
    metrics = {name: plugins.create("metrics", name) for name in names[1]}
    tubes = torch.zeros(3, T, H, W, dtype=torch.bool)
    tubes[:, 1:3, 2:6, 3:8] = True
    batch = Batch(list(ids), frames, torch.tensor([0, 1, 2]), tubes, torch.ones(3, T, dtype=torch.bool))
    batch = batch.select(range(3)[only])
    constants = {"dataset": "d", "split": "s", "model": "two", "weights": "w"}
    told = {"sampled": frozenset(ids), "donor": donor, "stream": stream}
    subject = Subject(model, methods, metrics, torch.arange(K), "label", 0, 3, constants, **told)
    missing = {cell for id in batch.ids for cell in subject.cells(id)}
    return evaluation.evaluate(subject, batch, missing, lambda clip: True, lambda *text: None)


@pytest.mark.parametrize("stream", STREAMS)
def test_rows_of_a_stream_are_those_of_its_view(model, frames, stream):
    """Neighbours in the batch change nothing, and of the donor the same stream is shown."""
    donated = torch.rand(CHANNELS, T, H, W, generator=torch.Generator().manual_seed(9))
    found = rows_of(model, frames, stream, donor=lambda clip: donated)
    assert {row["status"] for row in found.scores} == {"ok"}
    own = STREAMS[stream]
    for i in range(3):
        view, clips = of_stream(model, stream, frames[i : i + 1]), frames[:, own]
        alone = rows_of(view, clips, "", slice(i, i + 1), donor=lambda clip: donated[own])
        same = [row for row in found.scores if row["clip"] == "abc"[i]]
        assert [row["value"] for row in same] == [row["value"] for row in alone.scores]
        assert all(torch.equal(found.maps[key], map) for key, map in alone.maps.items())
    assert found.maps["a", "gradient"].shape == (T, H, W)


def test_streams_and_both_together_are_scored_apart(model, frames):
    srg = {}
    for stream in ("", *STREAMS):
        rows = rows_of(model, frames, stream, donor=lambda clip: frames[0]).scores
        srg[stream] = [row["value"] for row in rows if row["method"] == "gradient" and row["metric"] == "srg"]
    assert len({tuple(values) for values in srg.values()}) == 3


def test_what_is_shown(frames):
    clip = frames[0]
    assert torch.equal(shown(clip, WANTED), (clip[:3].permute(1, 2, 3, 0) * 255).round().byte())
    moving = torch.full((2 * FIELDS, T, H, W), NO_MOTION)
    moving[2, :, :, : W // 2] = 1.0  # to the right, in the middle field
    alone = dataclasses.replace(WANTED, pixels=False)
    for seen in (shown(moving, alone), shown(torch.cat([clip[:3], moving]), WANTED, "flow")):
        assert seen.shape == (T, H, W, 3)
        left, right = seen[0, 0, 0].int(), seen[0, 0, -1].int()
        assert left[0] > 200, "motion to the right is red on the wheel"
        assert left[1:].max() < 60, "and red alone"
        assert right.min() >= 250, "no motion is white"


def test_what_makes_no_sense_is_refused(model, frames):
    with pytest.raises(ModelError, match="no stream 'depth'"):
        of_stream(model, "depth", frames[:1])
    with pytest.raises(ModelError, match=r"one clip of all of them, \(1, 7, T, H, W\)"):
        of_stream(model, "flow", frames)
    with pytest.raises(ModelError, match=r"\(1, 7, T, H, W\), not \(1, 3,"):
        of_stream(model, "flow", frames[:1, :3])
    one = VideoModel(nn.Conv3d(3, 4, 3), [], input=ClipInput())
    with pytest.raises(ModelError, match="leave --stream out"):
        check_stream("rgb", one)
    with pytest.raises(ModelError, match="no stream 'flow'"):
        check_stream("flow", one)
    check_stream("flow", model)
    with pytest.raises(ModelError, match="pixels=False and flow=0 give neither"):
        ClipInput(pixels=False)
    with pytest.raises(ModelError, match="feature_layer='no' names no module"):
        VideoModel(nn.Conv3d(3, 4, 3), [], feature_layers={"rgb": "no"})
    with pytest.raises(DataError, match="delivers no optical flow"):
        configure_dataset("planted_actions").adapt(WANTED)


def test_clips_of_pixels_alone_are_recorded_as_ever():
    """Folders of earlier runs are compared by this text."""
    text = (
        "ClipInput(length=16, stride=1, anchor='middle', size=(112, 112), resize=None, crop='centre', "
        "interpolation='bilinear')"
    )
    assert str(ClipInput()) == text
    assert str(WANTED).endswith("pixels=True, flow=2)")
    assert WANTED.shape == (CHANNELS, T, H, W)
    assert dataclasses.replace(WANTED, pixels=False).shape == (2 * FIELDS, T, H, W)


def test_a_network_of_ones_own_says_which_streams_it_wants():
    entry = plugins.create("models", 'factory:callable=torch.nn.Identity,length=4,size="[10,12]",flow=2')
    assert entry.build().input == WANTED


def test_every_metric_has_a_value_or_a_reason_on_a_stream(model, frames):
    """What would need the other stream, or a flow that nobody computed, is not applicable."""
    of_pixels = {"warped_consistency"}
    of_neither = {"flip_equivariance", "reversal_consistency", "static_clip"}
    metrics = [*of_pixels, *of_neither, "neuron_selectivity", "model_randomisation", "shift_consistency", "infidelity"]
    for stream in STREAMS:
        rows = rows_of(model, frames, stream, slice(1), names=(("grad_cam",), metrics))
        refused = {row["metric"] for row in rows.scores if row["status"] == "not_applicable"}
        assert refused == (of_neither if stream == "rgb" else of_neither | of_pixels)
        assert not [row for row in rows.scores if row["status"] == "failed"]


@pytest.mark.parametrize("stream", STREAMS)
def test_only_layers_that_the_stream_reaches_count(model, frames, stream):
    """Neither the layer before another one nor what is randomised first lies in the other stream's part."""
    view, other = of_stream(model, stream, frames[:1]), "flow" if stream == "rgb" else "rgb"
    x = view.normalise(frames[:1, STREAMS[stream]])
    assert view.layer_before(f"{stream}_relu", x) == f"net.{stream}_1"
    names = [name for layer in layers_of(view, x).names for name in layer]
    assert [name for name in names if name.startswith(f"net.{stream}_")]
    assert not [name for name in names if name.startswith(f"net.{other}_")]


def test_what_looks_at_pixels_does_not_look_at_flow(model, frames):
    """Supervoxels, edges and frame differences of a clip of both streams are those of its pixels."""
    other = frames.clone()
    other[:, 3:] = 1 - other[:, 3:]
    for name in ("edges", "frame_difference"):
        maps = [vb.create("methods", name)(model, clips, torch.zeros(3, dtype=torch.long)) for clips in (frames, other)]
        assert torch.equal(*maps)
    units = [Shared(model, batch_of(clips), torch.zeros(1)).units(0, "supervoxel").labels for clips in (frames, other)]
    assert torch.equal(*units)


def batch_of(frames):
    tubes = torch.zeros(1, T, H, W, dtype=torch.bool)
    return Batch(["a"], frames[:1], torch.tensor([0]), tubes, torch.ones(1, T, dtype=torch.bool))


def test_xrai_begins_where_nothing_moves(model, frames):
    """Where nothing moves the path from `black` has no length, and the one from `white` is all there is."""
    still = frames[:1].clone()
    still[:, STREAMS["flow"]] = NO_MOTION
    view = of_stream(model, "flow", frames[:1])
    xrai = vb.create("methods", 'xrai_3d:pool=sum,steps=100,segments="[6]"')
    found = xrai._attribution(view, still[0, STREAMS["flow"]], TARGET[0]).sum()
    moving = torch.ones_like(still[:, STREAMS["flow"]])
    assert float(found) == pytest.approx(float((view(still[:, STREAMS["flow"]]) - view(moving))[0, 1]) / 2, rel=1e-2)


def test_a_picture_of_a_pyramid_of_flow_is_drawn(model, frames, tmp_path):
    view = of_stream(model, "flow", frames[:1])
    pyramid = vb.create("methods", "class_feature_pyramid")
    written = pyramid.illustrate(view, frames[:1, STREAMS["flow"]], TARGET, tmp_path / "clip")
    assert [path.suffix for path in written] == [".json", ".png"]


def test_runs_of_two_streams_are_told_apart():
    facts = [{"dataset": "d", "model": "m", "stream": stream} for stream in ("rgb", "flow", "")]
    assert run_names(facts, "abc") == ["d, m, stream rgb", "d, m, stream flow", "d, m, stream all"]
