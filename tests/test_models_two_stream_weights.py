"""Two-stream networks against their authors' files: names and shapes, written out here, and files that are refused.

Sources: twostreamfusion (cnn_ucf101_fusion.m, cnn_ucf101_temporal.m; VGG-16 of MatConvNet), st-resnet
(STResNet_stage1.m, STResNet_stage2.m; imagenet-resnet-50-dag of MatConvNet, after Caffe's ResNet-50). A port to torch,
as pytorch-mcn makes it, has these layers' names and 2-D kernels.
"""

import dataclasses
import importlib.util
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from vidattr_bench import plugins
from vidattr_bench.checkpoints import save_checkpoint
from vidattr_bench.errors import ModelError
from vidattr_bench.finetuning import starting_point
from vidattr_bench.models import st_resnet50, two_stream_vgg16
from vidattr_bench.models._matconvnet import read_dagnn

_spec = importlib.util.spec_from_file_location("matconvnet_data", Path(__file__).parent / "data" / "matconvnet.py")
matconvnet = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(matconvnet)

NAMES = ("two_stream_vgg16", "st_resnet50")
STATISTICS = ("running_mean", "running_var")
CHANNELS = {"spatial": 3, "temporal": 20}


def norm(name, channels):
    return {f"{name}.{key}": (channels,) for key in ("weight", "bias", *STATISTICS)}


def biased(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def vgg16():
    shapes = {**biased("conv53D", 512, 1024, 3, 3, 3)}
    for stream, channels in CHANNELS.items():
        for i, (count, width) in enumerate(zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True), start=1):
            for j in range(1, count + 1):
                shapes |= biased(f"conv{i}_{j}_{stream}", width, channels, 3, 3)
                channels = width
        shapes |= {**biased(f"fc6_{stream}", 4096, 512, 7, 7), **biased(f"fc7_{stream}", 4096, 4096, 1, 1)}
        shapes |= biased(f"prediction_{stream}", 101, 4096, 1, 1)
    return shapes


def resnet50():
    shapes = {}
    for stream, channels in CHANNELS.items():
        shapes |= {**biased(f"conv1_{stream}", 64, channels, 7, 7), **norm(f"bn_conv1_{stream}", 64)}
        before = 64
        for stage, (count, inner) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=2):
            for letter in "abcdef"[:count]:
                unit, pointwise = f"{stage}{letter}", (3, 1, 1) if letter == "b" else (1, 1)
                convolutions = {
                    "branch2a": (inner, before, *pointwise),
                    "branch2b": (inner, inner, 3, 3),
                    "branch2c": (4 * inner, inner, *pointwise),
                }
                if letter == "a":
                    convolutions["branch1"] = (4 * inner, before, 1, 1)
                for layer, shape in convolutions.items():
                    shapes |= {f"res{unit}_{layer}_{stream}.weight": shape}
                    shapes |= norm(f"bn{unit}_{layer}_{stream}", shape[0])
                before = 4 * inner
        shapes |= biased(f"prediction_{stream}", 101, 2048, 1, 1)
    return shapes


PUBLISHED = {"two_stream_vgg16": vgg16(), "st_resnet50": resnet50()}


def values(shapes):
    """A number for each name, filling its shape without taking up its space."""
    return {name: torch.tensor(1 + i % 991).float().expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def parameters(shapes):
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(STATISTICS))


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_how_many_parameters_there_are(name):
    said = re.search(r"(\d[\d ]+) parameters", plugins.find("models", name).summary)[1]
    assert int(said.replace(" ", "")) == parameters(PUBLISHED[name])


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_the_published_ones(name):
    entry = plugins.create("models", name)
    with torch.device("meta"):
        own = {key: tuple(tensor.shape) for key, tensor in entry.network(101).state_dict().items()}
        ported = {key: torch.empty(shape) for key, shape in PUBLISHED[name].items()}
    own = {key: shape for key, shape in own.items() if not key.endswith("num_batches_tracked")}
    assert {key: tuple(tensor.shape) for key, tensor in entry.adapted(ported).items()} == own


@pytest.mark.parametrize("name", [pytest.param("two_stream_vgg16", marks=pytest.mark.slow), "st_resnet50"])
def test_a_ports_file_loads_strictly(tmp_path, name):
    state = {f"module.{key}": tensor for key, tensor in values(PUBLISHED[name]).items()}
    torch.save({"epoch": 8, "state_dict": state}, tmp_path / "weights.pth")
    model = plugins.create("models", name, checkpoint=tmp_path / "weights.pth").build()
    loaded = {key: t for key, t in model.net.state_dict().items() if not key.endswith("num_batches_tracked")}
    # Each published tensor has a number of its own in `values`, which fills ours whole.
    numbers = {key: (t.numel(), float(t.flatten()[0]), bool((t == t.flatten()[0]).all())) for key, t in loaded.items()}
    expected = [(t.numel(), float(t.flatten()[0]), True) for t in values(PUBLISHED[name]).values()]
    assert sorted(numbers.values()) == sorted(expected)
    assert model.classes == ()
    assert model.declares_normalisation
    assert model.declared_feature_layer == plugins.load("models", name).feature_layer


def test_a_layer_that_lacks_is_named(tmp_path):
    state = values(PUBLISHED["st_resnet50"])
    state["res3b_branch2a_motion.weight"] = state.pop("res3b_branch2a_temporal.weight")
    torch.save(state, tmp_path / "weights.pth")
    wanted = r"1 missing: temporal\.res3b\.branch2a\.weight.*1 left over: res3b_branch2a_motion\.weight"
    with pytest.raises(ModelError, match=wanted):
        plugins.create("models", "st_resnet50", checkpoint=tmp_path / "weights.pth").build()


def test_kernels_and_statistics_are_turned_into_torchs(tmp_path):
    network = matconvnet.st_resnet()
    state, mean = read_dagnn(matconvnet.write(tmp_path / "net.mat", network))
    arrays = network[1]
    spatial, frames = arrays["res2a_branch2b_filter_spatial"], arrays["res2b_branch2a_filter_temporal"]
    assert state["res2a_branch2b_spatial.weight"][2, 1, 0, 2] == spatial[0, 2, 1, 2]
    over_time = state["res2b_branch2a_temporal.weight"]
    assert over_time.shape == (3, 12, 3, 1, 1)
    assert over_time[2, 7, 1, 0, 0] == frames[0, 1, 7, 2]
    moments = torch.from_numpy(arrays["bn2a_branch2a_moments_spatial"])
    torch.testing.assert_close(state["bn2a_branch2a_spatial.running_mean"], moments[:, 0])
    torch.testing.assert_close((state["bn2a_branch2a_spatial.running_var"] + 1e-5).sqrt(), moments[:, 1])
    torch.testing.assert_close(mean, torch.from_numpy(np.concatenate([matconvnet.FLOW, matconvnet.RGB])).float())


def test_a_deviation_below_the_epsilon_gives_no_negative_variance(tmp_path):
    layers, params = matconvnet.st_resnet()
    params["bn_conv1_moments_spatial"][:, 1] = 1e-4
    state, _ = read_dagnn(matconvnet.write(tmp_path / "net.mat", (layers, params)))
    assert (state["bn_conv1_spatial.running_var"] == 0).all()


def test_axes_that_matlab_drops_are_put_back(tmp_path):
    one_class = np.arange(6, dtype=np.float32).reshape(1, 1, 6)
    layers = [("prediction_spatial", "dagnn.Conv", ("f", "b"))]
    path = matconvnet.write(tmp_path / "net.mat", (layers, {"f": one_class, "b": np.ones((1, 1), np.float32)}))
    state, _ = read_dagnn(path)
    assert state["prediction_spatial.weight"].tolist() == [[[[float(i)]] for i in range(6)]]
    assert state["prediction_spatial.bias"].tolist() == [1]


class Thin(st_resnet50.STResNet50):
    """The network of the file that tests/data writes."""

    def network(self, classes):
        return st_resnet50._Network(classes, matconvnet.RESIDUAL, matconvnet.WIDTH)


class ThinVGG(two_stream_vgg16.TwoStreamVGG16):
    """The same of the other file."""

    def network(self, classes):
        places = math.prod(matconvnet.PLACES)
        return two_stream_vgg16._Network(classes, matconvnet.WIDTHS, matconvnet.UNITS, places)


def thin(path):
    return Thin(checkpoint=path)


def test_the_mean_is_that_of_the_file(tmp_path):
    model = thin(matconvnet.write(tmp_path / "net.mat", matconvnet.st_resnet())).build()
    expected = np.concatenate([matconvnet.RGB, matconvnet.FLOW]) / 255
    torch.testing.assert_close(model.mean.flatten(), torch.from_numpy(expected).float())
    torch.testing.assert_close(model.std.flatten(), torch.full((23,), 1 / 255))
    assert model.input == plugins.create("models", "st_resnet50").input
    longer = Thin(checkpoint=tmp_path / "net.mat", frames=25).build()
    assert (longer.input.length, longer.mean.tolist()) == (25, model.mean.tolist())
    # A mean image with pixels of its own, and one that is not of both streams.
    image = np.tile(np.concatenate([matconvnet.FLOW, matconvnet.RGB]), (4, 6, 1))
    image[0] += 2
    image[1] -= 2
    again = thin(matconvnet.write(tmp_path / "image.mat", matconvnet.st_resnet(), image)).build()
    torch.testing.assert_close(again.mean, model.mean)
    other = thin(matconvnet.write(tmp_path / "rgb.mat", matconvnet.st_resnet(), image[:, :, 20:])).build()
    torch.testing.assert_close(other.mean.flatten(), torch.tensor(st_resnet50.STResNet50.mean))


def test_what_training_writes_comes_back(tmp_path):
    path = matconvnet.write(tmp_path / "net.mat", matconvnet.st_resnet())
    model = thin(path).build()
    described = {"mean": [0.5] * 23, "std": [0.25] * 23, "input": {"length": 7, "flow": 10, "size": [49, 60]}}
    save_checkpoint(tmp_path / "net.safetensors", model.net, {"classes": list("abcde"), **described})
    again = thin(tmp_path / "net.safetensors").build()
    assert again.weights_hash() == model.weights_hash()
    assert again.input.shape == (23, 7, 49, 60)
    assert again.classes == tuple("abcde")
    assert again.mean.unique().tolist() == [0.5]


@pytest.mark.parametrize("name", NAMES)
def test_streams_trained_apart_are_joined_as_the_authors_start(tmp_path, name):
    network = {"two_stream_vgg16": matconvnet.two_stream_vgg16, "st_resnet50": matconvnet.st_resnet}[name]()
    files = {}
    for stream, image in (("spatial", matconvnet.RGB), ("temporal", matconvnet.FLOW)):
        alone = matconvnet.base_stream(network, stream)
        files[stream] = matconvnet.write(tmp_path / f"{stream}.mat", alone, image.reshape(1, 1, -1))
    entry = {"two_stream_vgg16": ThinVGG, "st_resnet50": Thin}[name]
    with pytest.warns(UserWarning, match="what joins the two streams is untrained"):
        model = entry(checkpoint=files["spatial"], flow_checkpoint=files["temporal"]).build()
    whole = entry(checkpoint=matconvnet.write(tmp_path / "net.mat", network)).build()
    ours, theirs = model.net.state_dict(), whole.net.state_dict()
    over_time = [key for key in ours if re.search(r"res\db\.branch2[ac]\.weight", key)]
    fusion = [key for key in ours if key.startswith("conv53D")]
    assert (len(over_time), len(fusion)) == ((16, 0) if name == "st_resnet50" else (0, 2))
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == [*fusion, *over_time]
    for key in over_time:
        first = theirs[key][:, :, :1] / 3
        torch.testing.assert_close(ours[key], first.expand_as(ours[key]))
    if fusion:
        torch.testing.assert_close(ours["conv53D.weight"], entry().network(3).conv53D.weight)
        assert not ours["conv53D.bias"].any()
    assert torch.equal(model.mean, whole.mean)


def apart(folder, *, image=matconvnet.FLOW, **spatial):
    """Files of two streams: a port's of the pixels with more in it, and MatConvNet's of the flow."""
    alone = matconvnet.base_stream(matconvnet.st_resnet(), "spatial")
    state, _ = read_dagnn(matconvnet.write(folder / "spatial.mat", alone))
    torch.save({"state_dict": state, **spatial}, folder / "spatial.pth")
    alone = matconvnet.base_stream(matconvnet.st_resnet(), "temporal")
    matconvnet.write(folder / "temporal.mat", alone, image.reshape(1, 1, -1))
    return Thin(checkpoint=folder / "spatial.pth", flow_checkpoint=folder / "temporal.mat")


@pytest.mark.filterwarnings("ignore:.*what joins the two streams")
def test_the_mean_of_one_stream_stands_beside_the_classs_of_the_other(tmp_path):
    model = apart(tmp_path).build()
    expected = [*st_resnet50.STResNet50.mean[:3], *(matconvnet.FLOW / 255).tolist()]
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(expected))


@pytest.mark.filterwarnings("ignore:.*what joins the two streams")
def test_a_stream_of_a_lightning_module_keeps_its_classes_and_says_what_is_left_out(tmp_path):
    entry = apart(tmp_path, classes=list("abcde"))
    assert entry.build().classes == tuple("abcde")
    content = torch.load(tmp_path / "spatial.pth")
    state = {f"net.{name}": tensor for name, tensor in content["state_dict"].items()}
    state["loss.weight"] = torch.ones(2)
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state}, tmp_path / "spatial.pth")
    with pytest.warns(UserWarning, match=r"spatial\.pth: left out, beside the network: loss\.weight"):
        entry.build()
    torch.save({**content, "classes": list("edcba")}, tmp_path / "named.pth")
    with pytest.raises(ModelError, match=r"temporal\.pth name other classes"):
        Thin(checkpoint=tmp_path / "named.pth", flow_checkpoint=named(tmp_path, list("abcde"))).build()


def named(folder, classes):
    """The flow's stream as a port's file, with names of classes."""
    state, _ = read_dagnn(folder / "temporal.mat")
    torch.save({"state_dict": state, "classes": classes}, folder / "temporal.pth")
    return folder / "temporal.pth"


def test_the_flows_weights_alone_are_refused(tmp_path):
    """Else a training would start from scratch."""
    with pytest.raises(ModelError, match=r"flow_checkpoint=.*f\.mat has the temporal stream alone; give checkpoint="):
        Thin(flow_checkpoint=tmp_path / "f.mat")


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_the_recorded_ones_where_the_option_is_left_out(name):
    usual = plugins.load("models", name).input
    recorded = {"input": dataclasses.replace(usual, length=25), "mean": None, "std": None}
    plugins.create("models", name)._refuse_others(recorded, Path("a.safetensors"))
    plugins.create("models", name, frames=25)._refuse_others(recorded, Path("a.safetensors"))
    with pytest.raises(ModelError, match=rf"\(frames\) ask for length {usual.length}, and .* with length 25"):
        plugins.create("models", name, frames=usual.length)._refuse_others(recorded, Path("a.safetensors"))


@pytest.mark.parametrize("meta", [{"inputs": 1.0}, {"normalization": {"imageSize": [224.0]}}, np.empty((0, 0))])
def test_a_file_without_a_mean_is_fed_as_the_class_says(tmp_path, meta):
    model = thin(matconvnet.write(tmp_path / "net.mat", matconvnet.st_resnet(), meta=meta)).build()
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(st_resnet50.STResNet50.mean))


def test_one_streams_file_for_both_is_refused(tmp_path):
    alone = matconvnet.base_stream(matconvnet.st_resnet(), "spatial")
    path = matconvnet.write(tmp_path / "spatial.mat", alone, matconvnet.RGB.reshape(1, 1, -1))
    wanted = r"1 of another shape: temporal\.conv1\.weight \(3, 3, 1, 7, 7\) for \(3, 20, 1, 7, 7\)"
    with pytest.warns(UserWarning, match="untrained"), pytest.raises(ModelError, match=wanted):
        Thin(checkpoint=path, flow_checkpoint=path).build()


def test_fine_tuning_draws_both_streams_classifiers_anew(tmp_path):
    entry = thin(matconvnet.write(tmp_path / "net.mat", matconvnet.st_resnet()))
    start = starting_point(entry, list("abc"))
    assert start.record["drawn_anew"] == ["spatial_head.prediction", "temporal_head.prediction"]
    assert start.net.temporal_head.prediction.weight.shape[0] == 3
    assert torch.equal(start.net.temporal.conv1.weight, entry.build().net.temporal.conv1.weight)
    assert start.input.streams == {"rgb": 3, "flow": 20}
    assert start.mean[3] == pytest.approx(matconvnet.FLOW[0] / 255)


def test_files_of_other_kinds_are_refused_in_words(tmp_path):
    def refused(path, message):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ModelError, match=message) as error:
                plugins.create("models", "st_resnet50", checkpoint=path).build()
        assert str(path) in str(error.value)

    refused(tmp_path / "none.mat", "there is no checkpoint")
    (tmp_path / "text.mat").write_text("a text that is called a MATLAB file, of more than a hundred and some bytes" * 3)
    refused(tmp_path / "text.mat", "cannot be read as a MATLAB file")
    whole = matconvnet.write(tmp_path / "net.mat", matconvnet.st_resnet()).read_bytes()
    (tmp_path / "half.mat").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.mat", "cannot be read as a MATLAB file")
    savemat(tmp_path / "other.mat", {"accuracy": 0.9})
    refused(tmp_path / "other.mat", "it has no layers, params, meta")
    savemat(tmp_path / "simple.mat", {"layers": np.ones(3), "params": np.ones(3), "meta": np.ones(3)})
    refused(tmp_path / "simple.mat", "holds no weights that MatConvNet's DagNN wrote")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    (tmp_path / "new.mat").write_bytes(header + b"\x89HDF\r\n\x1a\n" + bytes(500))
    refused(tmp_path / "new.mat", "save `net` with -v7")


def test_a_layer_of_another_kind_with_parameters_is_named(tmp_path):
    layers, params = matconvnet.st_resnet()
    layers.append(("scale_spatial", "dagnn.Scale", ("bn_conv1_mult_spatial",)))
    with pytest.raises(ModelError, match=r"layer scale_spatial of type dagnn\.Scale has parameters"):
        thin(matconvnet.write(tmp_path / "net.mat", (layers, params))).build()


def test_one_streams_file_is_refused(tmp_path):
    layers, params = matconvnet.two_stream_vgg16()
    half = [layer for layer in layers if layer[0].endswith("_spatial")]
    path = matconvnet.write(tmp_path / "net.mat", (half, params))
    with pytest.raises(ModelError, match=r"34 missing: temporal\.conv1_1\.weight"):
        ThinVGG(checkpoint=path).build()


@pytest.mark.parametrize("name", NAMES)
def test_without_weights_it_says_how_to_give_them(name):
    with pytest.raises(ModelError, match=f"{name}:checkpoint=FILE"):
        plugins.create("models", name).build()
