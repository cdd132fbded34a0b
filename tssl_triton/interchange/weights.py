"""Weights in safetensors files: names, shapes and numbers, without code that loading could execute."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from tssl_triton._extras import require
from tssl_triton._files import write_atomically

from .errors import InterchangeError


def save_weights(network: nn.Module, path: str | Path) -> None:
    """Write a network's state dict to a safetensors file, completely or not at all.

    Args:
        network: any module, on any device.
        path: the file; an existing file is replaced.

    Raises:
        MissingExtraError: if safetensors is not installed.
        OSError: if the file cannot be written.
        TypeError: if ``network`` is not a module.
    """
    safetensors = require("safetensors.torch", "interchange", "writing weights")
    # Copies, because the format does not allow tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _state(network).items()}
    content: bytes = safetensors.save(tensors, metadata={"format": "pt"})
    write_atomically(Path(path), lambda file: file.write(content))


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a safetensors file into a network. All names and shapes must match, or the network stays unchanged.

    Values are converted to the dtype and device of the network.

    Args:
        network: any module.
        path: the file.

    Raises:
        InterchangeError: (a ValueError) if the file is missing or damaged, or names or shapes differ; lists every
            difference.
        MissingExtraError: if safetensors is not installed.
        TypeError: if ``network`` is not a module.
    """
    safetensors = require("safetensors.torch", "interchange", "reading weights")
    error_of_format = require("safetensors", "interchange", "reading weights").SafetensorError
    wanted = _state(network)
    path = Path(path)
    if not path.is_file():
        raise InterchangeError(f"no weights at {path}")
    try:
        found: dict[str, Tensor] = safetensors.load_file(path)
    except error_of_format as error:
        raise InterchangeError(f"{path} is damaged or not a safetensors file: {error}") from error
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not in this network" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, in the network {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        raise InterchangeError(f"the weights in {path} do not fit the network: {'; '.join(problems)}")
    network.load_state_dict(found)


def _state(network: object) -> dict[str, Tensor]:
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module, got {type(network).__name__}")
    return network.state_dict()
