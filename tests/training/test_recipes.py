"""Recipes: every file is complete, builds its network, trains on data of the true shape and resumes."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tssl_triton import data
from tssl_triton.nn import build_network
from tssl_triton.training import (
    MAY_CHANGE,
    ConfigError,
    RecipeError,
    TrainConfig,
    Trainer,
    checkpoint,
    read_toml,
    recipes,
    resolve,
)

#: Settings that recipes leave out, because they depend on the machine or do not apply.
LEFT_OUT = (MAY_CHANGE - {"epochs"}) | {"seed", "fused"}
PATTERN, COUNT = {"pattern"}, {"count", "desired_count", "undesired_count"}

#: Shape of one input and number of classes.
SHAPES = {
    "mnist": ((1, 28, 28), 10),
    "n-mnist": ((2, 34, 34), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "dvs-gesture": ((2, 32, 32), 11),
}

#: Number of weights.
WEIGHTS = {
    "mnist": 15 * 25 + 40 * 15 * 25 + 300 * 640 + 10 * 300,
    "n-mnist-100": 12 * 2 * 25 + 64 * 12 * 25 + 10 * 2304,
    "n-mnist-30": 12 * 2 * 25 + 64 * 12 * 25 + 10 * 2304,
    "fashion-mnist-400-400": 400 * 784 + 400 * 400 + 10 * 400,
    "fashion-mnist-cnn": 32 * 25 + 64 * 32 * 25 + 1024 * 3136 + 10 * 1024,
    "cifar10-cnn1": 9 * (96 * 3 + 256 * 96 + 384 * 256 + 384 * 384 + 256 * 384) + 1024 * (16384 + 1024 + 10),
    "cifar10-cnn2": 9 * (128 * 3 + 256 * 128 + 512 * 256 + 1024 * 512 + 512 * 1024) + 1024 * 32768 + 512 * 1034,
    "dvs-gesture": 16 * 2 * 25 + 32 * 16 * 9 + 512 * 2048 + 11 * 512,
}


@pytest.fixture(autouse=True)
def _eager(eager):
    """Use the eager implementation: compiling the loops would take longer than these trainings."""


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_recipe_is_complete(name):
    recipe = recipes.read(name)
    assert isinstance(recipe.config(), TrainConfig)
    events = recipe.settings["dataset"] in ("n-mnist", "dvs-gesture")
    expected = {field.name for field in dataclasses.fields(TrainConfig)} - LEFT_OUT
    expected -= COUNT if recipe.settings["loss"] == "van-rossum" else PATTERN
    expected -= {"surrogate", "surrogate_width", "reset_gradient"}  # of other rules
    expected -= {"learn", "per"}  # of no network in the paper
    expected -= set() if events else {"bin_ms", "downsample"}
    expected -= set() if recipe.settings["dataset"] == "cifar10" else {"augment"}
    assert set(recipe.settings) - {"test_batch_size"} == expected


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_recipe_is_what_the_paper_s_row_says(name):
    recipe = recipes.read(name)
    if name == "dvs-gesture":
        assert recipe.paper is None
        return
    paper = recipe.paper
    assert (recipe.settings["steps"], recipe.settings["epochs"]) == (paper.steps, paper.epochs)
    assert recipe in recipes.of_table(paper.table)
    assert paper.mean is None or paper.mean <= paper.best < paper.mean + 2 * paper.std


def test_tables_hold_their_rows_in_order():
    rows = {table: [recipe.name for recipe in recipes.of_table(table)] for table in recipes.TABLES}
    assert rows == {
        1: ["mnist"],
        2: ["n-mnist-100", "n-mnist-30"],
        3: ["fashion-mnist-400-400", "fashion-mnist-cnn"],
        4: ["cifar10-cnn1", "cifar10-cnn2"],
    }
    for table in recipes.TABLES:
        assert recipes.comparisons(table)
        assert all({"method", "network", "best"} <= set(row) for row in recipes.comparisons(table))


def test_every_file_is_a_recipe():
    assert {path.stem for path in recipes.FOLDER.glob("*.toml")} == {*recipes.NAMES, "comparisons"}


@pytest.mark.parametrize(("name", "flags"), [("mnist", {}), ("fashion-mnist-400-400", {"dropout": 0.2})])
def test_the_defaults_of_tssl_train_are_the_recipe_s(name, flags):
    dataset = name.removesuffix("-400-400")
    assert recipes.read(name).config() == resolve({"dataset": dataset, "epochs": 100, **flags}, {})


def test_tssl_train_takes_a_recipe():
    assert resolve({}, read_toml(recipes.FOLDER / "mnist.toml")) == recipes.read("mnist").config()


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_recipe_builds_its_network(name):
    # Without the values: CNN 2 alone has 54 million weights.
    config, (shape, classes) = recipes.read(name).config(), SHAPES[recipes.read(name).settings["dataset"]]
    with torch.device("meta"):
        network = build_network(
            config.arch, shape, classes, params=config.neuron(), padding=config.paddings(), dropout=config.dropout
        )
    assert sum(weight.numel() for weight in network.parameters()) == WEIGHTS[name]


def test_convolutions_are_scaled_as_in_the_released_program():
    # PyTorch's default is uniform with variance 1 / (3 fan-in); the released program's file has 5 times that.
    torch.manual_seed(0)
    config = recipes.read("cifar10-cnn1").config(arch="64C3-64C3-500")
    trainer = Trainer(config, images("cifar10", 1))
    fan_in = 64 * 9
    assert trainer.network[2].weight.std().item() == pytest.approx(5 / (3 * fan_in) ** 0.5, rel=0.02)
    assert trainer.network[-1].weight.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.05)


def images(dataset, count, test=1):
    """A small data set of the true shape, of random pixels or events."""
    shape, classes = SHAPES[dataset]
    random = np.random.default_rng(0)
    labels = [torch.from_numpy(random.integers(classes, size=size)) for size in (count, test)]
    if dataset in ("n-mnist", "dvs-gesture"):
        steps = recipes.read("n-mnist-100" if dataset == "n-mnist" else dataset).settings["steps"]
        width = math.ceil(math.prod(shape) / 8)
        # One event in eight: each of three draws of bytes halves the ones.
        bits = [
            np.bitwise_and.reduce(random.integers(256, size=(3, size, steps, width), dtype=np.uint8))
            for size in (count, test)
        ]
        return data.EventSet(dataset, bits[0], labels[0], bits[1], labels[1], classes, shape)
    pixels = [torch.from_numpy(random.integers(256, size=(size, *shape), dtype=np.uint8)) for size in (count, test)]
    augment = dataset == "cifar10"
    return data.ImageSet(dataset, pixels[0], labels[0], pixels[1], labels[1], classes, 127.5, 74.0, augment)


def first_steps(name, tmp_path):
    """Two steps, and one step, a checkpoint and the second step by another trainer, give the same weights."""
    dataset = recipes.read(name).settings["dataset"]
    config = recipes.read(name).config(batch_size=1, device="cpu")
    samples = images(dataset, 2)
    if isinstance(samples, data.EventSet):
        cut = {half: getattr(samples, half)[:, : config.steps] for half in ("train_bits", "test_bits")}
        samples = dataclasses.replace(samples, **cut)
    path = tmp_path / "checkpoint.pt"
    first = Trainer(config, samples)
    before = first.network[0].weight.detach().clone()
    first.step(torch.tensor([0]))
    checkpoint.save(path, {"config": {}, **first.state()})
    first.step(torch.tensor([1]))
    assert first.read().seen == 2
    assert not torch.equal(first.network[0].weight, before), "a step is to change even the first weights"

    torch.manual_seed(12345)  # a new process would have other generator states
    second = Trainer(config, samples)
    second.load_state(checkpoint.load(path), path)
    path.unlink()
    second.step(torch.tensor([1]))
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert second.read().norm == first.read().norm
    assert second.test().images == 1


#: Some seconds and up to 2 GB each: tens of millions of weights, with two moments each, twice.
HEAVY = ("cifar10-cnn1", "cifar10-cnn2")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in recipes.NAMES]
)
def test_a_recipe_trains_and_resumes(name, tmp_path):
    first_steps(name, tmp_path)


def test_unknown_recipe():
    with pytest.raises(RecipeError, match=r"unknown recipe 'mnits': known are mnist, n-mnist-100, .* end in \.toml"):
        recipes.read("mnits")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read recipe .*own.toml: No such file"),
        ("lr =", "recipe .*own.toml is not valid TOML"),
        ("[paper]\ntable = 1\nmost = 3\n", r"own.toml: \[paper\] takes table, steps, epochs, best, .*'most'"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, content, message):
    if content is not None:
        (tmp_path / "own.toml").write_text(content)
    with pytest.raises(RecipeError, match=message):
        recipes.read(str(tmp_path / "own.toml"))


def test_settings_are_checked(tmp_path):
    (tmp_path / "own.toml").write_text("bach_size = 3\n")
    with pytest.raises(ConfigError, match=r"unknown setting 'bach_size' in recipe own; did you mean 'batch_size'\?"):
        recipes.read(str(tmp_path / "own.toml")).config()
    with pytest.raises(ConfigError, match="recipe mnist: lr must be > 0"):
        recipes.read("mnist").config(lr=-1.0)
