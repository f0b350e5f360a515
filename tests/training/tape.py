"""A stand-in for CUDA graphs on a CPU: operations are recorded with their tensors and constants, and replayed."""

from typing import Any

import optree
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.repeat_interleave}
_REFUSED = "operation not permitted when stream is capturing"


class _NothingRead(TorchFunctionMode):
    """Refuses to read all values of a tensor, which on a CPU is not an operation that `_Tape` sees."""

    def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), settings: Any = None) -> Any:
        if function in (Tensor.tolist, Tensor.numpy):
            raise RuntimeError(_REFUSED)
        return function(*arguments, **(settings or {}))


class _Tape(TorchDispatchMode):
    """Records operations, to be repeated on the same memory.

    As in a CUDA graph, whatever would wait for the GPU is an error: reading a value from a tensor, or a shape that
    depends on values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, list[Tensor]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), settings: Any = None) -> Any:
        settings = settings or {}
        selects = function.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
        by_mask = selects and any(t is not None and t.dtype == torch.bool for t in arguments[1])
        if by_mask or function.overloadpacket in _WAITS:
            raise RuntimeError(_REFUSED)
        for argument, given in zip(function._schema.arguments, arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in optree.tree_leaves(given):
                    self._keep(tensor)
        result = function(*arguments, **settings)
        given_memory = {_memory(tensor) for tensor in _tensors((arguments, settings))}
        fresh = [tensor for tensor in _tensors(result) if _memory(tensor) not in given_memory]
        if fresh or function._schema.is_mutable:
            self.operations.append((function, arguments, settings, fresh))
        return result

    def _keep(self, tensor: Tensor) -> None:
        whole = tensor.detach().new_empty(0).set_(tensor.untyped_storage())
        self.before.setdefault(_memory(tensor), (whole, whole.clone()))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in optree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class TapeRecorder:
    """Stands in for `src.training.graphs.CudaRecorder`."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def run(self, work):
        return work()

    def record(self, work):
        tape, random_state = _Tape(), torch.get_rng_state()
        try:
            with tape, _NothingRead():
                results = work()
        finally:
            torch.set_rng_state(random_state)  # recording a CUDA graph draws no random numbers
        self.recorded += 1
        with torch.no_grad():
            for whole, value in tape.before.values():
                whole.copy_(value)

        @torch.no_grad()
        def replay():
            self.replayed += 1
            for function, arguments, settings, fresh in tape.operations:
                made = _tensors(function(*arguments, **settings))
                for held, new in zip(fresh, made[len(made) - len(fresh) :], strict=True):
                    held.copy_(new)

        return replay, results
