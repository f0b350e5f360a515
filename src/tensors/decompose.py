"""Decompositions of a full tensor, computed by TensorLy (pip install -e '.[tensors]').

Shapes: R components, P, Q and S ranks, I, J and K features.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from src.tensors.base import BilinearMap, Sizes
from src.tensors.cp import CP
from src.tensors.tensor_train import TensorTrain
from src.tensors.tucker import Tucker

Map = TypeVar("Map", bound=BilinearMap)


def cp_als(W_IJK: Tensor, rank: int, max_sweeps: int = 1000, seed: int = 0) -> CP:
    """The CP decomposition of a given rank by alternating least squares: a local optimum of the squared error.

    The iteration starts from the singular vectors of each mode, or from random factors if the rank exceeds the size of
    a mode.
    """
    from tensorly.decomposition import parafac

    init = "svd" if rank <= min(W_IJK.shape) else "random"
    _, factors = parafac(_array(W_IJK), rank, n_iter_max=max_sweeps, init=init, tol=1e-10, random_state=seed)
    return _filled(CP(Sizes(*W_IJK.shape), rank), W_IJK, [factor.T for factor in factors])


def tensor_train_svd(W_IJK: Tensor, ranks: tuple[int, int]) -> TensorTrain:
    """The tensor train of ranks P and Q by two singular value decompositions, within a factor √2 of the least error.

    Ranks larger than an exact decomposition needs are reduced to what it needs.
    """
    from tensorly.decomposition import tensor_train

    left_IP, core_PJQ, right_QK = tensor_train(_array(W_IJK), rank=[1, *ranks, 1])
    made = TensorTrain(Sizes(*W_IJK.shape), (core_PJQ.shape[0], core_PJQ.shape[2]))
    return _filled(made, W_IJK, [left_IP[0].T, core_PJQ.transpose(1, 0, 2), right_QK[..., 0]])


def higher_order_svd(W_IJK: Tensor, ranks: tuple[int, int, int]) -> Tucker:
    """Tucker of ranks P, Q and S by the singular vectors of each mode, within a factor √3 of the least error."""
    from tensorly.decomposition import tucker

    core_PQS, factors = tucker(_array(W_IJK), list(ranks), n_iter_max=0, init="svd")
    return _filled(Tucker(Sizes(*W_IJK.shape), ranks), W_IJK, [*(factor.T for factor in factors), core_PQS])


def relative_error(W_IJK: Tensor, approximation_IJK: Tensor) -> float:
    """‖W - V‖ / ‖W‖: the relative root mean square error of y for independent features of equal variance."""
    return float((W_IJK - approximation_IJK).detach().norm() / W_IJK.detach().norm())


def _array(W_IJK: Tensor) -> np.ndarray:
    return W_IJK.detach().double().cpu().numpy()


@torch.no_grad()
def _filled(map_: Map, like: Tensor, values: Sequence[np.ndarray]) -> Map:
    map_ = map_.to(like)
    for parameter, value in zip(map_.parameters(), values, strict=True):
        parameter.copy_(torch.as_tensor(np.ascontiguousarray(value)))
    return map_
