"""Training on several processes, as ``torchrun`` starts them: each learns from its share of every batch.

What a training computes is a function of the whole batches, so their number of processes is no setting, and a
checkpoint does not know it. Gradients are added up over the processes, as those of the images of one batch are; the
norm that clips them is that of the sum. Data go from device to device; what the hosts must agree on, when to stop and
when to report, goes from host to host, so that no device is waited for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .config import ConfigError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """The processes that train together, and which of them this one is.

    Args:
        rank: number of this process, from 0.
        count: how many there are. What they do together costs nothing where there is one.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def now(cls) -> Processes:
        """Those of PyTorch's default process group; this one alone where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def share(self, samples: int) -> slice:
        """This process's part of a batch: the parts follow one another, and their sizes differ by one at most."""
        each, more = divmod(samples, self.count)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def own(self, device: torch.device) -> torch.device:
        """The device of this process: where GPUs are meant, that of its number on its machine.

        Raises:
            ConfigError: if one GPU was named for all processes, or there are too few.
        """
        if self.count == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise ConfigError(f"device must be auto, cpu or cuda with {self.count} processes, got {str(device)!r}")
        local, there = dist.get_node_local_rank(self.rank), torch.cuda.device_count()
        if local >= there:
            raise ConfigError(f"device 'cuda' has no GPU for process {local + 1} of this machine: torch sees {there}")
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    def parallel(self, network: nn.Module) -> nn.Module:
        """``network`` as it is to be called in training: with the first one's weights, adding up all gradients."""
        if self.count == 1:
            return network
        parallel = DistributedDataParallel(network)
        parallel.register_comm_hook(None, _added_up)
        return parallel

    def reseed(self, *numbers: int) -> None:
        """Give each process but the first random numbers of its own, a function of its rank and ``numbers``.

        The first one goes on with the generators it has, as a process alone does.
        """
        if not self.first:
            (seed,) = np.random.SeedSequence([*numbers, self.rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(seed))

    def total(self, sums: Tensor) -> Tensor:
        """``sums``, on this process's device, added up over the processes."""
        if self.count > 1:
            sums = sums.clone()
            dist.all_reduce(sums)
        return sums

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set in any process."""
        if self.count == 1:
            return list(flags)
        seen = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(seen, dist.ReduceOp.MAX)
        return [bool(flag) for flag in seen.tolist()]

    @contextlib.contextmanager
    def one_ahead(self) -> Iterator[None]:
        """A block that one process of each machine goes through before the others do, to prepare files for them."""
        ahead = self.count == 1 or dist.get_node_local_rank(self.rank) == 0
        if not ahead:
            self.any(False)
        try:
            yield
        finally:
            if ahead:
                self.any(False)


def _added_up(state: None, bucket):  # annotated with strings it would be refused
    """Communication hook: the sum of the processes' gradients, of which DistributedDataParallel would take the mean."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


def launched() -> bool:
    """Whether ``torchrun`` started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """A block in which the processes that ``torchrun`` started are a group; any other process is alone in it."""
    if not launched():
        yield Processes()
        return
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo")
    try:
        yield Processes.now()
    finally:
        dist.destroy_process_group()
