"""Exported files: safetensors, and ``tssl export``."""

import os
import sys

import pytest
import torch

from tssl_triton import SpikingLinear, SpikingSequential, build_network, cli, encoding
from tssl_triton._extras import MissingExtraError
from tssl_triton.interchange import InterchangeError, from_nir, load_weights, save_weights
from tssl_triton.training import load_trainer

nir = pytest.importorskip("nir", reason="needs the extra interchange")
safetensors = pytest.importorskip("safetensors.torch", reason="needs the extra interchange")


@pytest.fixture(autouse=True)
def _eager(eager):
    """Eager PyTorch: compiling takes longer than these tests, and the results are the same."""


def network(seed=0, classes=4, dropout=0.2):
    torch.manual_seed(seed)
    return build_network("6C3-P2-20", (1, 10, 10), classes, dropout=dropout, weight_scale=2)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(network(), path)
    return path


def assert_same_weights(one, two):
    assert [name for name, _ in one.named_parameters()] == [name for name, _ in two.named_parameters()]
    assert all(map(torch.equal, one.parameters(), two.parameters()))


def test_what_is_saved_is_loaded(path):
    other = network(seed=1)
    load_weights(other, str(path))
    assert_same_weights(other, network())


def test_any_reader_of_the_format_finds_the_state_dict(path):
    content = safetensors.load_file(path)
    state = network().state_dict()
    assert set(content) == set(state)
    assert all(torch.equal(content[name], state[name]) for name in state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_of_weights(tmp_path, dtype):
    save_weights(network().to(dtype), tmp_path / "weights.safetensors")
    other = network(seed=1).to(dtype)
    load_weights(other, tmp_path / "weights.safetensors")
    assert_same_weights(other, network().to(dtype))


def test_weights_that_share_memory_or_are_not_contiguous(tmp_path):
    layer = SpikingLinear(4, 4)
    layer.weight.data = layer.weight.data.t()
    tied = SpikingSequential(layer, layer)
    save_weights(tied, tmp_path / "weights.safetensors")
    other = SpikingSequential(SpikingLinear(4, 4), SpikingLinear(4, 4))
    load_weights(other, tmp_path / "weights.safetensors")
    assert torch.equal(other[0].weight, layer.weight)
    assert torch.equal(other[1].weight, layer.weight)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_save_that_breaks_off_leaves_the_old_file(path, monkeypatch, failing):
    def fail(*arguments, **options):
        raise OSError("the power went out")

    before = path.read_bytes()
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="the power went out"):
        save_weights(network(seed=1), path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_names_and_shapes_that_differ_are_all_named(path):
    other = SpikingSequential(*network(seed=1, classes=5), SpikingLinear(5, 2))
    other[3].bias = torch.nn.Parameter(torch.zeros(20))
    before = [weights.clone() for weights in other.parameters()]
    with pytest.raises(InterchangeError) as caught:
        load_weights(other, path)
    assert str(caught.value) == (
        f"the weights in {path} do not fit the network: 3.bias is missing; 6.weight is missing; "
        "5.weight has shape (4, 20), in the network (5, 20)"
    )
    assert all(map(torch.equal, other.parameters(), before)), "nothing was loaded"
    with pytest.raises(InterchangeError, match=r"do not fit the network: 5\.weight is not in this network"):
        load_weights(network()[:5], path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"not a file of weights"])
def test_not_a_safetensors_file(path, content):
    path.write_bytes(content)
    with pytest.raises(InterchangeError, match=f"{path} is damaged or not a safetensors file: "):
        load_weights(network(), path)


def test_truncated(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InterchangeError, match=f"{path} is damaged or not a safetensors file: "):
        load_weights(network(), path)


def test_missing(tmp_path):
    with pytest.raises(InterchangeError, match=f"no weights at {tmp_path}"):
        load_weights(network(), tmp_path)


def test_arguments(path):
    with pytest.raises(TypeError, match=r"network must be an nn\.Module, got dict"):
        save_weights(dict(network().state_dict()), path)
    with pytest.raises(TypeError, match=r"network must be an nn\.Module, got list"):
        load_weights([], path)


def test_without_safetensors(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for function in (save_weights, load_weights):
        with pytest.raises(MissingExtraError, match=r"needs safetensors, .* pip install 'tssl-triton\[interchange\]'"):
            function(network(), path)


# tssl export


def tssl(*words):
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSL_CPU", "eager")
        words = ("--arch", "4C3-P2-20", "--dropout", 0.2, "--epochs", 1, "--device", "cpu", "--progress", "lines")
        assert tssl("train", *words, "--run-dir", folder) == 0
    return folder


@pytest.fixture
def trained(run):
    trainer = load_trainer(run, {})
    trainer.network.eval()
    return trainer


def test_export_to_nir(run, trained, tmp_path, capsys):
    assert tssl("export", run, "--to", "nir", "--out", tmp_path / "a.nir") == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'a.nir'}: digits, network 4C3-P2-20, after 1 epochs\n"
    assert os.listdir(tmp_path) == ["a.nir"]
    images = encoding.static(trained.images.test_batch(0, 40)[0], 6)
    spikes = trained.network(images)
    assert 0 < spikes.mean() < 1
    assert torch.equal(from_nir(nir.read(tmp_path / "a.nir"))(images), spikes)


def test_export_to_safetensors(run, trained, tmp_path, capsys):
    assert tssl("export", run, "--to", "safetensors", "--out", tmp_path / "a.safetensors") == 0
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path / 'a.safetensors'}: digits, ")
    other = trained.network
    expected = [weights.clone() for weights in other.parameters()]
    torch.nn.init.zeros_(other[0].weight)
    load_weights(other, tmp_path / "a.safetensors")
    assert all(map(torch.equal, other.parameters(), expected))


def test_export_into_the_run_with_another_time_step(run):
    assert tssl("export", run, "--to", "nir", "--dt", 1e-4) == 0
    graph = nir.read(run / "network.nir")
    assert graph.nodes["cubalif"].tau_mem.max() == pytest.approx(5e-4)
    assert tssl("export", run, "--to", "safetensors") == 0
    assert (run / "weights.safetensors").is_file()


def test_export_says_what_nir_cannot(tmp_path, capsys):
    words = ("--arch", "10", "--epochs", 0, "--reset", "subtract", "--device", "cpu", "--run-dir", tmp_path / "run")
    assert tssl("train", *words) == 0
    capsys.readouterr()
    assert tssl("export", tmp_path / "run", "--to", "nir") == 0
    assert capsys.readouterr().out.startswith("note: NIR has no reset by subtraction: programs other than tssl-triton")


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        (("--rule", "ann"), (), "a network of rule 'ann' has no spiking neurons to write as NIR"),
        (("--pool", "max"), (), "layer '1' (SpikePool2d): NIR has no maximum pooling"),
        ((), ("--dt", 0), "--dt must be a time in seconds > 0, got 0.0"),
        ((), ("--dt", "inf"), "--dt must be a time in seconds > 0, got inf"),
        ((), ("--out", "."), "--out must be a file, got the folder ."),
    ],
)
def test_export_errors(tmp_path, capsys, settings, words, message):
    folder = tmp_path / "run"
    assert tssl("train", "--arch", "4C3-P2-10", "--epochs", 0, *settings, "--device", "cpu", "--run-dir", folder) == 0
    files = os.listdir(folder)
    assert tssl("export", folder, "--to", "nir", *words) == 2
    assert capsys.readouterr().err == f"tssl: error: {message}\n"
    assert os.listdir(folder) == files
