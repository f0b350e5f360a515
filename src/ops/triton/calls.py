"""Helpers shared by all calls to Triton kernels."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from src.ops.cpu import calls

INTERPRETED = False
"""Whether Triton's interpreter runs the kernels on a CPU, as in the tests (with TRITON_INTERPRET=1)."""
ONE_HOT_AT_MOST = 2**26
"""Largest one-hot matrix, in numbers, by which a table's gradient is computed as a product; above that, rows are added
atomically, in any order."""


def takes(tensor: Tensor) -> bool:
    """Whether the kernels support a tensor's device and dtype, and the torch.func transforms that are active.

    Under autocast, they accept tensors rounded to bfloat16, and compute in the precision of the weights.
    """
    if not (tensor.is_cuda or INTERPRETED):
        return False
    rounded = tensor.dtype == torch.bfloat16 and torch.is_autocast_enabled(tensor.device.type)
    return (rounded or tensor.dtype in calls.DTYPES) and not _transformed()


def _transformed() -> bool:
    """Whether a forward-mode derivative or a torch.func transform, other than a single `vmap`, is active."""
    if forward_ad._current_level >= 0:
        return True
    levels = torch._C._functorch.get_interpreter_stack() or []
    return len(levels) > 1 or any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels)


def of_members(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """Merge the dimension mapped by `torch.func.vmap` into the first one, which counts the members."""
    if tensor is None:
        return None
    mapped = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.flatten(0, 1)


def sum_by_id(ids: Tensor, d_rows: Tensor, symbols: int) -> Tensor:
    """The gradient of a table [P, V, H], from the gradients of its rows where they were read [P, B, T, H]."""
    d_rows = d_rows.flatten(1, 2)
    ids = ids.flatten(1)
    if ids.numel() * symbols <= ONE_HOT_AT_MOST:
        one_hot = (ids[:, None] == torch.arange(symbols, device=ids.device)[:, None]).to(d_rows.dtype)
        return torch.bmm(one_hot, d_rows)
    members = len(ids)
    flat = ids + symbols * torch.arange(members, device=ids.device)[:, None]
    total = d_rows.new_zeros(members * symbols, d_rows.shape[-1])
    return total.index_add_(0, flat.flatten(), d_rows.flatten(0, 1)).view(members, symbols, -1)
