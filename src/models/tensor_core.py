"""The base class of recurrent cores with bilinear terms."""

from src.models.base import Core
from src.tensors.terms import BilinearTerm


class TensorCore(Core):
    """A core in which input and state are combined in bilinear terms (Mathews 2016).

    A subclass stores its terms as attributes, and the other matrices that it multiplies by at every step under names
    that start with "recurrent"; `flops` finds both.
    """

    def flops(self, length: int) -> int:
        """As in `Core`, plus the products of the terms, which are not counted in the first step either."""
        terms = sum(term.product_size for term in self.modules() if isinstance(term, BilinearTerm))
        return super().flops(length) + 2 * 3 * (length - 1) * terms
