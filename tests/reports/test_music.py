"""A piano roll survives a MIDI file, and can be drawn."""

import numpy as np
import pytest

from src.data.music import LOWEST_KEY
from src.reports.music import LOUDNESS, TICKS_PER_FRAME, piano_roll_figure, write_midi


def read_back(path, num_frames):
    """The piano roll of a MIDI file."""
    mido = pytest.importorskip("mido")
    roll, frame, sounding = np.zeros((num_frames, 88), int), 0, set()
    for message in mido.MidiFile(path).tracks[0]:
        until = frame + message.time // TICKS_PER_FRAME if not message.is_meta else frame
        assert message.is_meta or message.time % TICKS_PER_FRAME == 0
        for key in sounding:
            roll[frame:until, key] = 1
        frame = until
        if message.type == "note_on":
            assert message.velocity == LOUDNESS
            sounding.add(message.note - LOWEST_KEY)
        elif message.type == "note_off":
            sounding.remove(message.note - LOWEST_KEY)
    assert not sounding
    return roll


@pytest.mark.parametrize("density", [0.0, 0.05, 0.9])
def test_a_midi_file_has_the_keys_of_every_frame(density, tmp_path):
    roll = (np.random.default_rng(0).random((40, 88)) < density).astype(np.uint8)
    assert write_midi(roll, tmp_path / "x.mid") == f"{tmp_path}/x.mid"
    np.testing.assert_array_equal(read_back(tmp_path / "x.mid", 40), roll)


def test_without_the_library_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mido", None)
    assert "pip install -e '.[music]'" in write_midi(np.ones((2, 88)), tmp_path / "x.mid")
    assert not (tmp_path / "x.mid").exists()


def test_the_figure_shows_every_frame_and_key():
    (image,) = piano_roll_figure(np.ones((30, 88))).axes[0].images
    assert image.get_array().shape == (88, 30)
    assert tuple(image.get_extent()) == (0, 30, LOWEST_KEY - 0.5, LOWEST_KEY + 87.5)
