"""The CAM family against its formulas cell by cell, Captum, pytorch-grad-cam, and the identities between its members.

Tolerance: 1e-4 relative in float32, of a map's largest value where a map may be near 0.
"""

import importlib

import numpy as np
import pytest
import torch
from captum.attr import LayerFeatureAblation, LayerGradientXActivation
from scipy import ndimage
from sklearn.decomposition import PCA
from torch import nn

from vidattr_bench.errors import ModelError, NotApplicableError, PluginError
from vidattr_bench.fixtures import CLASSES, SmallNet, as_model, explain, small_batch, small_model
from vidattr_bench.model import VideoModel
from vidattr_bench.plugins import create
from vidattr_bench.small_networks import PlainNet

T, H, W = 6, 20, 28
GRADIENT_MAPS = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "x_grad_cam")


class WideNet(SmallNet):
    """A `SmallNet` whose features are more than go through a network at once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3, self.activation3 = nn.Conv3d(8, 11, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU()
        self.head = nn.Linear(11, len(CLASSES))

    def forward(self, x):
        x = self.activation1(self.bn1(self.conv1(x)))
        return self.head(self.average(self.activation3(self.conv3(self.pool(x)))).flatten(1))


@pytest.fixture
def model() -> VideoModel:
    return small_model()


@pytest.fixture
def wide() -> VideoModel:
    return as_model(WideNet)


@pytest.fixture
def batch():
    return small_batch(3)


def native(text, model, batch):
    with torch.enable_grad():
        return create("methods", text).attribute(model, batch.frames, batch.labels).detach()


def assert_same(found, expected, rtol=1e-4):
    expected = torch.as_tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def activations_and_gradients(model, layer, batch):
    """A and g of the logits (N, C, t, h, w) by a plain hook."""
    kept = []
    with model.module(layer).register_forward_hook(lambda _, args, output: kept.append(output)):
        logits = model.logits(model.normalise(batch.frames).requires_grad_())
    (A,) = kept
    (g,) = torch.autograd.grad(logits[range(len(logits)), batch.labels].sum(), A)
    return A.detach(), g


def grad_cam(A, g):
    return A * sum(g.flatten()) / g.size


def hires_cam(A, g):
    return A * g


def layer_cam(A, g):
    return A * np.maximum(g, 0)


def x_grad_cam(A, g):
    return A * sum(a * b / A.sum() for a, b in zip(A.flat, g.flat, strict=True))


def grad_cam_plus_plus(A, g):
    alphas = [b**2 / (2 * b**2 + b**3 * A.sum()) if b != 0 else 0.0 for b in g.flat]
    return A * sum(alpha * max(b, 0) for alpha, b in zip(alphas, g.flat, strict=True))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layer", ["activation1", "pool"])
@pytest.mark.parametrize("formula", [grad_cam, hires_cam, layer_cam, x_grad_cam, grad_cam_plus_plus])
def test_gradient_maps_are_their_formulas_cell_by_cell(formula, layer, relu, model, batch):
    A, g = (values.double().numpy() for values in activations_and_gradients(model, layer, batch))
    expected = np.stack(
        [sum(formula(*channel) for channel in zip(*clip, strict=True)) for clip in zip(A, g, strict=True)]
    )
    found = native(f"{formula.__name__}:layer={layer},relu={relu}", model, batch)
    assert_same(found, np.maximum(expected, 0) if relu else expected)


def test_grad_cam_plus_plus_knows_no_absolute_scale(wide, batch):
    """Activations k times smaller and a head k times larger: the same logits, the same map."""
    expected = native("grad_cam_plus_plus", wide, batch)
    for k in (1e-6, 1e6):
        scaled = as_model(WideNet)
        scaled.net.head.weight.data *= k
        scaled.net.conv3.weight.data /= k
        scaled.net.conv3.bias.data /= k
        assert_same(native("grad_cam_plus_plus", scaled, batch), expected)


@pytest.mark.parametrize("name", ["x_grad_cam", "grad_cam_plus_plus", "eigen_cam", "score_cam", "ablation_cam"])
def test_dead_channels_leave_no_trace(name, model, batch):
    model.net.bn2.weight.data.zero_()
    model.net.bn2.bias.data.fill_(-100.0)
    assert not native(name, model, batch).any()


def test_hires_cam_is_captums_gradient_times_activation(model, batch):
    x = model.normalise(batch.frames).requires_grad_()
    layer = LayerGradientXActivation(model.net, model.net.pool)
    expected = layer.attribute(x, target=batch.labels).detach().sum(1)
    assert_same(native("hires_cam:layer=pool,relu=false", model, batch), expected)


@pytest.mark.parametrize("layer", ["pool", "activation2"])
def test_pytorch_grad_cams_gradient_maps_of_volumes(layer, model, batch):
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    x, targets = model.normalise(batch.frames), [ClassifierOutputTarget(int(label)) for label in batch.labels]
    A, g = (values.numpy() for values in activations_and_gradients(model, layer, batch))
    for name, kind in [
        ("grad_cam", pytorch_grad_cam.GradCAM),
        ("hires_cam", pytorch_grad_cam.HiResCAM),
        ("layer_cam", pytorch_grad_cam.LayerCAM),
        ("x_grad_cam", pytorch_grad_cam.XGradCAM),
        ("grad_cam_plus_plus", pytorch_grad_cam.GradCAMPlusPlus),
    ]:
        # Its absolute epsilon is small beside gradients of order 1; the map is the same for (A / k, g k).
        k = 1 / np.abs(g).max()
        with kind(model.net.requires_grad_(), [model.module(layer)]) as theirs:
            expected = theirs.get_cam_image(x, model.module(layer), targets, A / k, g * k, eigen_smooth=False)
        assert_same(native(f"{name}:layer={layer}", model, batch), np.maximum(expected, 0), rtol=1e-3)


def test_eigen_cam_is_pytorch_grad_cams_up_to_the_sign(model, batch):
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    A, _ = activations_and_gradients(model, "pool", batch)
    expected = torch.from_numpy(pytorch_grad_cam.utils.svd_on_activations.get_2d_projection(A.numpy()))
    found = native("eigen_cam:layer=pool,relu=false", model, batch)
    signs = (found * expected).sum((1, 2, 3), keepdim=True).sign()
    assert_same(found, signs * expected)


def test_eigen_cam_is_the_first_principal_component(model, batch):
    A, _ = activations_and_gradients(model, "pool", batch)
    found = native("eigen_cam:layer=pool,relu=false", model, batch)
    for ours, volume in zip(found, A, strict=True):
        cells = volume.flatten(1).T.double().numpy()
        scores = PCA(n_components=1).fit_transform(cells)[:, 0]
        scores *= np.sign(np.corrcoef(scores, cells.mean(1))[0, 1])
        assert_same(ours.flatten(), scores)
        assert np.corrcoef(ours.flatten().numpy(), cells.mean(1))[0, 1] > 0
    assert_same(native("eigen_cam:layer=pool", model, batch), found.relu())


def test_eigen_cam_is_blind_to_the_class(model, batch):
    method = create("methods", "eigen_cam")
    assert torch.equal(method(model, batch.frames, batch.labels), method(model, batch.frames, 4 - batch.labels))


@pytest.mark.parametrize("negative", [False, True])
def test_ablation_cam_is_captums_layer_ablation(wide, batch, negative):
    wide.net.head.bias.data += -50.0 if negative else 50.0
    x = wide.normalise(batch.frames)
    channels = torch.arange(11).view(1, 11, 1, 1, 1)
    ablation = LayerFeatureAblation(wide.net, wide.net.activation3)
    drops = ablation.attribute(x, target=batch.labels, layer_mask=channels).mean((2, 3, 4))
    A, _ = activations_and_gradients(wide, "activation3", batch)
    clean = wide.logits(x)[range(3), batch.labels]
    assert (clean < 0).all() == negative
    weights = drops / clean.abs()[:, None]
    expected = torch.einsum("nc,ncthw->nthw", weights, A)
    assert_same(native("ablation_cam:relu=false", wide, batch), expected, rtol=1e-3)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_ablation_cam_forwards_without_one_channel_after_another(model, batch, ablation):
    """Through what follows on the layer, a residual sum included, written out."""
    net = model.net

    def probabilities(A):
        return net.head(net.average(net.activation2(A + net.bn2(net.conv2(A)))).flatten(1)).softmax(1)

    A, _ = activations_and_gradients(model, "pool", batch)
    expected = torch.zeros(3, *A.shape[2:])
    for clip, target in enumerate(batch.labels):
        clean = probabilities(A[clip : clip + 1])[0, target]
        for j in range(A.shape[1]):
            without = A[clip : clip + 1].clone()
            without[:, j] = without[:, j].mean() if ablation == "mean" else 0.0
            expected[clip] += (clean - probabilities(without)[0, target]) / clean * A[clip, j]
    found = native(f"ablation_cam:layer=pool,ablation={ablation},score=prob,relu=false", model, batch)
    assert_same(found, expected)


def test_ablation_cam_at_a_linear_head_is_the_share_of_each_channel_in_the_logit(wide, batch):
    A, _ = activations_and_gradients(wide, "activation3", batch)
    share = wide.net.head.weight[batch.labels] * A.mean((2, 3, 4))
    clean = wide(batch.frames)[range(3), batch.labels]
    expected = torch.einsum("nc,ncthw->nthw", share / clean.abs()[:, None], A)
    assert_same(native("ablation_cam:relu=false", wide, batch), expected, rtol=1e-3)


def test_a_pooled_linear_head_sees_nothing_but_means(wide, batch):
    zero, mean = (native(f"ablation_cam:relu=false,ablation={ablation}", wide, batch) for ablation in ("zero", "mean"))
    assert mean.abs().max() < 1e-5 * zero.abs().max()


def score_cam_by_hand(model, batch, layer, fill, score, weigh):
    """One clip and one channel at a time; `weigh` makes weights of the scores and of that of the filled clip."""
    A, _ = activations_and_gradients(model, layer, batch)
    x = model.normalise(batch.frames)
    maps = []
    for clip, target in enumerate(batch.labels):
        scores = []
        for channel in A[clip]:
            mask = torch.nn.functional.interpolate(channel[None, None], (T, H, W), mode="trilinear")[0, 0]
            mask = (mask - mask.min()) / (mask.max() - mask.min()) if channel.unique().numel() > 1 else mask * 0
            scores.append(score(model.logits((mask * x[clip] + (1 - mask) * fill)[None]))[0, target])
        empty = score(model.logits(fill.expand_as(x[clip])[None]))[0, target]
        weights = weigh(torch.stack(scores), empty)
        maps.append(sum(weight * channel for weight, channel in zip(weights, A[clip], strict=True)))
    return torch.stack(maps).detach()


@pytest.mark.parametrize(
    ("options", "score", "weigh"),
    [
        ("", lambda logits: logits, lambda scores, empty: (scores - empty).exp() / (scores - empty).exp().sum()),
        ("normalise=none", lambda logits: logits, lambda scores, empty: scores - empty),
        ("normalise=none,weight=score", lambda logits: logits, lambda scores, empty: scores),
        ("normalise=none,score=prob", lambda logits: logits.softmax(1), lambda scores, empty: scores - empty),
        # What the authors' code does.
        ("normalise=none,weight=score,score=prob", lambda logits: logits.softmax(1), lambda scores, empty: scores),
    ],
)
@pytest.mark.parametrize("substrate", ["mean", "black"])
def test_score_cam_is_the_formula_written_out(wide, batch, options, score, weigh, substrate):
    wide.net.conv3.bias.data[2] = -100.0
    black = wide.normalise(torch.zeros(1, 3, 1, 1, 1))[0]
    fill = black if substrate == "black" else torch.zeros_like(black)
    expected = score_cam_by_hand(wide, batch, "activation3", fill, score, weigh)
    found = native(f"score_cam:relu=false,substrate={substrate},{options}".rstrip(","), wide, batch)
    assert_same(found, expected)


def test_a_channel_that_is_constant_shows_nothing_of_the_clip():
    masks = importlib.import_module("vidattr_bench.methods.score_cam").masks
    clip = torch.zeros(3, T, H, W)
    channels = torch.stack([torch.full((2, 5, 7), 0.1), torch.arange(70.0).view(2, 5, 7) - 20])
    constant, ramp = masks(channels, clip)
    assert not constant.any()
    assert (ramp.min(), ramp.max()) == (0, 1)


def test_softmax_leaves_one_weight_of_score_cam():
    with pytest.raises(PluginError, match="normalise=none"):
        create("methods", "score_cam:weight=score")
    with pytest.raises(PluginError, match="unknown substrate"):
        create("methods", "score_cam:substrate=grey")


class FrameNet(nn.Module):
    """One network for clips of one frame and, `flat`, for frames."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        conv = nn.Conv2d if flat else nn.Conv3d
        sides = ((3, 3), (1, 1)) if flat else ((1, 3, 3), (0, 1, 1))
        self.conv1, self.conv2 = conv(3, 6, sides[0], 2, sides[1]), conv(6, 11, sides[0], 1, sides[1])
        self.relu = nn.ReLU()
        self.head = nn.Linear(11, len(CLASSES))

    def forward(self, x):
        return self.head(self.relu(self.conv2(self.conv1(x).relu())).flatten(2).mean(2))


@pytest.mark.parametrize("name", ["score_cam", "ablation_cam"])
def test_score_cam_and_ablation_cam_of_one_frame_are_pytorch_grad_cams(name, monkeypatch):
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    # Its masks are enlarged with corners aligned, ours with the centres of cells aligned, as every map here.
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size=size, mode="bilinear"))
    video, image = as_model(lambda: FrameNet(flat=False)), FrameNet(flat=True).eval()
    video.net.head.bias.data += 5.0
    image.load_state_dict({k: v if v.ndim < 5 else v.squeeze(2) for k, v in video.net.state_dict().items()})
    batch = small_batch(3, (1, H, W))
    x = video.normalise(batch.frames)[:, :, 0]
    A, _ = activations_and_gradients(video, "relu", batch)
    kind = {"score_cam": pytorch_grad_cam.ScoreCAM, "ablation_cam": pytorch_grad_cam.AblationCAM}[name]
    targets = [ClassifierOutputTarget(int(label)) for label in batch.labels]
    with kind(image, [image.relu]) as theirs:
        expected = theirs.get_cam_image(x, image.relu, targets, A[:, :, 0].numpy(), None)
    assert_same(native(f"{name}:layer=relu,relu=false", video, batch)[:, 0], expected, rtol=1e-3)


@pytest.mark.parametrize("other", ["hires_cam:", "x_grad_cam:", "grad_cam:pool=frame,"])
@pytest.mark.parametrize("relu", [True, False])
def test_three_maps_are_grad_cam_before_a_pooled_linear_head(other, relu, wide, batch):
    assert_same(native(f"{other}relu={relu}", wide, batch), native(f"grad_cam:relu={relu}", wide, batch))


@pytest.mark.parametrize(
    "other", ["hires_cam:", "x_grad_cam:", "layer_cam:", "grad_cam_plus_plus:", "grad_cam:pool=frame,"]
)
def test_they_differ_one_layer_earlier(other, model, batch):
    first, second = (native(f"{name}layer=pool", model, batch).flatten(1) for name in (other, "grad_cam:"))
    assert (nn.functional.normalize(first) - nn.functional.normalize(second)).norm(dim=1).min() > 0.01


def test_layer_cam_and_grad_cam_plus_plus_before_a_pooled_linear_head(wide, batch):
    A, _ = activations_and_gradients(wide, "activation3", batch)
    positive = wide.net.head.weight[batch.labels].relu()
    cells = A[0, 0].numel()
    assert_same(native("layer_cam", wide, batch), torch.einsum("nc,ncthw->nthw", positive, A) / cells)
    weights = positive / (2 + positive * A.mean((2, 3, 4)))
    assert_same(native("grad_cam_plus_plus", wide, batch), torch.einsum("nc,ncthw->nthw", weights, A))


def test_cam_is_grad_cam_without_relu_up_to_one_factor(wide, batch):
    cells = np.prod(wide.output_shape("activation3", batch.frames)[1:])
    for relu in (True, False):
        gradients = native(f"grad_cam:relu={relu}", wide, batch)
        assert_same(native(f"cam:relu={relu}", wide, batch), gradients * float(cells))
    tubes = create("methods", "saliency_tubes").volume(wide, batch.frames, batch.labels)
    assert torch.equal(native("cam", wide, batch), tubes)


def test_cam_and_saliency_tubes_are_enlarged_in_two_ways(wide, batch):
    volume = create("methods", "saliency_tubes").volume(wide, batch.frames, batch.labels)
    linear = torch.nn.functional.interpolate(volume[:, None], (T, H, W), mode="trilinear")[:, 0]
    assert_same(explain(create("methods", "cam"), wide, batch), linear)
    cubic = explain(create("methods", "saliency_tubes"), wide, batch)
    assert (cubic - linear).abs().max() > 0.01 * linear.abs().max()


@pytest.mark.parametrize(("weight", "activation"), [(None, None), (0.6, None), (None, 0.3), (0.4, 0.5)])
@pytest.mark.parametrize("zoom", ["authors", "aligned"])
def test_saliency_tubes_are_the_authors_loop_over_kernels(wide, batch, weight, activation, zoom):
    A, _ = activations_and_gradients(wide, "activation3", batch)
    options = [f"zoom={zoom}", *([f"weight_threshold={weight}"] if weight else [])]
    options += [f"activation_threshold={activation}"] if activation else []
    found = explain(create("methods", f"saliency_tubes:{','.join(options)}"), wide, batch)
    for clip, target in enumerate(batch.labels):
        class_weights = wide.net.head.weight[target].numpy()
        spread = (class_weights - class_weights.min()) / (class_weights.max() - class_weights.min())
        tube = np.zeros(A.shape[2:], dtype=np.float32)
        for w, share, kernel in zip(class_weights, spread, A[clip].numpy(), strict=True):
            if weight is None or share >= weight:
                tube += w * (kernel if activation is None else np.where(kernel >= activation * kernel.max(), kernel, 0))
        assert_same(found[clip], zoom_by_hand(tube, zoom))


def zoom_by_hand(volume, zoom):
    """Cubic splines sampled at the frames' positions: corners on corners (scipy's default), or cells on cells."""
    positions = [
        np.arange(new) * (old - 1) / (new - 1) if zoom == "authors" else (np.arange(new) + 0.5) * old / new - 0.5
        for old, new in zip(volume.shape, (T, H, W), strict=True)
    ]
    mode = "constant" if zoom == "authors" else "nearest"
    return ndimage.map_coordinates(volume, np.meshgrid(*positions, indexing="ij"), order=3, mode=mode)


@pytest.mark.parametrize("name", ["hires_cam", "excitation_backprop", "guided_grad_cam"])
def test_a_named_layer_needs_no_feature_layer(name, batch):
    flat = as_model(SmallNet, feature_layer="")
    with pytest.raises(NotApplicableError, match="declares that no layer"):
        explain(create("methods", name), flat, batch)
    named = [explain(create("methods", f"{name}:layer=pool"), model, batch) for model in (flat, small_model())]
    assert torch.equal(*named)


def test_back_reads_what_ends_last_before_the_convolution(model, batch):
    x = model.normalise(batch.frames)
    assert {model.layer_before(layer, x) for layer in ("activation2", "bn2", "conv2")} == {"pool"}
    found, expected = (native(f"hires_cam:{o}", model, batch) for o in ("back=1", "layer=pool"))
    assert torch.equal(found, expected)
    with pytest.raises(NotApplicableError, match="runs before 'conv1'"):
        model.layer_before("bn1", x)


@pytest.mark.parametrize("name", ["hires_cam", "x_grad_cam"])
def test_a_layer_back_is_another_map_where_relus_are_modules(name, batch):
    plain = as_model(PlainNet)
    x = plain.normalise(batch.frames)
    assert (plain.feature_layer(x), plain.layer_before("5", x)) == ("5", "3")
    found, grad_cam = native(f"{name}:back=1", plain, batch), native("grad_cam", plain, batch)
    assert_same(native(name, plain, batch), grad_cam)
    for other in (grad_cam, native("grad_cam:back=1", plain, batch)):
        assert not torch.allclose(found / found.amax(), other / other.amax(), atol=0.05)


def test_before_a_block_lies_a_whole_block():
    tiny = create("models", "tiny3d").build()
    x = torch.zeros(1, 3, 16, 48, 64)
    assert tiny.layer_before("features", x) == "whole"
    assert tiny.layer_before("features.conv", x) == "whole"
    assert tiny.layer_before("features.relu", x) == "whole"
    with pytest.raises(NotApplicableError, match="runs before 'stem'"):
        tiny.layer_before("stem", x)
    with pytest.raises(ModelError, match="did you mean"):
        tiny.layer_before("feature", x)


@pytest.mark.parametrize("name", [*GRADIENT_MAPS, "eigen_cam", "score_cam", "ablation_cam", "cam"])
def test_signed_is_what_has_no_relu(name, wide, batch):
    free, cut = (create("methods", f"{name}:relu={relu}") for relu in ("false", "true"))
    assert free.signed
    assert not cut.signed
    assert_same(native(f"{name}:relu=true", wide, batch), native(f"{name}:relu=false", wide, batch).relu())
    absolute = create("methods", f"{name}:relu=false,sign=absolute")
    assert torch.equal(explain(absolute, wide, batch), explain(free, wide, batch).abs())
    with pytest.raises(PluginError, match="relu=false"):
        create("methods", f"{name}:relu=true,sign=absolute")


@pytest.mark.parametrize("name", ["grad_cam", "hires_cam", "layer_cam", "x_grad_cam"])
def test_score_prob_is_the_logit_of_a_network_that_ends_in_a_softmax(name, wide, batch):
    class Probabilities(WideNet):
        def forward(self, x):
            return super().forward(x).softmax(1)

    expected = native(f"{name}:layer=activation3", as_model(Probabilities), batch)
    assert_same(native(f"{name}:score=prob", wide, batch), expected)
