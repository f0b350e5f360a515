"""The checkpoints of one run: saving its state and resuming from it."""

from pathlib import Path
from typing import Any

from src.config.errors import UserError
from src.config.paths import CHECKPOINTS
from src.training import checkpoint
from src.training.content import OTHER_DATA, as_content, is_of_other_data
from src.training.state import TrainState


class RunCheckpoints:
    """The checkpoints of a run, in the subfolder `checkpoints` of its folder.

    Args:
        folder: the folder of the run.
        fingerprint: the fingerprint of the run; a checkpoint with another one is refused.
        data: the `data_digest` of its task; a checkpoint with another one is refused.
    """

    def __init__(self, folder: Path, fingerprint: str, data: str):
        self.folder = folder
        self.fingerprint = fingerprint
        self.data = data

    def save(self, state: TrainState) -> None:
        """Write the state of the run as its newest checkpoint."""
        content = {"fingerprint": self.fingerprint, "data": self.data} | state.to_checkpoint()
        checkpoint.save(self.folder / CHECKPOINTS, state.update, content)

    def resume(self, state: TrainState) -> bool:
        """Load the newest undamaged checkpoint into the state; False if there is none.

        Raises:
            UserError: it was written by a run with other settings, or on other data.
        """

        def take(loaded: Any) -> bool:
            content = as_content(loaded)
            if content["fingerprint"] != self.fingerprint:
                raise UserError(
                    f"{self.folder}: its checkpoints belong to another run ({content['fingerprint']}, this is "
                    f"{self.fingerprint}); run.fresh=true starts over"
                )
            if is_of_other_data(content, self.data):
                raise UserError(f"{self.folder}: {OTHER_DATA}; run.fresh=true starts over")
            state.load(content)
            return True

        return bool(checkpoint.load_newest(self.folder / CHECKPOINTS, state.sum_of_norms.device, take))
