"""Checkpoints: written atomically, plain, and rejected if they are damaged or from another program."""

import os
import pickle
import zipfile

import pytest
import torch

from tssl_triton.training import CheckpointError, checkpoint

CONTENT = {
    "config": {"dataset": "digits"},
    "epoch": 2,
    "batch": 0,
    "totals": {},
    "history": [{"epoch": 1, "loss": 0.5}],
    "model": {"weight": torch.arange(5000.0)},
    "optimizer": {},
    "rng": {"cpu": torch.get_rng_state(), "cuda": None},
    "environment": {},
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, CONTENT)
    return path


def test_a_saved_checkpoint_is_loaded(path):
    content = checkpoint.load(path)
    assert content["format"] == checkpoint.FORMAT
    assert content["history"] == CONTENT["history"]
    torch.testing.assert_close(content["model"]["weight"], CONTENT["model"]["weight"], rtol=0, atol=0)


def test_a_checkpoint_contains_only_tensors_and_plain_containers(path):
    assert torch.load(path, weights_only=True)["epoch"] == 2


def test_saving_leaves_no_other_file(path):
    checkpoint.save(path, CONTENT)
    assert os.listdir(path.parent) == ["checkpoint.pt"]


@pytest.mark.parametrize("failing", ["save", "fsync", "replace"])
def test_an_interrupted_save_keeps_the_old_checkpoint(path, monkeypatch, failing):
    def fail(*arguments, **options):
        raise OSError("the power went out")

    monkeypatch.setattr({"save": torch, "fsync": os, "replace": os}[failing], failing, fail)
    with pytest.raises(OSError, match="the power went out"):
        checkpoint.save(path, CONTENT | {"epoch": 3})
    monkeypatch.undo()
    assert checkpoint.load(path)["epoch"] == 2
    checkpoint.save(path, CONTENT | {"epoch": 3})
    assert checkpoint.load(path)["epoch"] == 3


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match=f"no checkpoint at {tmp_path / 'none.pt'}"):
        checkpoint.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=f"no checkpoint at {tmp_path}"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_truncated(path, kept):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match=f"checkpoint {path} is damaged or not a checkpoint"):
        checkpoint.load(path)


def test_one_flipped_bit_in_a_weight(path):
    content = bytearray(path.read_bytes())
    at = content.find(torch.tensor([1000.0, 1001.0]).numpy().tobytes())
    assert at > 0
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"checkpoint {path} is damaged: the checksum of .* does not match"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"epoch = 2\n", b"\x80\x04N.", bytes(range(256))])
def test_not_a_checkpoint_at_all(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"checkpoint {path} is damaged or not a checkpoint"):
        checkpoint.load(path)


def test_another_zip_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    with pytest.raises(CheckpointError, match=f"checkpoint {path} is damaged or not a checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize("foreign", [torch.zeros(3), {"model": {}}, {"format": "another program's"}, [1, 2]])
def test_files_of_torch_that_are_no_checkpoint_of_ours(tmp_path, foreign):
    path = tmp_path / "checkpoint.pt"
    torch.save(foreign, path)
    with pytest.raises(CheckpointError, match=f"{path} is not a checkpoint of tssl-triton"):
        checkpoint.load(path)


class Payload:
    """Code that a malicious file would run when unpickled."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["PAYLOAD_FOLDER"],))


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    proof = tmp_path / "payload-ran"
    monkeypatch.setenv("PAYLOAD_FOLDER", str(proof))
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": checkpoint.FORMAT, "model": Payload()}, path)
    with pytest.raises(CheckpointError, match="it contains more than tensors and plain containers"):
        checkpoint.load(path)
    assert not proof.exists()
    with pytest.raises(
        FileExistsError
    ):  # the payload is real: plain pickle runs it, the second time onto its own folder
        [pickle.loads(pickle.dumps(Payload())) for _ in range(2)]


def test_other_versions_are_named(path):
    torch.save(checkpoint.load(path) | {"version": 99}, path)
    with pytest.raises(CheckpointError, match=f"checkpoint {path} has version 99, this tssl-triton reads version 1"):
        checkpoint.load(path)


@pytest.mark.parametrize("name", checkpoint.FIELDS)
@pytest.mark.parametrize("change", ["missing", "wrong"])
def test_incomplete(path, name, change):
    content = checkpoint.load(path)
    content.pop(name)
    torch.save(content if change == "missing" else content | {name: "text"}, path)
    with pytest.raises(CheckpointError, match=f"checkpoint {path} is incomplete: '{name}' is missing or not "):
        checkpoint.load(path)
