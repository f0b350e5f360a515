"""Music as a figure and as a MIDI file.

Shapes: T frames of K = 88 keys.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from src.data.music import LOWEST_KEY

TICKS_PER_FRAME = 240
"""Half of a 480-tick quarter note: four frames per second at MIDI's default tempo, 120 quarter notes per minute."""
LOUDNESS = 64


def piano_roll_figure(roll_TK: np.ndarray) -> Figure:
    """The piano roll: which keys sound in each frame."""
    figure = Figure(figsize=(min(3 + 0.04 * len(roll_TK), 16), 4), layout="constrained")
    axes = figure.subplots()
    top = LOWEST_KEY + roll_TK.shape[1]
    axes.imshow(
        roll_TK.T,
        cmap="Greys",
        vmin=0,
        vmax=1,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(0, len(roll_TK), LOWEST_KEY - 0.5, top - 0.5),
    )
    octaves = range(-(-LOWEST_KEY // 12), -(-top // 12))
    axes.set_yticks([12 * octave for octave in octaves], [f"C{octave - 1}" for octave in octaves])
    axes.grid(True, color="0.85", linewidth=0.6)
    axes.set(xlabel="frame", ylabel="key")
    return figure


def write_midi(roll_TK: np.ndarray, path: Path) -> str:
    """Write a MIDI file in which keys that keep sounding are held; return its path, or the reason why there is none."""
    try:
        from mido import Message, MidiFile, MidiTrack
    except ImportError:
        return "no MIDI file, which needs mido: pip install -e '.[music]'"
    file, track = MidiFile(ticks_per_beat=480), MidiTrack()
    file.tracks.append(track)
    padded = np.pad(roll_TK.astype(int), ((1, 1), (0, 0)))
    waited = 0
    for change_K in np.diff(padded, axis=0):
        for kind, sign in (("note_off", -1), ("note_on", 1)):
            for key in np.flatnonzero(change_K == sign):
                note = int(key) + LOWEST_KEY
                track.append(Message(kind, note=note, velocity=LOUDNESS, time=waited))
                waited = 0
        waited += TICKS_PER_FRAME
    file.save(str(path))
    return str(path)
