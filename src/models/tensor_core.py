"""What recurrent cores with bilinear terms share."""

from src.models.base import Core
from src.tensors.terms import BilinearTerm


class TensorCore(Core):
    """A core in which the input meets the state in bilinear terms (Mathews 2016).

    A subclass keeps its terms as attributes, and other matrices that it multiplies at every step under names that
    start with "recurrent".
    """

    def flops(self, length: int) -> int:
        """As in `Core`, with the products of the terms; of what they add in the first step, nothing is counted."""
        terms = sum(term.product_size for term in self.modules() if isinstance(term, BilinearTerm))
        return super().flops(length) + 2 * 3 * (length - 1) * terms
