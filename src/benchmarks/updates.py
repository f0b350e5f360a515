"""Measures updates, kernels alone, everything outside the kernels, arithmetic and memory; see scripts/benchmark.py."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, product
from statistics import median
from time import perf_counter, thread_time
from typing import Any
from unittest.mock import patch

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.benchmark import Measurement, Timer

from src.config.paths import CONFIGS
from src.models.base import Core
from src.models.sequence import SequenceModel
from src.ops.cpu import calls
from src.ops.dispatch import Form, choose, plain
from src.ops.inputs import Inputs
from src.specs import Batch, InputSpec, map_state, state_tensors
from src.tasks.associative_retrieval import AssociativeRetrieval
from src.training.fast_updates import clip_norm_, flat_parameters
from src.training.optimizers import adam

MODELS = CONFIGS / "model"
LAYERS: dict[str, Any] = {"nn.RNN": partial(nn.RNN, nonlinearity="relu"), "nn.GRU": nn.GRU, "nn.LSTM": nn.LSTM}
SAME_KIND = {"rnn": "nn.RNN", "irnn": "nn.RNN", "nprnn": "nn.RNN", "gru": "nn.GRU", "lstm": "nn.LSTM"}
MATRIX_SIZE = 1024  # large enough for a product at full speed


class Yardstick(Core):
    """A recurrent layer of torch in place of a core; it projects its inputs itself."""

    def __init__(self, input_size: int, *, layer: Callable[..., nn.RNNBase], hidden_size: int):
        super().__init__(input_size, hidden_size)
        self.layer = layer(input_size, hidden_size, batch_first=True)

    def forms(self) -> Iterator[Form]:
        yield Form("vectorized", plain(self.layer))


class Sequences(AssociativeRetrieval):
    """Associative retrieval at length 11; random sequences of its symbols at other lengths, or of vectors."""

    def __init__(self, length: int, features: int | None = None):
        super().__init__(0, train_size=100_000 if length == 11 and features is None else 10_000)
        self.length = length
        if features is not None:
            self.input_spec = InputSpec("vectors", features)
            self.sizes["train"] = 1_000

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        size = self.input_spec.size
        if self.input_spec.kind == "vectors":
            inputs = torch.rand(num_examples, self.length, size, generator=generator)
        elif self.length == 11:
            return super().generate(num_examples, generator)
        else:
            inputs = torch.randint(size, (num_examples, self.length), generator=generator)
        return Batch(inputs, torch.randint(self.output_spec.size, (num_examples,), generator=generator))


def update_as_trained(network: nn.Module, loss: Callable[[], Tensor]) -> Callable:
    """One update, as in the trainer; `loss` computes the loss of the next batch."""
    weights = flat_parameters(network)
    optimizer, gradient = adam([weights]), weights.grad
    assert gradient is not None

    def update() -> None:
        value = loss()
        gradient.zero_()
        value.backward()
        clip_norm_(gradient, 5.0)
        optimizer.step()

    return update


def plain_update_of(
    batches: Iterator[Batch],
    features: int,
    hidden_size: int,
    pauses: tuple[Callable[[], Any], Callable[[], Any]] | None = None,
) -> Callable:
    """An update of the same network without its recurrence, on the last symbol, in plain PyTorch.

    `pauses` are called where the forward and backward pass of the recurrence would be.
    """
    encoder = nn.Sequential(nn.Embedding(37, 100), nn.Linear(100, features))
    head = nn.Sequential(nn.Linear(hidden_size, 100), nn.ReLU(), nn.Linear(100, 10))

    def loss() -> Tensor:
        batch = next(batches)
        p_BP = encoder(batch.inputs[:, -1])
        p_BH = p_BP if features == hidden_size else p_BP[:, :hidden_size]
        if pauses is not None:
            forward, backward = pauses
            forward()
            p_BH.register_hook(lambda _: backward())
        return functional.cross_entropy(head(p_BH), batch.targets)

    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters)

    def update() -> None:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()

    return update


def passes_of(model: SequenceModel, ids_BT: Tensor) -> tuple[Callable[[], None], Callable[[], None]] | None:
    """The forward pass of the kernel alone, and the backward pass, to be called after it; None without a kernel."""
    core = model.core
    table = core.project(torch.randn(model.input_spec.size, core.input_size))
    table = map_state(lambda tensor: tensor.detach().requires_grad_(), table)
    inputs = Inputs(table, ids_BT)
    fused = choose(core.forms(), "fused", inputs)
    if fused.kernel != "fused":
        return None
    wanted = [*state_tensors(table), *core.parameters()]
    d_BH = torch.randn(len(ids_BT), core.output_size)
    outputs: list[Tensor] = []

    def forward() -> None:
        outputs.append(fused.compute(inputs, None, False, False)[0])

    def backward() -> None:
        torch.autograd.grad(outputs.pop(), wanted, d_BH, allow_unused=True)  # the input weights are unused

    return forward, backward


def saved_bytes(model: SequenceModel, loss: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass saves for the backward pass, without parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # by address; kept alive so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(storage.nbytes() for address, storage in storages.items() if address not in parameters)


class PausingClock:
    """Processor time, excluding functions wrapped by `without`."""

    def __init__(self) -> None:
        self.paused = 0.0
        self.depth = 0

    def __call__(self) -> float:
        """The time in seconds."""
        return thread_time() - self.paused

    def without(self, function: Callable) -> Callable:
        """The function, wrapped to stop this clock while it runs."""

        def run(*arguments: Any) -> Any:
            started = thread_time()
            self.depth += 1
            try:
                return function(*arguments)
            finally:
                self.depth -= 1
                if self.depth == 0:  # nested calls are not counted twice
                    self.paused += thread_time() - started

        return run


def in_turns(
    functions: dict[str, Callable], clock: PausingClock, threads: int, rounds: int, seconds: float
) -> dict[str, list[Measurement]]:
    """Measure every function once per round, interleaved.

    "outside", "plain" and "paused" are timed by the clock, which excludes the kernels; the others in wall-clock time.
    """
    with patch.object(calls, "enter", clock.without(calls.enter)):
        clocks = dict.fromkeys(("outside", "plain", "paused"), clock)
        timers = {
            name: Timer("run()", timer=clocks.get(name, perf_counter), globals={"run": run}, num_threads=threads)
            for name, run in functions.items()
        }
        for _, run in product(range(3), functions.values()):
            run()  # warm up
        measured: dict[str, list[Measurement]] = {name: [] for name in timers}
        for _, (name, timer) in product(range(rounds), timers.items()):
            measured[name].append(timer.blocked_autorange(min_run_time=seconds / rounds / len(timers)))
        return measured


def measure(
    cell: dict[str, Any], batch_size: int, rounds: int, seconds: float, features: int | None = None
) -> dict[str, Any]:
    """All measurements of one row; only those of updates if the inputs are vectors, of `features` numbers each."""
    torch.set_num_threads(cell["threads"])
    torch.set_flush_denormal(True)  # as a run does
    torch.manual_seed(0)
    task, own = Sequences(cell["length"], features), SAME_KIND.get(cell["model"])
    batches = (task.batch("train", index, batch_size) for index in count())

    def model_and_loss(make_core: Callable[..., Core], **settings: Any) -> tuple[SequenceModel, Callable[[], Tensor]]:
        make_core = partial(make_core, hidden_size=cell["hidden_size"], **settings)
        model = SequenceModel(task.input_spec, task.output_spec, make_core, embedding_size=100, head_size=100)
        return model, lambda: task.loss(model, next(batches)).loss

    config = OmegaConf.load(MODELS / f"{cell['model']}.yaml")
    like_its_yardstick = {"nonlinearity": "relu"} if cell["model"] == "rnn" else {}
    model, loss = model_and_loss(partial(instantiate, config), kernel=cell["kernel"], **like_its_yardstick)
    clock = PausingClock()
    functions: dict[str, Callable] = {"update": update_as_trained(model, loss)}
    for layer in dict.fromkeys(["nn.LSTM", own or "nn.LSTM"]):
        functions[layer] = update_as_trained(*model_and_loss(Yardstick, layer=LAYERS[layer]))
    measured_alone = features is None and cell["kernel"] in ("auto", "fused")
    if measured_alone and (passes := passes_of(model, next(batches).inputs)) is not None:
        matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE)
        functions["kernel"] = lambda: [run() for run in passes]
        functions["sgemm"] = partial(torch.mm, matrix, matrix)
        functions["outside"] = functions["update"]
        contributions = state_tensors(model.core.project(torch.empty(model.core.input_size)))
        projected = sum(tensor.numel() for tensor in contributions)
        functions["plain"] = plain_update_of(batches, projected, cell["hidden_size"])
        pauses = clock.without(passes[0]), clock.without(passes[1])
        functions["paused"] = plain_update_of(batches, projected, cell["hidden_size"], pauses)

    measured = in_turns(functions, clock, cell["threads"], rounds, seconds)
    row = cell | ({} if features is None else {"features": features})
    row |= row_of_updates(measured, own, model, loss, batch_size)
    if "kernel" in (ms := row["rounds_ms"]):
        gflop, gflop_of_sgemm = 1e-9 * batch_size * model.core.flops(task.length), 2e-9 * MATRIX_SIZE**3
        row |= {
            "kernel_gflop": gflop,
            "kernel_gflop_per_second": 1e3 * gflop / row["kernel_ms"],
            "sgemm_gflop_per_second": 1e3 * gflop_of_sgemm / row["sgemm_ms"],
            "kernel_share_of_sgemm": gflop / gflop_of_sgemm * ratio_of(ms["sgemm"], ms["kernel"]),
            "ratio_outside_to_plain": ratio_of(ms["outside"], ms["plain"]),
            "ratio_outside_to_paused": ratio_of(ms["outside"], ms["paused"]),
        }
    return row


def row_of_updates(
    measured: Mapping[str, list[Measurement]],
    own: str | None,
    model: SequenceModel,
    loss: Callable[[], Tensor],
    batch_size: int,
) -> dict[str, Any]:
    """The part of a row on updates: their times, the ratios to the times of torch's layers, and the model's memory."""
    ms = {what: [1e3 * one.median for one in measurements] for what, measurements in measured.items()}
    [update] = Measurement.merge(measured["update"])
    return {f"{what}_ms": median(values) for what, values in ms.items()} | {
        "batch_size": batch_size,
        "dtype": "float32",
        "update_ms": 1e3 * update.median,
        "update_iqr_ms": 1e3 * update.iqr,
        "sequences_per_second": batch_size / update.median,
        "own_layer": own,
        "ratio_to_own_layer": ratio_of(ms["update"], ms[own]) if own else None,
        "ratio_to_lstm": ratio_of(ms["update"], ms["nn.LSTM"]),
        "saved_bytes_per_sequence": saved_bytes(model, loss) / batch_size,
        "state_size": model.core.state_size,
        "rounds_ms": ms,
    }


def ratio_of(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over rounds of the ratio of two times."""
    return median(a / b for a, b in zip(above, below, strict=True))
