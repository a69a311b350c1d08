"""One stream of two: what explains it, removes it and draws it leaves the other one as it is."""

import dataclasses

import pytest
import torch
from torch import nn

import vidattr_bench as vb
from vidattr_bench import evaluation, plugins
from vidattr_bench.clip import Batch
from vidattr_bench.errors import DataError, ModelError
from vidattr_bench.model import NO_MOTION, ClipInput, VideoModel
from vidattr_bench.plan import check_stream, configure_dataset
from vidattr_bench.rows import Subject
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
        self.rgb, self.rgb_relu = nn.Conv3d(3, 4, 3, padding=1), nn.ReLU()
        self.flow, self.flow_relu = nn.Conv3d(2 * FIELDS, 4, 3, padding=1), nn.ReLU()
        self.fusion, self.relu, self.head = nn.Conv3d(8, 5, 1), nn.ReLU(), nn.Linear(5, K)

    def forward(self, x):
        pixels, flow = self.rgb_relu(self.rgb(x[:, :3])), self.flow_relu(self.flow(x[:, 3:]))
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
    torch.testing.assert_close(total, (model(frames[:1]) - model(still))[0, 1], rtol=5e-3, atol=0)


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
        other = "rgb" if stream == "flow" else "flow"
        grad_cam = vb.create("methods", "grad_cam")
        named = vb.create("methods", f"grad_cam:layer={other}_relu")
        assert not torch.equal(grad_cam(view, frames[:1, own], TARGET), named(view, frames[:1, own], TARGET))


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


def rows_of(model, frames, stream, only=slice(None), ids=("a", "b", "c"), donor=None):
    names = ["gradient", "grad_cam", "random"]
    methods = {name: plugins.create("methods", name) for name in names}
    metrics = {name: plugins.create("metrics", name) for name in ("srg", "srg:substrate=other_clip", "roc_auc")}
    tubes = torch.zeros(3, T, H, W, dtype=torch.bool)
    tubes[:, 1:3, 2:6, 3:8] = True
    batch = Batch(list(ids), frames, torch.tensor([0, 1, 2]), tubes, torch.ones(3, T, dtype=torch.bool))
    batch = batch.select(range(3)[only])
    constants = {"dataset": "d", "split": "s", "model": "two", "weights": "w"}
    subject = Subject(model, methods, metrics, torch.arange(K), "label", 0, 3, constants, donor=donor, stream=stream)
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
