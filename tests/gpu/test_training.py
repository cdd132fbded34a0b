"""Whole training steps on a device: captured in a CUDA graph, the same each time, and never waited for."""

import benches  # noqa: F401 - finds bench
import pytest
import torch
from on_device import check_same_answers, launches_by_name, learnt

from bench.common.graphs import WARMUP, captured
from bench.common.steps import TrainingStep
from bench.launches import count
from tssl_triton.data import ImageSet
from tssl_triton.training import EXPERIMENTS, LOSSES, Trainer, resolve

pytestmark = pytest.mark.gpu

KERNELS = {"lif forward": "lif_forward_kernel", "lif backward": "lif_backward_kernel", "psc": "psc_kernel"}


def eagerly(step):
    return step


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.usefixtures("exact_products")
def test_a_captured_step_learns_what_an_eager_one_does(name):
    def make():
        return TrainingStep(name, 8, "cuda")

    losses, *weights = learnt(make, eagerly, WARMUP + 5)
    replayed, *after = learnt(make, captured, 5)
    check_same_answers([replayed, *after], [losses[WARMUP:], *weights])
    assert replayed.isfinite().all()


@pytest.mark.usefixtures("exact_products")
def test_a_captured_step_learns_from_new_batches():
    def run(capture):
        step = TrainingStep("mnist", 8, "cuda")
        call = captured(step) if capture else step
        if not capture:
            for _ in range(WARMUP):
                step()
        losses = []
        for seed in range(4):
            generator = torch.Generator().manual_seed(100 + seed)
            step.inputs.copy_(torch.randn(step.inputs.shape, generator=generator))
            losses.append(call().clone())
        return [torch.stack(losses).cpu(), *(weight.detach().cpu() for weight in step.network.parameters())]

    check_same_answers(run(True), run(False))


@pytest.mark.usefixtures("exact_products")
def test_twenty_trainings_are_the_same_bit_for_bit():
    first, *others = (learnt(lambda: TrainingStep("mnist", 50, "cuda"), eagerly, 3) for _ in range(20))
    for other in others:
        check_same_answers(other, first)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_step_written_by_hand_does_not_wait(name, request):
    step = TrainingStep(name, 4, "cuda")
    step()
    request.getfixturevalue("no_waiting")
    step()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_of_the_trainer_does_not_wait(loss, request):
    pixels = torch.randint(256, (200, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 10
    images = ImageSet("drawn", pixels, labels, pixels, labels, classes=10, mean=127.0, std=74.0)
    settings = {"arch": "15C5-P2-40C5-P2-300", "padding": "0", "dropout": 0.2, "device": "cuda", "loss": loss}
    trainer = Trainer(resolve(settings, {}), images)
    batches = torch.arange(100, device="cuda").split(50)
    trainer.step(batches[0])
    request.getfixturevalue("no_waiting")
    trainer.step(batches[1])


@pytest.mark.usefixtures("no_waiting")
def test_waiting_would_be_noticed():
    with pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(3, device="cuda").sum().item()


@pytest.mark.parametrize("capture", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_launches_are_those_counted_without_a_device(name, capture, record_property):
    step = TrainingStep(name, 4, "cuda")
    call = captured(step) if capture else step
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not names:
        pytest.skip("the profiler saw no kernels here")
    expected = count(name)
    # Library operators may take several kernels, or one for two; how many is for the report, not for a verdict.
    record_property("operators counted", expected.total)
    record_property("kernels, copies and fills launched", len(names))
    found = launches_by_name(names)
    for kind, kernel in KERNELS.items():
        assert found[kernel] == expected.launches[kind], kernel
    assert found["unpack_kernel"] == expected.launches["pack, unpack"]
