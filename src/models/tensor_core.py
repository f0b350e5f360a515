"""What recurrent cores with bilinear terms share.

Shapes: B sequences, H hidden units.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from src.models.base import Core
from src.specs import State
from src.tensors.terms import BilinearTerm


class TensorCore(Core, ABC):
    """A core in which the input meets the state in bilinear terms (Mathews 2016).

    A subclass keeps its terms as attributes, and other matrices that it multiplies at every step under names that
    start with "recurrent".
    """

    def initial_state(self, batch_size: int) -> State:
        """h = 0."""
        return self.zeros(batch_size, self.hidden_size)

    @abstractmethod
    def step(self, p_BP: Any, state: State) -> tuple[Tensor, State]: ...

    def flops(self, length: int) -> int:
        """As in `Core`, with the products of the terms; of what they add in the first step, nothing is counted."""
        terms = sum(term.product_size for term in self.modules() if isinstance(term, BilinearTerm))
        return super().flops(length) + 2 * 3 * (length - 1) * terms
