"""Optical flow between the frames of a clip, and maps carried along it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from skimage.registration import optical_flow_tvl1
from torch import Tensor


def optical_flow(frames: Tensor, warps: int, iterations: int) -> Tensor:
    """Where each pixel of a frame moves to in the next one, (T - 1, 2, H, W) in rows and columns, on the CPU.

    TV-L1 (Zach et al. 2007, doi:10.1007/978-3-540-74936-3_22) of the frames' mean over the channels.

    Args:
        frames: (C, T, H, W) in [0, 1].
        warps: times that a frame is warped, at each scale of the pyramid.
        iterations: fixed-point steps after each warp.
    """
    grey = frames.mean(0).float().cpu().numpy()
    flow = np.zeros((len(grey) - 1, 2, *grey.shape[1:]), np.float32)
    for t in range(len(flow)):
        flow[t] = optical_flow_tvl1(grey[t], grey[t + 1], num_warp=warps, num_iter=iterations)  # type: ignore[no-untyped-call]
    return torch.from_numpy(flow)


def warp(maps: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """What lies where the flow points, read bilinearly.

    Args:
        maps: (M, H, W).
        flow: (M, 2, H, W), rows and columns, from the frame that is drawn to the one that is read.

    Returns:
        (M, H, W) of maps at (y, x) + flow, and whether that place is inside the frame, bool (M, H, W).
    """
    h, w = maps.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y, x = rows + flow[:, 0], columns + flow[:, 1]
    inside = (y >= 0) & (y <= h - 1) & (x >= 0) & (x <= w - 1)
    grid = torch.stack([2 * x / max(w - 1, 1) - 1, 2 * y / max(h - 1, 1) - 1], -1).to(maps)
    return F.grid_sample(maps[:, None], grid, padding_mode="border", align_corners=True)[:, 0], inside


def visible(flow: Tensor, back: Tensor) -> Tensor:
    """Pixels that the next frame still shows, bool (M, H, W): the flow back leads to where the flow came from.

    |f + b|^2 < .01 (|f|^2 + |b|^2) + .5 with b read where f points, and f points inside the frame (Sundaram 2010,
    doi:10.1007/978-3-642-15549-9_32, equation 5).

    Args:
        flow: (M, 2, H, W), from each frame to the next.
        back: (M, 2, H, W), from the next frame to this one.
    """
    components = [warp(back[:, axis], flow) for axis in range(2)]
    returned = torch.stack([warped for warped, _ in components], 1)
    gap = (flow + returned).square().sum(1)
    return components[0][1] & (gap < 0.01 * (flow.square() + returned.square()).sum(1) + 0.5)
