"""DVS-Gesture in both layouts: exactly the expected spikes, and errors that name the problem."""

import numpy as np
import pytest
import torch
from event_files import aedat_bytes, aedat_packet, write_cut_gestures, write_trial

from tssl_triton import data


def load(root, **options):
    return data.load("dvs-gesture", root, download=False, **{"steps": 4, "bin_ms": 5.0, **options})


def places(spikes):
    """``(step, polarity, row, column)`` of each spike."""
    return sorted(tuple(place) for place in spikes.nonzero().tolist())


@pytest.fixture
def published(tmp_path):
    """Two trials as published, one for each half; the first in two packets."""
    folder = tmp_path / "DVSGesture" / "DvsGesture"
    first = [
        (9, 9, 1, 999),  # before the gesture
        (127, 126, 1, 1_000),  # at its first microsecond
        (5, 3, 0, 5_999),
        (5, 3, 1, 6_000),  # the second step
    ]
    second = [
        (5, 3, 1, 6_001),  # the same step again
        (0, 0, 0, 15_999),
        (1, 1, 0, 16_000),  # the end does not belong to it, nor is it the start of the next one
        (2, 2, 0, 20_000),
        (4, 4, 1, 39_999),  # the last microsecond of four steps
        (6, 6, 1, 40_000),  # and one beyond
    ]
    write_trial(folder, "user01_led", [first, second], [(1, 1_000, 16_000), (11, 20_000, 60_000)])
    write_trial(folder, "user24_lab", [[(7, 8, 1, 500)]], [(8, 0, 1_000)])
    (folder / "trials_to_train.txt").write_text("user01_led.aedat\n")
    (folder / "trials_to_test.txt").write_text("user24_lab.aedat\n")
    return tmp_path, folder


def test_a_published_trial_gives_exactly_its_spikes(published):
    images = load(published[0])
    assert (images.name, images.classes, images.in_shape) == ("dvs-gesture", 11, (2, 128, 128))
    assert images.train_labels.tolist() == [0, 10]
    assert images.test_labels.tolist() == [7]
    values, _ = images.train_batch(torch.tensor([0, 1]))
    assert places(values[:, 0]) == [(0, 0, 3, 5), (0, 1, 126, 127), (1, 1, 3, 5), (2, 0, 0, 0)]
    assert places(values[:, 1]) == [(0, 0, 2, 2), (3, 1, 4, 4)]
    assert places(images.test_batch(0, 1)[0][:, 0]) == [(0, 1, 8, 7)]


def test_downsampling(published):
    images = load(published[0], downsample=4)
    assert images.in_shape == (2, 32, 32)
    values, _ = images.train_batch(torch.tensor([0, 1]))
    assert places(values[:, 0]) == [(0, 0, 0, 1), (0, 1, 31, 31), (1, 1, 0, 1), (2, 0, 0, 0)]
    assert places(values[:, 1]) == [(0, 0, 0, 0), (3, 1, 1, 1)]


def test_packets_of_other_types_are_passed_over(published):
    root, folder = published
    path = folder / "user24_lab.aedat"
    path.write_bytes(path.read_bytes() + aedat_packet([(1, 1, 1, 600)], kind=2) + aedat_packet([(2, 2, 0, 700)]))
    assert places(load(root).test_batch(0, 1)[0][:, 0]) == [(0, 0, 2, 2), (0, 1, 8, 7)]


def test_time_that_ran_over(published):
    root, folder = published
    (folder / "user24_lab.aedat").write_bytes(aedat_bytes([[(7, 8, 1, 5_000)]], overflow=1))
    start = 2**31
    (folder / "user24_lab_labels.csv").write_text(f"class,startTime_usec,endTime_usec\n2,{start},{start + 9_000}\n")
    images = load(root)
    assert images.test_labels.tolist() == [1]
    assert places(images.test_batch(0, 1)[0][:, 0]) == [(1, 1, 8, 7)]


def test_recordings_as_tonic_cuts_them(tmp_path):
    folder = write_cut_gestures(tmp_path) / "ibmGestureTrain" / "user01_led"
    # x, y, polarity, time in milliseconds; the first event is at 700 ms.
    np.save(
        folder / "3.npy", np.array([[5, 6, 1, 700], [5, 6, 0, 705], [5, 6, 0, 706], [127, 0, 1, 719], [1, 1, 1, 720]])
    )
    images = load(tmp_path)
    assert images.train_labels.tolist() == 2 * sorted(range(11), key=str)
    assert images.test_labels.tolist() == sorted(range(11), key=str)
    index = images.train_labels.tolist().index(3)
    values, labels = images.train_batch(torch.tensor([index]))
    assert labels.tolist() == [3]
    assert places(values[:, 0]) == [(0, 1, 6, 5), (1, 0, 6, 5), (3, 1, 0, 127)]


@pytest.mark.parametrize("dtype", [np.int16, np.uint64, np.float32, np.float64])
def test_numbers_of_any_type(tmp_path, dtype):
    folder = write_cut_gestures(tmp_path) / "ibmGestureTest" / "user01_led"
    np.save(folder / "0.npy", np.array([[1, 2, 0, 0], [3, 4, 1, 7]], dtype=dtype))
    assert places(load(tmp_path).test_batch(0, 1)[0][:, 0]) == [(0, 0, 2, 1), (1, 1, 4, 3)]


def test_tonic_s_layout_goes_first(published):
    root, _ = published
    write_cut_gestures(root)
    assert len(load(root).train_labels) == 22


@pytest.mark.parametrize("kept", [10, 40, -1, -9])
def test_a_truncated_trial_is_named(published, kept):
    root, folder = published
    path = folder / "user01_led.aedat"
    whole = path.read_bytes()
    header = whole.index(b"#!END-HEADER\r\n") + 14
    raw = whole[:kept] if kept < 0 else whole[: header + kept]
    path.write_bytes(raw)
    with pytest.raises(data.DataError, match=f"{path} is truncated: .* but the file has {len(raw)} bytes"):
        load(root)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is not AEDAT 3.1: it begins with b''"),
        (b"#!AER-DAT2.0\r\n", "is not AEDAT 3.1: it begins with b'#!AER-DAT2.0"),
        (b"#!AER-DAT3.1\r\n#Format: RAW\r\n", "its header does not end with a line #!END-HEADER"),
        (b"#!AER-DAT3.1\r\n#!END-HEADER\r\n", "contains no polarity events"),
        (aedat_bytes([[(128, 0, 0, 1)]]), "event 0 of 1 has x 128, y 0, polarity 0, time 1 us; .* 128x128 pixels"),
    ],
)
def test_a_trial_that_is_none(published, raw, message):
    root, folder = published
    (folder / "user01_led.aedat").write_bytes(raw)
    with pytest.raises(data.DataError, match=f"{folder / 'user01_led.aedat'} .*{message}"):
        load(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it must begin with class,startTime_usec,endTime_usec"),
        ("class,startTime_usec,endTime_usec\n", "it must begin with .* and list gestures"),
        ("1,2,3\n4,5,6\n", "it must begin with class,startTime_usec,endTime_usec"),
        ("class,startTime_usec,endTime_usec\n1,5,x\n", "line 2 is '1,5,x', not three whole numbers"),
        ("class,startTime_usec,endTime_usec\n1,5,6\n12,5,9\n", "line 3 has class 12 from 5 to 9; classes are 1 to 11"),
        ("class,startTime_usec,endTime_usec\n1,9,9\n", "line 2 has class 1 from 9 to 9"),
    ],
)
def test_a_table_of_labels_that_is_none(published, text, message):
    root, folder = published
    (folder / "user01_led_labels.csv").write_text(text)
    with pytest.raises(data.DataError, match=f"user01_led_labels.csv is damaged: {message}"):
        load(root)


def test_missing_trials_are_named(published):
    root, folder = published
    (folder / "user01_led_labels.csv").unlink()
    with pytest.raises(data.DataError, match=r"trials_to_train\.txt names user01_led_labels\.csv, not in"):
        load(root)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5)), r"must hold events \(E, 4\) of x, y, polarity, time; got float64 \(3, 5\)"),
        (np.zeros((0, 4)), r"must hold events .* got float64 \(0, 4\)"),
        (np.array([["a", "b", "c", "d"]]), r"must hold events"),
        (np.array([[1, 2, 1, np.nan]]), "is damaged: not all of its numbers are finite"),
        (np.array([[1, 128, 1, 5]]), "is damaged: event 0 of 1 has x 1, y 128"),
        (np.array([[1, 2, 2, 5]]), "is damaged: event 0 of 1 has x 1, y 2, polarity 2"),
    ],
)
def test_a_recording_that_is_none(tmp_path, array, message):
    path = write_cut_gestures(tmp_path) / "ibmGestureTrain" / "user01_led" / "7.npy"
    np.save(path, array)
    with pytest.raises(data.DataError, match=f"{path} {message}"):
        load(tmp_path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(data.DataError, match=f"{path} is damaged"):
        load(tmp_path)


def test_a_recording_without_a_class(tmp_path):
    folder = write_cut_gestures(tmp_path) / "ibmGestureTrain" / "user01_led"
    (folder / "7.npy").rename(folder / "11.npy")
    with pytest.raises(data.DataError, match=r"11\.npy does not name its class: files must be named 0\.npy to 10\.npy"):
        load(tmp_path)


def test_missing_files_say_what_goes_where(tmp_path):
    with pytest.raises(data.DataError) as caught:
        load(tmp_path)
    message = str(caught.value)
    for part in (
        "ibmGestureTrain/USER_LIGHT/CLASS.npy",
        "DvsGesture/trials_to_train.txt",
        str(tmp_path),
        "http://research.ibm.com",
    ):
        assert part in message
