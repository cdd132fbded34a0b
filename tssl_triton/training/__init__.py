"""Training: the settings of a run, its folder, and the trainer that fills it.

::

    config = resolve({"dataset": "mnist", "arch": "400-400", "epochs": 5}, {})
    run = Run.create(Path("runs/mnist"), config)
    run.train(Lines())
    trainer = load_trainer(Path("runs/mnist"), {})
    print(trainer.test().accuracy)
"""

from . import recipes
from .checkpoint import CheckpointError
from .config import FIELD_TYPES, LOSSES, MAY_CHANGE, ConfigError, TrainConfig, check_known, read_toml, write_toml
from .display import (
    Display,
    Lines,
    Tracker,
    choose_display,
    choose_tracker,
    label_epochs,
    new_figure,
    save_figure,
    untracked,
)
from .distributed import Processes, joined, launched
from .interrupt import StopRequest
from .presets import DATASET_DEFAULTS, EXPERIMENTS, Experiment, resolve
from .recipes import RecipeError
from .run import Run, load_data, load_trainer, resuming
from .trainer import Reading, Trainer, TrainingError, choose_device, weights_and_constants

__all__ = [
    "DATASET_DEFAULTS",
    "EXPERIMENTS",
    "FIELD_TYPES",
    "LOSSES",
    "MAY_CHANGE",
    "CheckpointError",
    "ConfigError",
    "Display",
    "Experiment",
    "Lines",
    "Processes",
    "Reading",
    "RecipeError",
    "Run",
    "StopRequest",
    "Tracker",
    "TrainConfig",
    "Trainer",
    "TrainingError",
    "check_known",
    "choose_device",
    "choose_display",
    "choose_tracker",
    "joined",
    "label_epochs",
    "launched",
    "load_data",
    "load_trainer",
    "new_figure",
    "read_toml",
    "recipes",
    "resolve",
    "resuming",
    "save_figure",
    "untracked",
    "weights_and_constants",
    "write_toml",
]
