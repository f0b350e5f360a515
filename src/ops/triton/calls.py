"""What all calls of Triton kernels share."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from src.ops.cpu import calls

INTERPRETED = False
"""Whether Triton's interpreter runs the kernels, on a CPU, as in the tests (with TRITON_INTERPRET=1)."""
ONE_HOT_AT_MOST = 2**26
"""Numbers of a one-hot matrix that may be made, so that a table's gradient is a product; otherwise rows are added
atomically, in any order."""


def takes(tensor: Tensor) -> bool:
    """Whether the kernels run where a tensor is, in its dtype, and under the transforms of torch.func that there are.

    Under autocast they take what is rounded to bfloat16, and go on in the precision of the weights.
    """
    if not (tensor.is_cuda or INTERPRETED):
        return False
    rounded = tensor.dtype == torch.bfloat16 and torch.is_autocast_enabled(tensor.device.type)
    return (rounded or tensor.dtype in calls.DTYPES) and not _transformed()


def _transformed() -> bool:
    """Whether there is a forward derivative or a transform of torch.func, other than one `vmap`."""
    if forward_ad._current_level >= 0:
        return True
    levels = torch._C._functorch.get_interpreter_stack() or []
    return len(levels) > 1 or any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels)


def of_members(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """Make the dimension that `torch.func.vmap` maps a part of the first one, that of members."""
    if tensor is None:
        return None
    mapped = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.flatten(0, 1)


def sum_by_id(ids: Tensor, d_rows: Tensor, symbols: int) -> Tensor:
    """The gradient of a table [P, V, H] from those of its rows where they were read [P, B, T, H]."""
    d_rows = d_rows.flatten(1, 2)
    ids = ids.flatten(1)
    if ids.numel() * symbols <= ONE_HOT_AT_MOST:
        one_hot = (ids[:, None] == torch.arange(symbols, device=ids.device)[:, None]).to(d_rows.dtype)
        return torch.bmm(one_hot, d_rows)
    members = len(ids)
    flat = ids + symbols * torch.arange(members, device=ids.device)[:, None]
    total = d_rows.new_zeros(members * symbols, d_rows.shape[-1])
    return total.index_add_(0, flat.flatten(), d_rows.flatten(0, 1)).view(members, symbols, -1)
