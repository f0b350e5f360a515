"""Updates on a GPU as one CUDA graph: its hundreds of kernels are recorded once, and launched together from then on.

What is recorded is what an update does on tensors (`Update.compute`, `Stacked.compute`): forward and backward pass,
clipping, and the step of the optimizer. Batches are prepared outside and copied to where the graph reads them, and so
is the state that a task carries from batch to batch; weights, gradients and the states of the optimizer are changed in
place; the learning rate is written to where the graph reads it. Random numbers, as of dropout, come from the generator
of the device, which goes on at every replay as it does without a graph. So the same kernels run on the same numbers,
and a resumed run is still the same run.
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
"""Updates before one is recorded: they compile kernels and allocate what is kept."""


class Recorder(Protocol):
    """What runs and records work on a device."""

    def run(self, work: Callable[[], Any]) -> Any:
        """Do the work now, as it will be recorded."""

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record the work without doing it: how to do it, and the tensors that hold its results afterwards."""


class CudaRecorder:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], Any]) -> Any:
        """On a stream of its own, so that no operation of autograd depends on the default stream."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = work()
        current.wait_stream(self.stream)
        return result

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """See `torch.cuda.graph`; the default generator of the device is a part of every graph.

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
                raise ValueError("it draws random numbers on the CPU")
        except Exception:
            generator.graphsafe_set_state(on_device)  # what a recording has begun with is of no use after it has failed
            torch.set_rng_state(on_cpu)
            raise
        return graph.replay, results


class Replayed:
    """A function of tensors that is recorded after some calls, and replayed from then on.

    It is recorded for the first shapes that come a few times in a row. Inputs of other shapes are computed without the
    recording, such as the first window of a text, which starts without a state, and the last one, which is shorter.
    Where recording is impossible, as for anything that waits for the device, the function stays as it is, and one line
    says why. The results of a call are overwritten by the next one.

    Args:
        compute: the function, of tensors in any nesting. It changes tensors in place, and reads nothing else that
            changes. If one of these tensors is replaced, call `forget`.
        recorder: of the device.
    """

    def __init__(self, compute: Callable[..., Any], recorder: Recorder):
        self.compute = compute
        self.recorder = recorder
        self.possible = True
        self.forget()

    def forget(self) -> None:
        """Record it anew, as is needed after a tensor that it changes has been replaced."""
        self.kind: Any = None
        self.warm = 0
        self.held: Any = None
        self.replay: Callable[[], None] | None = None
        self.results: Any = None

    @property
    def is_recorded(self) -> bool:
        """Whether calls are replayed now."""
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
            log.info("no CUDA graph, so every kernel of an update is launched by itself: %s", reason)
            self.forget()
            self.possible = False


def _detached(result: Any) -> Any:
    return result.detach() if isinstance(result, Tensor) else result
