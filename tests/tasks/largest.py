"""The memory that a computation takes, counted rather than measured."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Largest(TorchFunctionMode):
    """Remembers the size of the largest tensor that a function of PyTorch has returned."""

    most = 0

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        result = function(*arguments, **(settings or {}))
        if isinstance(result, torch.Tensor):
            self.most = max(self.most, result.numel())
        return result


def largest(compute: Callable[[], object]) -> int:
    """The number of elements of the largest tensor that a computation creates."""
    with _Largest() as mode:
        compute()
    return mode.most
