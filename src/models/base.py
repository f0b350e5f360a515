"""The contract of a recurrent core: its definition is a single step, and a whole sequence is the scan of that step.

Shapes: B sequences, T time steps, X input features, P projected features, H hidden units.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, cast

import optree
import torch
from torch import Tensor, nn

from src.ops.dispatch import Form, Kernel, choose
from src.ops.generated.form import generated_form
from src.ops.inputs import Inputs, steps
from src.ops.precision import under_autocast
from src.specs import State, map_state, state_tensors

Nonlinearity = Literal["relu", "tanh", "linear"]


def _linear(a: Tensor) -> Tensor:  # not a lambda, which could not be pickled
    return a


NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "linear": _linear,
}


def last_step(y: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The output of each sequence at its last step, from y [B, T, H]; a y [B, H] of one step is returned unchanged."""
    if y.ndim == 2:
        return y
    return y[:, -1] if lengths is None else y[torch.arange(len(y), device=y.device), lengths - 1]


class Core(nn.Module):
    """A recurrent network without an encoder or a head.

    A subclass defines `step`, `project` if the input has its own weights, and `initial_state` if that is not h = 0:

        p_t = project(x_t)                    position by position
        y_t, state_t = step(p_t, state_{t-1})

    That is enough for a model that works and is fast: on the CPU, the step runs as a compiled kernel that is generated
    from it. A core with a faster form for the whole sequence lists it in `forms`, and the shared tests compare the
    outputs, the final state and all gradients of each form with this definition.

    The code passes `input_size`; all other parameters of the constructor are annotated and keyword-only. They are the
    keys of the model's configuration file, and their annotations are its schema.

    Args:
        input_size: number of input features, X.
        hidden_size: number of units H, and of features of the output y_t unless `output_size` says otherwise.
        kernel: the fastest form that may be used: "fused", a compiled kernel; "vectorized", plain PyTorch;
            "reference", the scan of the definition; "auto", any of these. If that form cannot be used, a slower one is;
            but "fused" is an error if no kernel can be generated from the step.
    """

    def __init__(self, input_size: int, hidden_size: int, kernel: Kernel = "auto"):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.kernel = kernel

    def project(self, x: Tensor) -> Any:
        """The contribution of the input, position by position: [..., X] -> [..., P], or several named tensors.

        The identity by default.
        """
        return x

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step, on the device and in the dtype of the parameters but not in their memory.

        h = 0 by default.
        """
        return self.zeros(batch_size, self.hidden_size)

    def step(self, p_BP: Any, state: State) -> tuple[Tensor, State]:
        """One time step, as the paper defines it: the output y [B, H] and the next state."""
        raise NotImplementedError

    def forms(self) -> Iterator[Form]:
        """The forms in which a sequence can be computed. If several fused ones are possible, the first is used."""
        yield generated_form(self)
        yield Form("reference", self._scanned)

    def forward(
        self,
        inputs: Any,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        return_state: bool = True,
        return_sequence: bool = True,
    ) -> tuple[Tensor, State | None]:
        """Compute a whole sequence of projected inputs: the outputs [B, T, H] and the state after the last step.

        Args:
            inputs: projected inputs [B, T, P], or `Inputs` with a table of them; T >= 1.
            state: the state to start from; `initial_state` if None.
            lengths: length of each sequence [B], after which it is padding; its last output is the one at this length.
            return_state: whether the state after the last step is needed; if not, None may be returned instead.
            return_sequence: whether all outputs are needed; if not, only those of the last step are returned, [B, H].

        Raises:
            ValueError: `lengths` is given and a state is requested, which would be the one after the padding; or T = 0.
        """
        inputs = inputs if isinstance(inputs, Inputs) else Inputs(inputs)
        if inputs.batch_and_time[1] == 0:
            raise ValueError("inputs: must have at least one time step")
        compute = choose(self.forms(), self.kernel, inputs).compute
        if lengths is None:
            y, state = compute(inputs, state, return_state, return_sequence)
            if under_autocast(y):  # the state of a step may be in half precision, which no kernel accepts
                state = map_state(self._as_weights, state)
            return y, state
        if return_state:
            raise ValueError("return_state: must be false with lengths, since the sequences end at different steps")
        y_BTH, _ = compute(inputs, state, False, True)
        return (y_BTH if return_sequence else last_step(y_BTH, lengths)), None

    def _as_weights(self, state: Tensor) -> Tensor:
        """Convert a tensor of a state to the dtype of the parameters, unless it holds integers, such as a counter."""
        return state.to(next(self.parameters()).dtype) if state.is_floating_point() else state

    def scan(self, p_BTP: Any, state: State | None = None, resets_BT: Tensor | None = None) -> tuple[Tensor, State]:
        """The definition: one step after another; before a step with a reset, the state is set to the initial one."""
        by_step = steps(p_BTP)
        start = None
        if state is None or resets_BT is not None:
            start = self.initial_state(len(state_tensors(by_step[0])[0]))
        state = start if state is None else state
        outputs = []
        for t, p_BP in enumerate(by_step):
            if resets_BT is not None:
                state = optree.tree_map(partial(_reset, resets_BT[:, t]), cast(Any, start), cast(Any, state))
            stepped = self.step(p_BP, state)
            if not isinstance(stepped, tuple):  # a tensor with a batch of two could be unpacked too
                raise TypeError(f"{type(self).__name__}.step: must return a pair, the output and the next state")
            y_BH, state = stepped
            outputs.append(y_BH)
        return torch.stack(outputs, dim=1), state

    def _scanned(
        self, inputs: Inputs, state: State | None, return_state: bool, return_sequence: bool
    ) -> tuple[Tensor, State | None]:
        y_BTH, state = self.scan(inputs.vectors, state, inputs.resets)
        return (y_BTH if return_sequence else y_BTH[:, -1]), state

    def attention(self, p_BTP: Any) -> Tensor | None:
        """How strongly the last step attends to each earlier step, [B, T-1]; None for cores without attention."""
        return None

    def memory(self, p_BTP: Any) -> Tensor | None:
        """The memory matrix of the core at the last step, [B, rows, columns]; None if it has none."""
        return None

    @property
    def is_fused(self) -> bool:
        """Whether a compiled kernel computes sequences on the device of the parameters."""
        inputs = Inputs(self.project(self.zeros(1, 1, self.input_size)))
        return choose(self.forms(), self.kernel, inputs).kernel == "fused"

    @property
    def state_size(self) -> int:
        """How many numbers are passed from one step to the next, per sequence."""
        of_no_sequence = self.initial_state(0)  # an empty batch needs no random numbers
        return sum(math.prod(tensor.shape[1:]) for tensor in state_tensors(of_no_sequence))

    @property
    def output_size(self) -> int:
        """The number of features of an output: H, unless a core overrides it."""
        return self.hidden_size

    def flops(self, length: int) -> int:
        """Floating-point operations of the products in one sequence, forward and backward, two per multiply-add.

        A recurrent matrix is used three times per step: in the product, in the transposed product and in its own
        gradient. The first step does not use it, since h(0) = 0.
        """
        weights = sum(weight.numel() for name, weight in self.named_parameters() if name.startswith("recurrent"))
        return 2 * 3 * (length - 1) * weights

    def zeros(self, *shape: int) -> Tensor:
        """Zeros on the device and in the dtype of the parameters."""
        return next(self.parameters()).new_zeros(shape)


def _reset(where_B: Tensor, start: Tensor, state: Tensor) -> Tensor:
    return torch.where(where_B.view(-1, *[1] * (state.ndim - 1)), start, state)


def refuse_one_unit(hidden_size: int, where: str = "") -> None:
    """Raise `ValueError` for a single unit, of which layer normalization would leave only a constant."""
    if hidden_size == 1:
        raise ValueError(f"hidden_size=1: must be 2 or more{where}, since layer norm makes a single unit constant")


def is_standard(norm: nn.Module) -> bool:
    """Whether hand-written kernels support this norm: none, or a layer norm with gain, bias and an ε of 1e-5."""
    if isinstance(norm, nn.LayerNorm):
        return norm.weight is not None and norm.bias is not None and norm.eps == 1e-5
    return isinstance(norm, nn.Identity)


def gain_and_bias(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """The gain and bias of a layer norm; (None, None) for an identity."""
    return (norm.weight, norm.bias) if isinstance(norm, nn.LayerNorm) else (None, None)
