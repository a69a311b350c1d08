"""Attention rollout and gradient-weighted attention: dense transcriptions, closed forms, and networks they refuse."""

import importlib
import math
import weakref
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.swin_transformer import SwinTransformer3d

from vidattr_bench.attention import Interception
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.fixtures import CLASSES, NETWORKS, SmallNet, as_model, explain, small_batch
from vidattr_bench.plugins import create
from vidattr_bench.small_networks import SmallDividedTransformer, SmallVideoTransformer
from vidattr_bench.tokens import _Probe, tokens_of

T, H, W = 6, 20, 28
GRID = (3, 5, 7)
PATCHES = math.prod(GRID)
METHODS = ("attention_rollout", "gradient_attention")


@pytest.fixture
def batch():
    return small_batch(2)


def native(name, model, batch):
    """The map before it is resized."""
    return create("methods", name).attribute(model, batch.frames, batch.labels)


@contextmanager
def recorded_attention():
    """Collect the matrices (..., n, n) of every attention that is computed inside, in order and in the graph."""
    matrices = []

    def record(scores, softmax):
        matrices.append(softmax)
        return softmax

    with Interception(record):
        yield matrices


def weights_of(q, k, members):
    """Attention matrices (heads, n, n) over all tokens of which only `members` attend, and only to each other."""
    A = torch.zeros(len(q), q.shape[1], q.shape[1])
    softmax = (q[:, members] @ k[:, members].mT / math.sqrt(q.shape[2])).softmax(-1)
    A[:, members[:, None], members] = softmax
    return A


def joint_steps(block, heads):
    """Norm, qkv and projection of the one attention of a block, and its groups of tokens (class token first)."""
    attention = block.attention

    def qkv(x):
        return F.linear(block.norm(x), attention.in_proj_weight, attention.in_proj_bias)

    yield qkv, attention.out_proj, [torch.arange(1 + PATCHES)]


def divided_steps(block, heads):
    """The same of the temporal and of the spatial attention."""
    patches = 1 + torch.arange(PATCHES).view(GRID[0], -1)
    first = torch.zeros(1, dtype=torch.long)
    temporal, spatial = block.temporal, block.spatial
    yield (
        lambda x: temporal.qkv(temporal.norm(x)),
        lambda y: block.temporal_projection(temporal.project(y)),
        list(patches.T),
    )
    yield lambda x: spatial.qkv(spatial.norm(x)), spatial.project, [torch.cat([first, frame]) for frame in patches]


def dense(net, x, steps, heads=2):
    """Logits of one clip and the matrices (heads, n, n) over all tokens of each step, in the graph.

    The class token's row is the mean over the groups that it is in, as its copies are averaged; a token in no group
    has a row of zeros and nothing is added to it.
    """
    x, _ = net.tokens(x)
    x, matrices = x[0], []
    for block in net.blocks:
        for qkv, project, groups in steps(block, heads):
            q, k, v = qkv(x).unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
            times = torch.cat(groups).bincount(minlength=len(x))
            A = sum(weights_of(q, k, members) for members in groups) / times.clamp(min=1)[:, None]
            takes_part = (times > 0)[:, None]
            x = x + project((A @ v).transpose(0, 1).flatten(1)) * takes_part
            matrices.append(A)
        x = x + block.mlp(x)
    return net.head(net.norm(x[:1])), matrices


KINDS = [(SmallVideoTransformer, joint_steps), (SmallDividedTransformer, divided_steps)]


@pytest.mark.parametrize(("build", "steps"), KINDS, ids=["joint", "divided"])
def test_rollout_is_the_product_of_dense_matrices(build, steps, batch):
    model = as_model(build)
    for x, found in zip(model.normalise(batch.frames).split(1), native("attention_rollout", model, batch), strict=True):
        logits, matrices = dense(model.net, x, steps)
        torch.testing.assert_close(logits, model.net(x))
        rollout = torch.eye(1 + PATCHES)
        for A in matrices:
            A = A.mean(0)
            A = A + torch.diag((A.sum(1) == 0).float())
            A = 0.5 * A + 0.5 * torch.eye(len(A))
            rollout = A / A.sum(1, keepdim=True) @ rollout
        torch.testing.assert_close(found, rollout[0, 1:].view(GRID), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("build", "steps"), KINDS, ids=["joint", "divided"])
@pytest.mark.parametrize("score", ["logit", "prob"])
def test_gradient_attention_is_the_dense_rule(build, steps, score, batch):
    model = as_model(build)
    maps = native(f"gradient_attention:score={score}", model, batch)
    for x, target, found in zip(model.normalise(batch.frames).split(1), batch.labels, maps, strict=True):
        logits, matrices = dense(model.net, x.requires_grad_(), steps)
        value = (logits.softmax(1) if score == "prob" else logits)[0, target]
        R = torch.eye(1 + PATCHES)
        for A, dA in zip(matrices, torch.autograd.grad(value, matrices), strict=True):
            R = R + (dA * A).relu().mean(0) @ R
        expected = R[0, 1:].view(GRID).detach()
        assert expected.max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


def test_uniform_attention_has_a_closed_form(batch):
    model = as_model(lambda: SmallVideoTransformer(depth=3))
    for block in model.net.blocks:
        block.attention.in_proj_weight[:32] *= 1e-6
        block.attention.in_proj_bias[:32] = 0
    found = native("attention_rollout", model, batch)
    torch.testing.assert_close(found, torch.full_like(found, (1 - 0.5**3) / (1 + PATCHES)))


class AuthorsBlock(nn.Module):
    """A block as TimeSformer's authors write it: tokens by place, then frame; attention by an explicit softmax."""

    def __init__(self, block, heads):
        super().__init__()
        self.block, self.heads = block, heads

    def attend(self, attention, x):
        n, length, width = x.shape
        qkv = attention.qkv(attention.norm(x)).reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attn = (q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5
        attn = F.dropout(attn.softmax(dim=-1), 0.1, training=False)
        return attention.project((attn @ v).transpose(1, 2).reshape(n, length, width))

    def forward(self, x, T):
        B, _, m = x.shape
        xt = x[:, 1:].reshape(-1, T, m)
        added = self.attend(self.block.temporal, xt).reshape(B, -1, m)
        xt = x[:, 1:] + self.block.temporal_projection(added)
        init = x[:, :1]
        first = init.repeat(1, T, 1).reshape(B * T, 1, m)
        xs = torch.cat((first, xt.reshape(B, -1, T, m).transpose(1, 2).reshape(B * T, -1, m)), 1)
        added = self.attend(self.block.spatial, xs)
        first = added[:, 0].reshape(B, T, m).mean(1, True)
        added = added[:, 1:].reshape(B, T, -1, m).transpose(1, 2).reshape(B, -1, m)
        x = torch.cat((init, xt), 1) + torch.cat((first, added), 1)
        return x + self.block.mlp(x)


class AuthorsTimeSformer(SmallDividedTransformer):
    def forward(self, x):
        x, t = self.tokens(x)
        width = x.shape[2]
        by_place = x[:, 1:].reshape(len(x), t, -1, width).transpose(1, 2).reshape(len(x), -1, width)
        x = torch.cat((x[:, :1], by_place), 1)
        for block in self.blocks:
            x = AuthorsBlock(block, block.temporal.heads)(x, t)
        return self.head(self.norm(x[:, 0]))


@pytest.mark.parametrize("name", METHODS)
def test_neither_the_order_of_tokens_nor_the_code_of_attention_matters(name, batch):
    ours, authors = as_model(SmallDividedTransformer), as_model(AuthorsTimeSformer)
    torch.testing.assert_close(ours(batch.frames), authors(batch.frames))
    torch.testing.assert_close(native(name, authors, batch), native(name, ours, batch), rtol=1e-4, atol=1e-8)


class MeanPooled(SmallVideoTransformer):
    """No class token: the head reads the mean of the patches, which one 2-D convolution embeds frame by frame."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Conv2d(3, 16, 5, 5)

    def forward(self, x):
        patches = self.embedding(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1))
        x = patches.transpose(2, 1).flatten(2).mT
        for block in self.blocks:
            x = block(x, 0)
        return self.head(self.norm(x).mean(1))


def test_without_a_class_token_the_patches_are_read_and_frames_may_be_embedded_one_by_one(batch):
    model = as_model(MeanPooled)
    found = tokens_of(model, batch.frames)
    assert found.grid == (6, 4, 5)
    torch.testing.assert_close(found.read, torch.full((120,), 1 / 120))
    rollout = native("attention_rollout", model, batch)
    assert rollout.shape == (2, 6, 4, 5)
    torch.testing.assert_close(rollout.flatten(1).sum(1), torch.ones(2))
    assert native("gradient_attention", model, batch).flatten(1).std(1).min() > 0


class Reading(SmallVideoTransformer):
    """The head reads what `read` makes of the last tokens (N, 1 + patches, width), the class token first."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def forward(self, x):
        x, t = self.tokens(x)
        for block in self.blocks:
            x = block(x, t)
        return self.head(self.read(self.norm(x)))


@pytest.mark.parametrize(
    ("read", "patch", "class_token"),
    [
        (lambda x: x[:, 0], 0, 1),
        (lambda x: x[:, 1:].mean(1), 1 / PATCHES, 0),
        (lambda x: F.layer_norm(x[:, 1:].mean(1), (16,)), 1 / PATCHES, 0),
        (lambda x: x.mean(1), 1 / (1 + PATCHES), 1 / (1 + PATCHES)),
    ],
    ids=["class token", "patches", "patches then norm", "all tokens"],
)
def test_the_mean_that_the_head_reads_is_recognised(read, patch, class_token, batch):
    found = tokens_of(as_model(lambda: Reading(read)), batch.frames).read
    torch.testing.assert_close(found, torch.tensor([patch] * PATCHES + [class_token]).float())


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[:, 1],
        lambda x: x[:, 2:].mean(1),
        lambda x: x[:, 1:].amax(1),
        lambda x: x[:, 0] + x[:, 1:].mean(1),
        lambda x: x[:, 1:].std(1),
    ],
    ids=["one patch", "all patches but one", "maximum", "class token and mean", "deviation"],
)
def test_a_head_that_reads_something_else_is_refused(read, batch):
    with pytest.raises(NotApplicableError, match="the head reads neither"):
        explain(create("methods", "attention_rollout"), as_model(lambda: Reading(read)), batch)


class Dropping(MeanPooled):
    """The last patch gives way to a copy of the first one before the mean."""

    def forward(self, x):
        patches = self.embedding(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1))
        x = patches.transpose(2, 1).flatten(2).mT
        x = self.blocks[0](x, 0)
        return self.head(self.norm(torch.cat([x[:, :-1], x[:, :1]], 1)).mean(1))


def test_tokens_dropped_before_the_head_are_noticed(batch):
    with pytest.raises(NotApplicableError, match="dropped or repeated"):
        tokens_of(as_model(Dropping), batch.frames)


def test_relevance_is_where_the_attended_patch_is(batch):
    """The class token attends to bright patches alone, so a bright patch gets all that attention hands on."""

    class Bright(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Conv3d(3, 1, (2, 4, 4), (2, 4, 4), bias=False)

        def forward(self, x):
            brightness = self.embedding(x).flatten(2).mT
            x = torch.cat([torch.zeros_like(brightness[:, :1]), brightness], 1)
            query = torch.cat([torch.full_like(x[:, :1], 1e3), x[:, 1:]], 1)
            x = x + F.scaled_dot_product_attention(query, x, x)
            return x[:, 0] * torch.linspace(1, 2, len(CLASSES))

    model = as_model(Bright, mean=None, std=None)
    model.net.embedding.weight.fill_(1 / 96)
    batch.frames.zero_()
    batch.frames[0, :, 2:4, 8:12, 20:24] = 1
    batch.frames[1, :, 4:6, 16:20, 4:8] = 1
    for name in METHODS:
        found = native(name, model, batch)
        assert found[0].argmax() == 1 * 35 + 2 * 7 + 5
        assert found[1].argmax() == 2 * 35 + 4 * 7 + 1
        share = found.flatten(1).amax(1) / found.flatten(1).sum(1)
        torch.testing.assert_close(share, torch.ones(2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.ones(7, 7).tril().bool()},
        {"attn_mask": torch.linspace(-2, 2, 49).view(7, 7)},
        {"enable_gqa": True},
    ],
    ids=str,
)
def test_intercepted_attention_is_torchs(options):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 7, 5, generator=generator) for heads in (6, 2, 2))
    if "enable_gqa" not in options:
        k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    with recorded_attention() as matrices:
        found = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(matrices[0].sum(-1), torch.ones(2, 6, 7))


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_multi_head_attention_is_intercepted_once_on_every_path(need_weights, grad):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval().requires_grad_(False)
    x = torch.randn(1, 7, 8).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        expected, weights = attention(x, x, x, need_weights=True, average_attn_weights=False)
        with recorded_attention() as matrices:
            found, _ = attention(x, x, x, need_weights=need_weights)
    assert len(matrices) == 1
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(matrices[0].view(1, 2, 7, 7), weights)
    if grad:
        assert torch.autograd.grad(found[0, 0, 0], matrices)[0].any()


def test_every_way_to_call_softmax_is_intercepted():
    x = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    ways = [
        lambda: x.softmax(-1),
        lambda: x.softmax(dim=2),
        lambda: torch.softmax(x, -1, dtype=torch.float32),
        lambda: F.softmax(x, dim=-1),
        lambda: nn.Softmax(-1)(x),
    ]
    for way in ways:
        with recorded_attention() as matrices:
            way()
        assert len(matrices) == 1
    with recorded_attention() as matrices:
        x.softmax(1), x[0].softmax(1)
    assert not matrices


@pytest.mark.parametrize("build", [SmallVideoTransformer, SmallDividedTransformer])
def test_no_matrix_outlives_the_forward_pass(build, batch):
    model = as_model(build)
    x, alive = model.normalise(batch.frames)[:1], []

    def keep(matrices, attention):
        alive.append(weakref.ref(matrices))
        return matrices.sum()

    attend = importlib.import_module("vidattr_bench.methods._attention").attend
    with torch.no_grad():
        _, kept, _ = attend(model, x, keep)
    assert len(kept) == len(alive) > 0
    assert not any(reference() is not None for reference in alive)
    # Nor do the scores of the probe, of which it needs the diagonals.
    for scores in _Probe(model, x)._run()[0]:
        assert scores.untyped_storage().nbytes() == scores.numel() * scores.element_size()


def mvit():
    """The class behind mvit_v1_b and mvit_v2_s, small: the second block pools queries, both pool keys and values."""
    first = MSBlockConfig(2, 8, 16, [], [3, 3, 3], [], [1, 2, 2])
    second = MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1])
    sizes = {"spatial_size": (32, 48), "temporal_size": 8, "num_classes": len(CLASSES)}
    pooling = {"residual_pool": False, "residual_with_cls_embed": True, "rel_pos_embed": False}
    return MViT(**sizes, **pooling, block_setting=[first, second], proj_after_attn=False)


def swin3d():
    """The class behind swin3d_t, small."""
    sizes = {"patch_size": [2, 4, 4], "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": [2, 3, 3]}
    return SwinTransformer3d(**sizes, num_classes=len(CLASSES))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("build", "reason"),
    [(mvit, "pooled: 385 tokens attend to 97"), (swin3d, "windowed: 24 groups"), (SmallNet, "no attention")],
)
def test_pooled_windowed_and_no_attention_is_refused(name, build, reason):
    batch = small_batch(1, (8, 32, 48))
    model = as_model(build)
    with pytest.raises(NotApplicableError, match=reason):
        explain(create("methods", name), model, batch)
    assert explain(create("methods", "gradient"), model, batch).any()


class Registers(SmallVideoTransformer):
    """A second token beside the patches."""

    def forward(self, x):
        x, t = self.tokens(x)
        x = torch.cat([x[:, :1], x], 1)
        for block in self.blocks:
            x = block(x, t)
        return self.head(self.norm(x[:, 0]))


class Merging(SmallVideoTransformer):
    """Neighbouring tokens are averaged between the blocks."""

    def forward(self, x):
        x, t = self.tokens(x)
        x = self.blocks[0](x[:, 1:], t)
        x = self.blocks[1]((x[:, 1:] + x[:, :-1]) / 2, t)
        return self.head(self.norm(x.mean(1)))


class Factorised(SmallVideoTransformer):
    """Attention inside each frame, then among the class tokens of the frames (ViViT's factorised encoder)."""

    def forward(self, x):
        x, t = self.tokens(x)
        frames = x[:, 1:].reshape(len(x) * t, -1, x.shape[2])
        first = x[:, :1].repeat_interleave(t, 0)
        frames = self.blocks[0](torch.cat([first, frames], 1), t)
        x = self.blocks[1](frames[:, 0].reshape(len(x), t, -1), t)
        return self.head(self.norm(x.mean(1)))


class NoConvolution(SmallVideoTransformer):
    """Patches embedded by a linear layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * T, 16)

    def forward(self, x):
        return self.head(self.blocks[0](self.linear(x.flatten(1, 2).flatten(2).mT[:, ::9]), 0).mean(1))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Registers, "more than one token beside the patches"),
        (Merging, "merged or mixed outside attention"),
        (Factorised, "no patch leads to"),
        (NoConvolution, "no convolution"),
    ],
)
def test_what_attention_alone_does_not_show_is_refused(build, reason, batch):
    with pytest.raises(NotApplicableError, match=reason):
        explain(create("methods", "attention_rollout"), as_model(build), batch)


def test_the_probe_leaves_the_network_as_it_was_and_is_not_counted(batch):
    model = as_model(NETWORKS["divided attention"])
    before = model(batch.frames)
    counted = model.calls.forwards
    tokens_of(model, model.normalise(batch.frames))
    assert model.calls.forwards == counted
    assert torch.equal(model(batch.frames), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_interception_ends_with_its_context_even_after_an_error():
    original = F.scaled_dot_product_attention
    attention = nn.MultiheadAttention(8, 2)

    def fail(scores, softmax):
        raise RuntimeError

    with pytest.raises(RuntimeError), Interception(fail):
        attention(*torch.randn(3, 4, 1, 8), need_weights=False)
    assert F.scaled_dot_product_attention is original
    assert torch.randn(2, 3, 3).softmax(-1).shape == (2, 3, 3)
