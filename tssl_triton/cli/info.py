"""The command ``tssl info``: versions and devices."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from tssl_triton.functional import cpu_compiler, implementation

from .settings import say


def add_to(commands: Any) -> None:
    """Add the parser of this command."""
    about = "Print versions, devices and the implementation used on each."
    commands.add_parser("info", help="versions and devices", description=about).set_defaults(command=_info)


def _info(options: dict[str, Any]) -> int:
    rows = [(name, _version(name)) for name in ("tssl-triton", "torch", "triton", "numpy")]
    rows.append(("python", f"{platform.python_version()} ({platform.system()} {platform.machine()})"))
    rows += [(name, _version(name)) for name in ("scikit-learn", "torchvision", "tqdm", "matplotlib", "tensorboard")]
    rows.append(("C++ compiler", cpu_compiler()))
    rows.append(("cpu", f"{torch.get_num_threads()} threads; runs: {implementation(torch.device('cpu'))}"))
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(device)
        memory = properties.total_memory / 2**30
        rows.append((str(device), f"{properties.name}, {memory:.0f} GiB; runs: {implementation(device)}"))
    if not torch.cuda.device_count():
        rows.append(("gpu", "none that torch can use"))
    for name, value in rows:
        say(f"{name:<12}  {value}")
    return 0


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
