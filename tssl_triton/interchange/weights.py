"""A network's weights in a safetensors file: names, shapes and numbers, and no code that reading could run."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from tssl_triton._extras import require
from tssl_triton._files import write_atomically

from .errors import InterchangeError


def save_weights(network: nn.Module, path: str | Path) -> None:
    """Write a network's state dict to a safetensors file: all of it or, after a crash, nothing.

    Args:
        network: any module, on any device.
        path: the file; one that is there already is replaced.

    Raises:
        MissingExtraError: without safetensors.
        OSError: if the file cannot be written.
        TypeError: if ``network`` is no module.
    """
    safetensors = require("safetensors.torch", "interchange", "writing weights")
    # Copies: the format has no tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _state(network).items()}
    content: bytes = safetensors.save(tensors, metadata={"format": "pt"})
    write_atomically(Path(path), lambda file: file.write(content))


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Read a safetensors file into a network, where every name and shape is the same; else nothing is changed.

    Numbers take the dtype and device that the network has.

    Args:
        network: any module.
        path: the file.

    Raises:
        InterchangeError: (a ValueError) if there is no such file, it is damaged, or names or shapes differ; all of
            them are named.
        MissingExtraError: without safetensors.
        TypeError: if ``network`` is no module.
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
        raise InterchangeError(f"{path} is damaged or no safetensors file: {error}") from error
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not of this network" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, the network's {tuple(tensor.shape)}"
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
