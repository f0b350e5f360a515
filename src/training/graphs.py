"""An update on a GPU as one CUDA graph: its hundreds of kernels are recorded once and launched together from then on.

The graph contains the work of an update on tensors (`Update.compute`, `Stacked.compute`): the forward and backward
pass, clipping, and the optimizer step (for a run alone, only with AdamW). Batches, and the state that a task carries
from batch to batch, are prepared outside and copied to where the graph reads them; weights, gradients and optimizer
states are changed in place; the learning rate is written to where the graph reads it. Random numbers, such as those for
dropout, come from the generator of the device, which advances at every replay as it does without a graph. So the same
kernels run on the same numbers, and a resumed run is still the same run.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import optree
import torch
from torch import Tensor

from src.config.errors import explain

log = logging.getLogger(__name__)
WARM_UP = 3
"""Updates to perform before one is recorded: they compile kernels and allocate the memory that is kept."""


class Recorder(Protocol):
    """Runs work on a device, and records it."""

    def run(self, work: Callable[[], Any]) -> Any:
        """Do the work now, in the way it will be recorded."""

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record the work without doing it; return a function that does it and the tensors that hold its results."""


class CudaRecorder:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], Any]) -> Any:
        """Do the work on a separate stream, so that no operation of autograd depends on the default stream."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = work()
        current.wait_stream(self.stream)
        return result

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record the work with `torch.cuda.graph`; the default generator of the device is part of every graph.

        Raises:
            ValueError: the work draws random numbers on the CPU, which a replay would not draw anew.
        """
        generator = torch.cuda.default_generators[self.stream.device.index]
        on_device, on_cpu = generator.clone_state(), torch.get_rng_state()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                results = work()
            if not torch.equal(torch.get_rng_state(), on_cpu):
                raise ValueError("the update draws random numbers on the CPU")
        except Exception:
            generator.graphsafe_set_state(on_device)  # a failed recording leaves the generator unusable
            torch.set_rng_state(on_cpu)
            raise
        return graph.replay, results


class Replayed:
    """A function of tensors that is recorded after a few calls, and replayed from then on.

    It is recorded for the first input shapes that occur a few times in a row. Inputs of other shapes are computed
    without the recording, such as the first window of a text, which starts without a state, and the last one, which is
    shorter. If recording is impossible, as for a function that waits for the device, the function is called as before,
    and one line in the log says why. The results of a call are overwritten by the next call.

    Args:
        compute: the function; its arguments are tensors in any nesting. It may change other tensors in place, and must
            read nothing else that changes. If one of these tensors is replaced, call `forget`.
        recorder: the recorder of the device.
    """

    def __init__(self, compute: Callable[..., Any], recorder: Recorder):
        self.compute = compute
        self.recorder = recorder
        self.possible = True
        self.forget()

    def forget(self) -> None:
        """Record anew from now on, as is necessary after a tensor that the function changes has been replaced."""
        self.kind: Any = None
        self.warm = 0
        self.held: Any = None
        self.replay: Callable[[], None] | None = None
        self.results: Any = None

    @property
    def is_recorded(self) -> bool:
        """Whether the function has been recorded, so that calls replay it."""
        return self.replay is not None

    def __call__(self, *inputs: Any) -> Any:
        if not self.possible:
            return self.compute(*inputs)
        given: Any = inputs
        tensors, structure = optree.tree_flatten(given)
        kind = structure, [(tensor.shape, tensor.dtype) for tensor in tensors]
        if kind != self.kind and self.replay is None:
            self.kind, self.warm = kind, 0
        if self.replay is None and self.warm == WARM_UP:
            self._record(inputs)
        if self.replay is None or kind != self.kind:
            self.warm += 1
            return self.recorder.run(lambda: self.compute(*inputs))
        for held, tensor in zip(optree.tree_leaves(self.held), tensors, strict=True):
            held.copy_(tensor)
        self.replay()
        return self.results

    def _record(self, inputs: Any) -> None:
        self.held = optree.tree_map(torch.clone, inputs)

        def work() -> Any:
            results: Any = self.compute(*self.held)
            return optree.tree_map(_detached, results)

        try:
            self.replay, self.results = self.recorder.record(work)
        except Exception as error:
            reason = explain(error).splitlines()[0][:200]
            log.info("no CUDA graph, so the kernels of an update are launched one by one: %s", reason)
            self.forget()
            self.possible = False


def _detached(result: Any) -> Any:
    return result.detach() if isinstance(result, Tensor) else result
