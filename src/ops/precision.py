"""Helpers for operations that need more digits than half precision has."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or float32 if it is a half-precision one."""
    return torch.promote_types(dtype, torch.float32)


def under_autocast(like: Tensor) -> bool:
    """Whether autocast is lowering the precision of operations on a tensor's device."""
    device = like.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(like: Tensor) -> AbstractContextManager:
    """A context in which autocast does not affect operations on a tensor's device."""
    return torch.autocast(like.device.type, enabled=False) if under_autocast(like) else nullcontext()
