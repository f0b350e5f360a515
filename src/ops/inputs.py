"""What enters a recurrence at every step, with or without a vector for every position."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional


class Inputs(NamedTuple):
    """Projected vectors [B, T, P], or rows [V, P] that tokens [B, T] choose from."""

    rows: Tensor
    tokens: Tensor | None = None

    @property
    def batch_and_time(self) -> tuple[int, int]:
        """B and T."""
        shape = self.rows.shape if self.tokens is None else self.tokens.shape
        return shape[0], shape[1]

    @property
    def vectors(self) -> Tensor:
        """A vector for every position, [B, T, P]."""
        return self.rows if self.tokens is None else functional.embedding(self.tokens, self.rows)

    def split(self, num_steps: int) -> list["Inputs"]:
        """Pieces of so many steps; the last one may be shorter."""
        if self.batch_and_time[1] <= num_steps:
            return [self]
        if self.tokens is None:
            return [Inputs(piece) for piece in self.rows.split(num_steps, dim=1)]
        return [Inputs(self.rows, piece) for piece in self.tokens.split(num_steps, dim=1)]
