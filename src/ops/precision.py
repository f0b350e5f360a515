"""Arithmetic that does not bear few digits."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The type itself, or float32 instead of half precision."""
    return torch.promote_types(dtype, torch.float32)


def without_autocast(like: Tensor) -> AbstractContextManager:
    """A context in which autocast leaves operations on the device of a tensor as they are."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
