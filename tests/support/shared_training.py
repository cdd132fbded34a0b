"""Functions that the tests of distributed training run in every process; run alone, each is an ordinary training."""

import copy
from unittest import mock

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tssl_triton import SpikingLinear, build_network, data, losses
from tssl_triton.training import Processes, Trainer, resolve


def one_step(settings, images):
    """The gradients of a step on the first ``images`` training images, and the reading after it."""
    trainer = Trainer(resolve(settings, {}), data.load("digits"))
    trainer.step(torch.arange(images))
    return [weight.grad.clone() for weight in trainer.network.parameters()], trainer.read()


def one_epoch(settings, state=None, questions=None, asked=0):
    """Train an epoch, or the rest of it after ``state``; returns a reading per batch, the metrics and the final state.

    With ``questions``, the process of rank ``asked`` requests a stop after that many checks.
    """
    trainer = Trainer(resolve(settings, {}), data.load("digits"))
    if state is not None:
        # A copy, as if read from a file: tensors sent to the other process share memory with the originals.
        trainer.load_state(copy.deepcopy(state), "state")
    readings = []
    left = questions if questions is not None and Processes.now().rank == asked else float("inf")

    def stop():
        nonlocal left
        left -= 1
        return left < 0

    with mock.patch("tssl_triton.training.trainer.READING_INTERVAL", 0.0):
        complete = trainer.train_epoch(stop, readings.append)
    assert complete == (questions is None)
    return readings, trainer.history, trainer.state()


def sharded_step(shard):
    """The weights of a small network after one step on 8 samples.

    With ``shard``, FSDP2 shards the layers, each process has half the samples and the gradients are averaged; without,
    one process sees all samples and halves the summed gradient.
    """
    torch.manual_seed(0)
    net = build_network("4C3-P2-12", (1, 8, 8), 5)
    generator = torch.Generator().manual_seed(1)
    spikes = (torch.rand(5, 8, 1, 8, 8, generator=generator) < 0.5).float()
    labels = torch.arange(8) % 5
    if shard:
        mesh = init_device_mesh("cpu", (2,))
        for layer in net:
            if isinstance(layer, SpikingLinear):
                fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)
        share = Processes.now().share(8)
        spikes, labels = spikes[:, share], labels[share]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = losses.softmax_count_loss(net(spikes), labels)
    (loss if shard else loss / 2).backward()
    optimizer.step()
    return {
        name: (weight.full_tensor() if shard else weight).detach().clone() for name, weight in net.named_parameters()
    }
