"""Updates on a GPU as one CUDA graph: its hundreds of kernels are recorded once, and launched together from then on.

What is recorded is what an update does on tensors (`Update.compute`, `Stacked.compute`): forward and backward pass,
clipping, and the step of the optimizer. Batches are prepared outside and copied to where the graph reads them; weights,
gradients and the states of the optimizer are changed in place; the learning rate is written to where the graph reads
it. The same kernels run on the same numbers as without a graph, so a resumed run is still the same run.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import optree
import torch
from torch import Tensor

from src.config.errors import explain
from src.specs import Batch

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
        """See `torch.cuda.graph`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            results = work()
        return graph.replay, results


class Replayed:
    """A function of a batch that is recorded after some calls, and replayed from then on.

    Where that is impossible it stays as it is, and one line says why: batches of other shapes, random numbers, or
    anything that waits for the device. The results of a call are overwritten by the next one.

    Args:
        compute: the function. It changes tensors in place, and reads nothing else that changes.
        reads: the tensors that it changes; if one of them is replaced, it is recorded anew.
        recorder: of the device.
    """

    def __init__(self, compute: Callable[[Batch], Any], reads: Callable[[], Sequence[Tensor]], recorder: Recorder):
        self.compute = compute
        self.reads = reads
        self.recorder = recorder
        self.possible = True
        self._forget(())

    def _forget(self, place: tuple) -> None:
        self.place = place
        self.warm = 0
        self.inputs: Batch | None = None
        self.replay: Callable[[], None] | None = None
        self.results: Any = None

    def __call__(self, batch: Batch) -> Any:
        if not self.possible:
            return self.compute(batch)
        place = tuple(tensor.data_ptr() for tensor in self.reads())
        if place != self.place:
            self._forget(place)
        if self.inputs is None:
            self.inputs = batch.map(torch.clone)
        elif not _alike(batch, self.inputs):
            return self.recorder.run(lambda: self.compute(batch))
        else:
            for held, given in zip(self.inputs, batch, strict=True):
                if held is not None and given is not None:
                    held.copy_(given)
        if self.replay is None:
            if self.warm < WARM_UP:
                return self._run()
            self._record()
        if self.replay is None:
            return self.compute(batch)
        self.replay()
        return self.results

    def _run(self) -> Any:
        """An update as it will be recorded; afterwards it is known whether it draws random numbers."""
        assert self.inputs is not None
        before, inputs = self._random_state(), self.inputs
        result = self.recorder.run(lambda: self.compute(inputs))
        if not torch.equal(self._random_state(), before):
            self._give_up("it draws random numbers")
        self.warm += 1
        return result

    def _record(self) -> None:
        assert self.inputs is not None
        inputs = self.inputs

        def work() -> Any:
            results: Any = self.compute(inputs)
            return optree.tree_map(_detached, results)

        try:
            self.replay, self.results = self.recorder.record(work)
        except Exception as error:
            self._give_up(explain(error).splitlines()[0][:200])

    def _give_up(self, reason: str) -> None:
        log.info("no CUDA graph, so every kernel of an update is launched by itself: %s", reason)
        self._forget(())
        self.possible = False

    def _random_state(self) -> Tensor:
        device = self.reads()[0].device
        return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _alike(batch: Batch, held: Batch) -> bool:
    """Whether a batch can be copied over another."""
    return all(
        (a is None) == (b is None) and (a is None or b is None or (a.shape, a.dtype) == (b.shape, b.dtype))
        for a, b in zip(batch, held, strict=True)
    )


def _detached(result: Any) -> Any:
    return result.detach() if isinstance(result, Tensor) else result
