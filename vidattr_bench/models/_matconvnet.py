"""Weights that MatConvNet wrote: a network of its DagNN as a MATLAB file, by the names of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor

from vidattr_bench.checkpoints import existing
from vidattr_bench.errors import ModelError

_EPSILON = 1e-5  # of torch's batch norms, to whose variance it is added
_NORM = "dagnn.BatchNorm"
_OVER_TIME = "dagnn.ConvTime"
# The axes of a kernel in torch's order; it is (h, w, in, out), or (h, w, t, in, out), or (1, t, in, out) over time.
_KERNELS = {"dagnn.Conv": (3, 2, 0, 1), "dagnn.Conv3D": (4, 3, 2, 0, 1), _OVER_TIME: (3, 2, 1, 0)}


def is_matlab(path: Path) -> bool:
    """Whether a file is called a MATLAB file."""
    return path.suffix.lower() == ".mat"


def read_dagnn(path: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Weights by the layers' names with `.weight`, `.bias`, `.running_mean` and `.running_var`, and the mean image.

    Kernels are (out, in, h, w), in layers that convolve over time (out, in, t, h, w). The mean image (C,) is averaged
    over its pixels, which are 0 to 255; (0,) where the file has none. Numbers and names alone are read, no code.

    Raises:
        ModelError: the file is missing, damaged, of MATLAB's format 7.3, or holds no network of MatConvNet's DagNN.
    """
    net = _load(path)
    try:
        values = {_text(param.name): np.asarray(param.value, dtype=np.float32) for param in net["params"].flat}
        state = {name: tensor for layer in net["layers"].flat for name, tensor in _weights(layer, values)}
        return state, _mean_image(net["meta"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} holds no weights that MatConvNet's DagNN wrote ({type(error).__name__}: {error}); "
            "give what its training script saved as `net`"
        ) from error


def _load(path: Path) -> Mapping[str, Any]:
    """Layers, params and meta of the network in a file, which lie in it as they are or under `net`."""
    names = ["net", "layers", "params", "meta"]
    try:
        content = loadmat(existing(path), variable_names=names, struct_as_record=False)
    except NotImplementedError as error:  # what scipy raises for HDF5
        raise ModelError(f"{path} is of MATLAB's format 7.3; load it in MATLAB and save `net` with -v7") from error
    except Exception as error:  # a damaged file fails anywhere in scipy's reader
        first_line = str(error).split("\n")[0]
        raise ModelError(f"{path} cannot be read as a MATLAB file ({first_line}); copy or download it again") from error
    if "net" in content and content["net"].size == 1:
        content = {**content, **vars(content["net"].flat[0])}
    lacking = [name for name in names[1:] if name not in content]
    if lacking:
        raise ModelError(f"{path} holds no network of MatConvNet's DagNN: it has no {', '.join(lacking)}")
    return content


def _weights(layer: Any, values: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of one layer; none where it has no parameters."""
    name, kind = _text(layer.name), _text(layer.type)
    params = [values[_text(param)] for param in np.asarray(layer.params).flat]
    if not params:
        return
    if kind == _NORM:
        moments = torch.from_numpy(params[2].reshape(-1, 2))
        # The second moment is a standard deviation, with MatConvNet's own epsilon inside.
        variance = (moments[:, 1].double().square() - _EPSILON).clamp(min=0).float()
        yield f"{name}.weight", _vector(params[0])
        yield f"{name}.bias", _vector(params[1])
        yield f"{name}.running_mean", moments[:, 0].contiguous()
        yield f"{name}.running_var", variance
    elif kind in _KERNELS:
        kernel = _kernel(params[0], _KERNELS[kind])
        yield f"{name}.weight", kernel.unsqueeze(-1) if kind == _OVER_TIME else kernel
        if len(params) > 1:
            yield f"{name}.bias", _vector(params[1])
    else:
        raise ValueError(f"the layer {name} of type {kind} has parameters that are not known")


def _kernel(array: np.ndarray, axes: tuple[int, ...]) -> Tensor:
    # MATLAB drops axes of length 1 at the end.
    whole = array.reshape(*array.shape, *(1,) * (len(axes) - array.ndim))
    return torch.from_numpy(np.ascontiguousarray(whole.transpose(axes)))


def _vector(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.reshape(-1).copy())


def _mean_image(meta: np.ndarray) -> Tensor:
    normalisation = getattr(meta.flat[0], "normalization", np.empty(0)) if meta.size else np.empty(0)
    if not normalisation.size or not hasattr(normalisation.flat[0], "averageImage"):
        return torch.empty(0)
    image = np.asarray(normalisation.flat[0].averageImage, dtype=np.float32)
    return torch.from_numpy(image.reshape(-1, image.shape[-1]).mean(0) if image.ndim == 3 else image.reshape(-1))


def _text(value: Any) -> str:
    """A string, as scipy hands it out: in an array, or in a cell that holds one."""
    while isinstance(value, np.ndarray):
        value = value.flat[0]
    return str(value)
