"""The contract of a recurrent core: one step is the definition, and a whole sequence is its scan.

Shapes: B sequences, T time steps, X input features, P projected features, H hidden units.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from src.ops import kernels
from src.ops.inputs import Inputs

Nonlinearity = Literal["relu", "tanh", "linear"]
NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "linear": lambda a: a,
}

Kernel = Literal["auto", "fused", "vectorized", "reference"]

State = Any
"""What a core carries from one step to the next: a tensor, or a named tuple of tensors, batch first."""


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply `function` to every tensor of a state."""
    if isinstance(state, Tensor):
        return function(state)
    return type(state)(*(function(tensor) for tensor in state))


def state_tensors(state: State) -> list[Tensor]:
    """The tensors of a state, in order."""
    return [state] if isinstance(state, Tensor) else list(state)


def last_step(y: Tensor) -> Tensor:
    """Of outputs [B, T, H] those of the last step, [B, H]; if they are those alone, as they are."""
    return y[:, -1] if y.ndim == 3 else y


class Core(nn.Module):
    """A recurrent network without its encoder and its head.

    A subclass defines `initial_state`, `step` and, where the input enters through weights of its own, `project`:

        p_t = project(x_t)                    position by position
        y_t, state_t = step(p_t, state_{t-1})

    That is enough for a working model. A core with a faster form for the whole sequence defines `vectorized` or
    `fused`, and the shared tests hold those to this definition: outputs, final state and all gradients.

    The constructor takes `input_size` from the code and everything else as annotated keyword-only parameters; these
    are the keys of the model's configuration file, and their annotations are its schema.

    Args:
        input_size: features X of one input vector.
        hidden_size: units H of the output y_t.
        kernel: "reference" scans the definition; "vectorized" is the best form in plain PyTorch; "fused" the compiled
            kernel where there is one for this core, device and type of number; "auto" the fastest of what there is.
    """

    def __init__(self, input_size: int, hidden_size: int, kernel: Kernel = "auto"):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.kernel = kernel

    def project(self, x: Tensor) -> Tensor:
        """What the input contributes, [..., X] -> [..., P], one position at a time. The identity by default."""
        return x

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step, on the device and in the dtype of the parameters."""
        raise NotImplementedError

    def step(self, p_BP: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step, as the paper defines it: the output y [B, H] and the next state."""
        raise NotImplementedError

    def forward(
        self, inputs: Tensor | Inputs, state: State | None = None, carry: bool = True, last_only: bool = False
    ) -> tuple[Tensor, State | None]:
        """The whole sequence of projected inputs: outputs [B, T, H] and the state after the last step.

        Args:
            inputs: projected inputs [B, T, P], or a table of them with tokens; T >= 1.
            state: the state to start from; `initial_state` if None.
            carry: whether the state after the last step is wanted; if not, None may stand in its place.
            last_only: give the output of the last step only, [B, H].
        """
        inputs = inputs if isinstance(inputs, Inputs) else Inputs(inputs)
        has_kernel = type(self).fused is not Core.fused
        if self.kernel in ("auto", "fused") and has_kernel and kernels.available(inputs.rows):
            return self.fused(inputs, state, carry, last_only)
        form = self.scan if self.kernel == "reference" else self.vectorized
        y_BTH, state = form(inputs.vectors, state)
        return last_step(y_BTH) if last_only else y_BTH, state

    def scan(self, p_BTP: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The definition: one step after the other."""
        if state is None:
            state = self.initial_state(p_BTP.shape[0])
        outputs = []
        for p_BP in p_BTP.unbind(1):
            y_BH, state = self.step(p_BP, state)
            outputs.append(y_BH)
        return torch.stack(outputs, dim=1), state

    def vectorized(self, p_BTP: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The best form for the whole sequence in plain PyTorch; the scan where there is no better one."""
        return self.scan(p_BTP, state)

    def fused(self, inputs: Inputs, state: State | None, carry: bool, last_only: bool) -> tuple[Tensor, State | None]:
        """The whole sequence as one operation of `src.ops.kernels`, for cores that have one."""
        raise NotImplementedError

    def attention(self, p_BTP: Tensor) -> Tensor | None:
        """How much the last step looks at each step before it, [B, T - 1]; None where the core has no such notion."""
        return None

    def memory(self, p_BTP: Tensor) -> Tensor | None:
        """The matrix that the core holds as its memory at the last step, [B, rows, columns]; None without one."""
        return None

    @property
    def state_size(self) -> int:
        """Numbers carried from one step to the next, per sequence."""
        return sum(tensor[0].numel() for tensor in state_tensors(self.initial_state(1)))

    def zeros(self, *shape: int) -> Tensor:
        """Zeros on the device and in the dtype of the parameters."""
        return next(self.parameters()).new_zeros(shape)


def gain_and_bias(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """The parameters of a layer norm; (None, None) for the identity in its place."""
    parameters = norm._parameters  # a module's attributes take six times as long
    return parameters.get("weight"), parameters.get("bias")
