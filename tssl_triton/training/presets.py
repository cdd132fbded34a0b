"""Presets: the paper's networks, this package's defaults for each data set, and settings resolved from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import recipes
from .config import TrainConfig, check_known


@dataclass(frozen=True)
class Experiment:
    """One network of the paper with the settings that it was trained with.

    Args:
        architecture: as `tssl_triton.build_network` reads it, without the output layer.
        in_shape: shape of one input.
        padding: zero padding of the convolutions, as `build_network` takes it.
        steps: number of time steps T.
        tau_mem: membrane time constant in time steps.
        tau_syn: synaptic time constant in time steps.
        loss: name of the loss, as in `tssl_triton.training.TrainConfig`.
        pattern: target spike train of the labelled class, for losses on spike trains.
        counts: desired and undesired count, for the count loss.
    """

    architecture: str
    in_shape: tuple[int, ...]
    padding: int | tuple[int, ...]
    steps: int
    tau_mem: float
    tau_syn: float
    loss: str
    pattern: str | None
    counts: tuple[float, float] | None


#: Shape of one input at one time step, ``(C, H, W)``.
IN_SHAPES: dict[str, tuple[int, int, int]] = {
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "n-mnist": (2, 34, 34),
    "cifar10": (3, 32, 32),
}


def experiment(recipe: str) -> Experiment:
    """Network, neurons and loss of a recipe (`tssl_triton.training.recipes`)."""
    settings = recipes.read(recipe).settings
    padding = tuple(int(entry) for entry in settings["padding"].split(","))
    return Experiment(
        architecture=settings["arch"],
        in_shape=IN_SHAPES[settings["dataset"]],
        padding=padding[0] if len(padding) == 1 else padding,
        steps=settings["steps"],
        tau_mem=settings["tau_mem"],
        tau_syn=settings["tau_syn"],
        loss=settings["loss"],
        pattern=settings.get("pattern"),
        counts=(settings["desired_count"], settings["undesired_count"]) if settings["loss"] == "count" else None,
    )


#: Networks of Zhang & Li, NeurIPS 2020, section 4, by the names that benchmarks and tests use.
EXPERIMENTS: dict[str, Experiment] = {
    "mnist": experiment("mnist"),
    "n-mnist": experiment("n-mnist-30"),
    "fashion-mnist": experiment("fashion-mnist-400-400"),
    "fashion-mnist-cnn": experiment("fashion-mnist-cnn"),
    "cifar10-cnn1": experiment("cifar10-cnn1"),
    "cifar10-cnn2": experiment("cifar10-cnn2"),
}

#: Settings in which the recipes of CIFAR-10 and the event sets differ from the general defaults.
_FROM_RECIPES = (
    *("arch", "padding", "dropout", "conv_weight_scale", "tau_mem", "tau_syn", "steps", "bin_ms", "downsample"),
    *("augment", "loss", "pattern", "desired_count", "undesired_count", "lr", "schedule", "batch_size"),
    "test_batch_size",
)


def _from_recipe(recipe: str, **changes: Any) -> dict[str, Any]:
    settings = recipes.read(recipe).settings
    return {name: settings[name] for name in _FROM_RECIPES if name in settings} | changes


#: Settings of `tssl train` for a data set, unless a flag or the configuration file overrides them.
DATASET_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"arch": "16C3-P2-32C3-128", "padding": "same", "epochs": 20, "lr": 2e-3},
    "mnist": {"arch": EXPERIMENTS["mnist"].architecture, "padding": "0", "epochs": 2},
    # Padding is for the convolutions of 32C5-P2-64C5-P2-1024; the default network has none.
    "fashion-mnist": {"arch": EXPERIMENTS["fashion-mnist"].architecture, "padding": "2", "epochs": 3},
    # The sets below use the settings of their recipes, with fewer epochs.
    "cifar10": _from_recipe("cifar10-cnn1", epochs=100),
    "n-mnist": _from_recipe("n-mnist-30", epochs=10, test_batch_size=200),
    "dvs-gesture": _from_recipe("dvs-gesture", epochs=50),
}


def resolve(flags: dict[str, Any], file: dict[str, Any]) -> TrainConfig:
    """Each setting from ``flags``, else the ``file``, else the data set's default, else the general default.

    Raises:
        ConfigError: for an unknown or invalid setting.
    """
    given = {**file, **flags}
    for name in given:
        check_known(name)
    dataset = given.get("dataset", TrainConfig.dataset)
    defaults = DATASET_DEFAULTS.get(dataset, {}) if isinstance(dataset, str) else {}
    return TrainConfig(**{**defaults, **given})
