"""Target spike trains, event binning, and the checks on both."""

import pytest
import torch

from tssl_triton.encoding import PATTERNS, StaticInput, bin_events, pattern_steps, static, target_pattern


def test_static_presents_the_values_at_every_step():
    values = torch.rand(3, 2, 4)
    given = static(values, 5)
    assert isinstance(given, StaticInput)
    assert given.steps == 5
    torch.testing.assert_close(given.dense(), torch.stack([values] * 5), rtol=0, atol=0)
    assert given.dense().data_ptr() == values.data_ptr(), "dense() should copy nothing"


@pytest.mark.parametrize(
    ("values", "steps", "error", "message"),
    [
        ([[1.0]], 5, TypeError, r"values must be a tensor \(B, \*features\), got list"),
        (torch.zeros(3), 5, ValueError, r"values must be \(B, \*features\), got shape \(3,\)"),
        (torch.zeros(3, 2), 0, ValueError, "steps must be an integer >= 1, got 0"),
        (torch.zeros(3, 2), 2.0, TypeError, r"steps must be an integer >= 1, got 2\.0"),
        (torch.zeros(3, 2), True, TypeError, "steps must be an integer >= 1, got True"),
    ],
)
def test_static_rejects(values, steps, error, message):
    with pytest.raises(error, match=message):
        static(values, steps)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("three-spikes", (0, 1, 0, 1, 1)),
        ("four-spikes", (0, 1, 1, 1, 1)),
        ("01011", (0, 1, 0, 1, 1)),
        ("1", (1,)),
        ([0, 0, 1], (0, 0, 1)),
        ((True, False), (1, 0)),
    ],
)
def test_pattern_steps(pattern, expected):
    assert pattern_steps(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        (
            "five-spikes",
            ValueError,
            "'three-spikes', 'four-spikes' or zeros and ones such as '01011', .*; got 'five-spikes'",
        ),
        ("", ValueError, "pattern must be .* got ''"),
        ("01021", ValueError, "pattern must be .* got '01021'"),
        ([], ValueError, r"pattern must be .* got \[\]"),
        ([0, 2], ValueError, r"pattern must be .* got \[0, 2\]"),
        (3, TypeError, "pattern must be .* got 3"),
    ],
)
def test_pattern_steps_rejects(pattern, error, message):
    with pytest.raises(error, match=message):
        pattern_steps(pattern)


@pytest.mark.parametrize("pattern", [*PATTERNS, "011"])
@pytest.mark.parametrize("steps", [None, 1, 5, 7, 12])
def test_target_pattern_repeats_and_cuts(pattern, steps):
    labels = torch.tensor([2, 0, 2, 1])
    target = target_pattern(labels, 3, pattern, steps)
    once = pattern_steps(pattern)
    length = len(once) if steps is None else steps
    assert target.shape == (length, 4, 3)
    assert target.dtype == torch.float32
    wanted = torch.tensor((once * length)[:length], dtype=torch.float32)
    for sample, label in enumerate(labels.tolist()):
        for neuron in range(3):
            expected = wanted if neuron == label else torch.zeros(length)
            torch.testing.assert_close(target[:, sample, neuron], expected, rtol=0, atol=0)


def test_target_pattern_of_an_empty_batch():
    assert target_pattern(torch.empty(0, dtype=torch.int64), 10).shape == (5, 0, 10)


def test_target_pattern_takes_the_dtype():
    assert target_pattern(torch.tensor([1]), 2, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.tensor([0.0])}, TypeError, r"labels must be an int64 tensor \(B,\), got torch.float32"),
        ({"labels": [0]}, TypeError, r"labels must be an int64 tensor \(B,\), got list"),
        ({"labels": torch.zeros(2, 1, dtype=torch.int64)}, ValueError, r"labels must be \(B,\), got shape \(2, 1\)"),
        ({"classes": 0}, ValueError, "classes must be an integer >= 1, got 0"),
        ({"steps": -1}, ValueError, "steps must be an integer >= 1, got -1"),
        ({"pattern": "x"}, ValueError, "pattern must be"),
        ({"labels": torch.tensor([3])}, RuntimeError, "out of bounds"),
    ],
)
def test_target_pattern_rejects(change, error, message):
    arguments = {"labels": torch.tensor([0, 1]), "classes": 3} | change
    with pytest.raises(error, match=message):
        target_pattern(**arguments)


def test_bin_events_marks_the_presence_of_events():
    times = torch.tensor([0.0, 0.9, 1.0, 2.5, 2.6, 3.0, 99.0])
    units = torch.tensor([0, 3, 3, 5, 5, 1, 2])
    spikes = bin_events(times, units, (2, 3), bin_width=1.0, steps=3)
    expected = torch.zeros(3, 6)
    expected[0, 0] = expected[0, 3] = 1
    expected[1, 3] = 1
    expected[2, 5] = 1  # two events in one bin make one spike; those at 3.0 and 99.0 come after the last bin
    torch.testing.assert_close(spikes, expected.view(3, 2, 3), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.float64])
def test_bin_events_agrees_with_a_loop(dtype):
    generator = torch.Generator().manual_seed(3)
    times = torch.randint(0, 3000, (500,), generator=generator).to(dtype)
    units = torch.randint(0, 24, (500,), generator=generator)
    spikes = bin_events(times, units, (2, 3, 4), bin_width=100, steps=20)
    expected = torch.zeros(20, 24)
    for time, unit in zip(times.tolist(), units.tolist(), strict=True):
        if time // 100 < 20:
            expected[int(time // 100), unit] = 1
    torch.testing.assert_close(spikes.flatten(1), expected, rtol=0, atol=0)
    assert spikes.shape == (20, 2, 3, 4)


@pytest.mark.parametrize("bin_width", [0.1, 0.01, 0.005, 0.001, 1 / 3, 0.7])
def test_an_event_on_the_border_of_two_bins_belongs_to_the_later_one(bin_width):
    steps = 2000
    times = torch.arange(steps, dtype=torch.float64) * bin_width
    spikes = bin_events(times, torch.zeros(steps, dtype=torch.int64), (1,), bin_width, steps)
    assert spikes.all()
    before = torch.nextafter(times[1:], torch.zeros(()).double())
    spikes = bin_events(before, torch.zeros(steps - 1, dtype=torch.int64), (1,), bin_width, steps)
    assert spikes[:-1].all()
    assert not spikes[-1].any()


def test_bin_events_does_not_need_sorted_events():
    times, units = torch.tensor([5.0, 1.0, 3.0]), torch.tensor([0, 1, 2])
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        bin_events(times, units, (3,), 2.0, 3), bin_events(times[order], units[order], (3,), 2.0, 3)
    )


def test_bin_events_without_events():
    spikes = bin_events(torch.empty(0), torch.empty(0, dtype=torch.int64), (2, 2), 1.0, 4)
    assert spikes.shape == (4, 2, 2)
    assert spikes.sum() == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"times": [0.0]}, TypeError, r"times must be a tensor \(E,\), got list"),
        ({"times": torch.zeros(2, 2)}, ValueError, r"times must be \(E,\), got shape \(2, 2\)"),
        ({"times": torch.zeros(3)}, ValueError, "one entry per event, got 3 and 2"),
        ({"times": torch.tensor([0.0, -1.0])}, ValueError, "times must be finite and >= 0"),
        ({"times": torch.tensor([0.0, float("nan")])}, ValueError, "times must be finite and >= 0"),
        ({"units": torch.tensor([0.0, 1.0])}, TypeError, "units must be a tensor of integers, got torch.float32"),
        ({"units": torch.tensor([0, 4])}, ValueError, r"units must be in \[0, 4\) for shape \(2, 2\), got .* 0 to 4"),
        ({"units": torch.tensor([-1, 0])}, ValueError, r"units must be in \[0, 4\)"),
        ({"bin_width": 0.0}, ValueError, r"bin_width must be a finite number > 0, got 0\.0"),
        ({"bin_width": float("inf")}, ValueError, "bin_width must be a finite number > 0, got inf"),
        ({"bin_width": "a"}, TypeError, "bin_width must be a real number > 0, got 'a'"),
        ({"shape": 4}, TypeError, "shape must be a sequence of integers >= 1, got 4"),
        ({"dtype": "f"}, TypeError, "dtype must be a torch.dtype, got 'f'"),
        ({"steps": 0}, ValueError, "steps must be an integer >= 1, got 0"),
        ({"shape": (2, 0)}, ValueError, "every size in shape must be an integer >= 1, got 0"),
    ],
)
def test_bin_events_rejects(change, error, message):
    arguments = {
        "times": torch.tensor([0.0, 1.0]),
        "units": torch.tensor([0, 1]),
        "shape": (2, 2),
        "bin_width": 1.0,
        "steps": 2,
    } | change
    with pytest.raises(error, match=message):
        bin_events(**arguments)
