"""Operations that need more digits than half precision has."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The type itself, or float32 instead of half precision."""
    return torch.promote_types(dtype, torch.float32)


def under_autocast(like: Tensor) -> bool:
    """Whether autocast lowers the precision of operations on the device of a tensor."""
    device = like.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(like: Tensor) -> AbstractContextManager:
    """A context in which autocast leaves operations on the device of a tensor as they are."""
    return torch.autocast(like.device.type, enabled=False) if under_autocast(like) else nullcontext()
