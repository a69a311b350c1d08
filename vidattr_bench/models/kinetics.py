"""The video networks of torchvision, with its Kinetics-400 weights or a checkpoint of one's own.

Clip lengths and frame rates are those that torchvision reports the accuracies for; strides assume 30 frames a second.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vidattr_bench.models._torchvision import TorchvisionEntry


class R3D18(TorchvisionEntry):
    """R3D-18: a residual network of 3 x 3 x 3 convolutions. Tran et al. 2018, arXiv 1711.11248."""

    name = "r3d_18"
    sampling = (16, 2)
    head = "fc"


class MC318(TorchvisionEntry):
    """MC3-18: 3-D convolutions in the first stage, 2-D ones after it. Tran et al. 2018, arXiv 1711.11248."""

    name = "mc3_18"
    sampling = (16, 2)
    head = "fc"


class R2Plus1D18(TorchvisionEntry):
    """R(2+1)D-18: spatial and temporal convolutions in turn. Tran et al. 2018, arXiv 1711.11248."""

    name = "r2plus1d_18"
    sampling = (16, 2)
    head = "fc"


class S3D(TorchvisionEntry):
    """S3D: a separable Inception network on 128 frames. Xie et al. 2018, arXiv 1712.04851.

    Its average pooling overlaps in time, so it has no linear head on a global average.
    """

    name = "s3d"
    sampling = (128, 2)
    head = "classifier.1"


class _MViT(TorchvisionEntry):
    # The class token alone reaches the head, and pooled tokens are no volume.
    feature_layer = ""
    sampling = (16, 4)
    head = "head.1"


class MViTV1B(_MViT):
    """MViT-B: a multiscale transformer that pools its attention. Fan et al. 2021, arXiv 2104.11227."""

    name = "mvit_v1_b"


class MViTV2S(_MViT):
    """MViTv2-S: with decomposed relative positions and residual pooling. Li et al. 2022, arXiv 2112.01526."""

    name = "mvit_v2_s"


class _Swin3D(TorchvisionEntry):
    feature_layer = "avgpool.0"
    sampling = (32, 2)
    head = "head"

    def network(self, classes: int) -> nn.Module:
        """The untrained network; its channel-first volume passes through `avgpool.0` before it is averaged."""
        net: Any = super().network(classes)
        net.avgpool = nn.Sequential(nn.Identity(), net.avgpool)
        return net  # type: ignore[no-any-return]


class Swin3DT(_Swin3D):
    """Video Swin-T: attention in shifted 3-D windows. Liu et al. 2022, arXiv 2106.13230."""

    name = "swin3d_t"


class Swin3DS(_Swin3D):
    """Video Swin-S: twice as deep as Swin-T. Liu et al. 2022, arXiv 2106.13230."""

    name = "swin3d_s"


class Swin3DB(_Swin3D):
    """Video Swin-B: as deep as Swin-S and wider. Liu et al. 2022, arXiv 2106.13230."""

    name = "swin3d_b"
