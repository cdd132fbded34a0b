"""Training on several processes, as ``torchrun`` starts them: each learns from its share of every batch.

The result is a function of the whole batches, so the number of processes is not a setting and is not stored in a
checkpoint. Gradients are summed over the processes, as they are over the images of one batch, and clipped by the norm
of the sum. Tensors are exchanged between devices. Decisions of the hosts (when to stop, when to report) are exchanged
between hosts, so that no host waits for a device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .config import ConfigError


@dataclass(frozen=True)
class Processes:
    """The processes that train together, seen from one of them.

    Args:
        rank: number of this process, from 0.
        count: number of processes. With 1, every method is a no-op.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def now(cls) -> Processes:
        """The processes of PyTorch's default group; this process alone if there is no group."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes files."""
        return self.rank == 0

    def share(self, samples: int) -> slice:
        """This process's part of a batch: parts are contiguous, and their sizes differ by at most one."""
        each, more = divmod(samples, self.count)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def own(self, device: torch.device) -> torch.device:
        """The device of this process: for ``cuda``, the GPU of its local rank.

        Raises:
            ConfigError: if one GPU was named for all processes, or the machine has too few.
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
        """``network`` wrapped for training: starts from the first process's weights and sums gradients."""
        if self.count == 1:
            return network
        parallel = DistributedDataParallel(network)
        parallel.register_comm_hook(None, _sum_gradients)
        return parallel

    def reseed(self, *numbers: int) -> None:
        """Seed every process but the first with a function of its rank and ``numbers``.

        The first process keeps its generators, and so draws what a single process would.
        """
        if not self.first:
            (seed,) = np.random.SeedSequence([*numbers, self.rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(seed))

    def total(self, sums: Tensor) -> Tensor:
        """``sums``, on this process's device, summed over the processes."""
        if self.count > 1:
            sums = sums.clone()
            dist.all_reduce(sums)
        return sums

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.count == 1:
            return list(flags)
        seen = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(seen, dist.ReduceOp.MAX)
        return [bool(flag) for flag in seen.tolist()]

    @contextlib.contextmanager
    def one_ahead(self) -> Iterator[None]:
        """A block that one process per machine executes before the others, to prepare files for them."""
        ahead = self.count == 1 or dist.get_node_local_rank(self.rank) == 0
        if not ahead:
            self.any(False)
        try:
            yield
        finally:
            if ahead:
                self.any(False)


def _sum_gradients(state: None, bucket):  # string annotations would be rejected by register_comm_hook
    """Communication hook: sum the gradients over processes, where DistributedDataParallel would average them."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


def launched() -> bool:
    """Whether ``torchrun`` started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started into a group for this block; without it, one process."""
    if not launched():
        yield Processes()
        return
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo")
    try:
        yield Processes.now()
    finally:
        dist.destroy_process_group()
