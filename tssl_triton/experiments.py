"""Named settings: the paper's networks and data sets, and this package's defaults for each data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """One network of the paper with the settings it was trained with.

    Args:
        architecture: as `tssl_triton.network.build_network` reads it, output layer left out.
        in_shape: shape of one input.
        padding: zeros around the input of the convolutions, as `build_network` takes them.
        steps: number of time steps T.
        tau_mem: membrane time constant in time steps.
        tau_syn: synaptic time constant in time steps.
        loss: name of the loss, as in `tssl_triton.config.TrainConfig`.
        pattern: target spike train of the labelled class, for losses on spike trains.
    """

    architecture: str
    in_shape: tuple[int, ...]
    padding: int | tuple[int, ...]
    steps: int
    tau_mem: float
    tau_syn: float
    loss: str
    pattern: str | None


#: Networks of Zhang & Li, NeurIPS 2020, section 4. Where the paper leaves a number out, it is the one in the
#: configuration files of the authors' released program.
EXPERIMENTS: dict[str, Experiment] = {
    "mnist": Experiment("15C5-P2-40C5-P2-300", (1, 28, 28), 0, 5, 5.0, 3.0, "van-rossum", "three-spikes"),
    "n-mnist": Experiment("12C5-P2-64C5-P2", (2, 34, 34), (1, 0), 30, 8.0, 4.0, "count", None),
    "fashion-mnist": Experiment("400-400", (1, 28, 28), 0, 5, 5.0, 3.0, "van-rossum", "three-spikes"),
    "fashion-mnist-cnn": Experiment("32C5-P2-64C5-P2-1024", (1, 28, 28), 2, 5, 5.0, 3.0, "van-rossum", "three-spikes"),
    "cifar10-cnn1": Experiment(
        "96C3-256C3-P2-384C3-P2-384C3-256C3-1024-1024", (3, 32, 32), 1, 5, 5.0, 2.0, "van-rossum", "four-spikes"
    ),
    "cifar10-cnn2": Experiment(
        "128C3-256C3-P2-512C3-P2-1024C3-512C3-1024-512", (3, 32, 32), 1, 5, 5.0, 2.0, "van-rossum", "four-spikes"
    ),
}

#: What `tssl train` uses for a data set where neither a flag nor the configuration file says otherwise.
DATASET_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"arch": "16C3-P2-32C3-128", "padding": "same", "epochs": 20, "lr": 2e-3},
    "mnist": {"arch": EXPERIMENTS["mnist"].architecture, "padding": "0", "epochs": 2},
    # Padding serves the convolutions of 32C5-P2-64C5-P2-1024; the default network has none.
    "fashion-mnist": {"arch": EXPERIMENTS["fashion-mnist"].architecture, "padding": "2", "epochs": 3},
    "cifar10": {
        "arch": EXPERIMENTS["cifar10-cnn1"].architecture,
        "padding": "1",
        "tau_syn": 2.0,
        "pattern": "four-spikes",
        "augment": True,
        "lr": 5e-4,
        "epochs": 100,
    },
    "n-mnist": {
        "arch": EXPERIMENTS["n-mnist"].architecture,
        "padding": "1,0",
        "tau_mem": 8.0,
        "tau_syn": 4.0,
        "steps": 30,
        "bin_ms": 3.0,
        "loss": "count",
        "desired_count": 15.0,
        "undesired_count": 3.0,
        "lr": 5e-4,
        "epochs": 10,
        "test_batch_size": 200,
    },
    # Not in the paper. The network is that of SLAYER (Shrestha & Orchard, NeurIPS 2018) on 4x4 pixels pooled, with its
    # window of 1.5 s in steps of 5 ms; the time constants are those that users of the authors' program asked for.
    "dvs-gesture": {
        "arch": "16C5-P2-32C3-P2-512",
        "padding": "same",
        "tau_mem": 64.0,
        "tau_syn": 8.0,
        "steps": 300,
        "bin_ms": 5.0,
        "downsample": 4,
        "loss": "count",
        "desired_count": 150.0,
        "undesired_count": 30.0,
        "lr": 5e-4,
        "batch_size": 16,
        "epochs": 50,
        "test_batch_size": 16,
    },
}
