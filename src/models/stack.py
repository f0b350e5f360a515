"""Stacked cores with residual connections; a stack is itself a core.

Shapes: B sequences, T time steps, P projected features, H output features of each layer.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.models.base import Core, last_step, refuse_one_unit
from src.ops.dispatch import Form
from src.ops.inputs import Inputs
from src.specs import State


class Stack(Core):
    r"""L cores, each of which reads the normalized outputs of the one below and adds its own outputs to them.

        y¹_t = core¹(x_t)
        yˡ_t = yˡ⁻¹_t + coreˡ(LN[yˡ⁻¹_t])          l = 2 ... L, the output is yᴸ

    The residual connections and the layer norm before each layer are as in pre-norm transformers. The first layer has
    neither, since it maps the input features to the output features; so a single core is a stack of one. The state is
    the tuple of the states of all layers. A sequence is computed layer by layer, each layer in its own fastest form.

    Args:
        layers: the cores, from the input up; all but the first have H input features and H output features.
    """

    def __init__(self, layers: Sequence[Core]):
        first = layers[0]
        for layer in layers[1:]:
            refuse_one_unit(layer.input_size, " with several layers")
        super().__init__(first.input_size, first.hidden_size)
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(layer.input_size) for layer in layers[1:])

    @property
    def first(self) -> Core:
        """The layer that reads the inputs."""
        return self.layers[0]  # type: ignore[return-value]

    @property
    def others(self) -> Iterator[tuple[nn.Module, Any]]:
        """The layers above the first, each with its norm."""
        return zip(self.norms, list(self.layers)[1:], strict=True)

    def project(self, x: Tensor) -> Any:
        """The contribution of the input to the first layer."""
        return self.first.project(x)

    def initial_state(self, batch_size: int) -> tuple[State, ...]:
        """The initial states of all layers."""
        return tuple(layer.initial_state(batch_size) for layer in self.layers)  # type: ignore[operator]

    def step(self, p_BP: Any, state: tuple[State, ...]) -> tuple[Tensor, tuple[State, ...]]:
        """One step of every layer."""
        y_BH, first_state = self.first.step(p_BP, state[0])
        states = [first_state]
        for (norm, layer), layer_state in zip(self.others, state[1:], strict=True):
            added_BH, layer_state = layer.step(layer.project(norm(y_BH)), layer_state)
            y_BH = y_BH + added_BH
            states.append(layer_state)
        return y_BH, tuple(states)

    def forms(self) -> Iterator[Form]:
        """Layer by layer, whatever form each layer uses."""
        yield Form("vectorized", self._layer_by_layer)
        yield Form("reference", self._scanned)

    def _layer_by_layer(
        self, inputs: Inputs, state: tuple[State, ...] | None, return_state: bool, return_sequence: bool
    ) -> tuple[Tensor, tuple[State, ...] | None]:
        before = (None,) * len(self.layers) if state is None else state
        y_BTH, first_state = self.first(inputs, before[0], return_state=return_state)
        states = [first_state]
        for (norm, layer), layer_state in zip(self.others, before[1:], strict=True):
            above = Inputs(layer.project(norm(y_BTH)), resets=inputs.resets)
            added_BTH, layer_state = layer(above, layer_state, return_state=return_state)
            y_BTH = y_BTH + added_BTH
            states.append(layer_state)
        return (y_BTH if return_sequence else last_step(y_BTH)), tuple(states) if return_state else None

    @property
    def is_fused(self) -> bool:
        """Whether compiled kernels compute all layers."""
        return all(layer.is_fused for layer in self.layers)

    @property
    def output_size(self) -> int:
        """H, the output size of every layer."""
        return self.first.output_size

    def flops(self, length: int) -> int:
        """The sum over all layers."""
        return sum(layer.flops(length) for layer in self.layers)  # type: ignore[operator]

    def attention(self, p_BTP: Any) -> Tensor | None:
        """The attention of the last layer."""
        return self.layers[-1].attention(self._into_last(p_BTP))  # type: ignore[operator]

    def memory(self, p_BTP: Any) -> Tensor | None:
        """The memory of the last layer."""
        return self.layers[-1].memory(self._into_last(p_BTP))  # type: ignore[operator]

    @torch.no_grad()
    def _into_last(self, p_BTP: Any) -> Any:
        """The projected inputs of the last layer."""
        y_BTH, _ = self.first(p_BTP)
        *middle, (last_norm, last) = self.others
        for norm, layer in middle:
            y_BTH = y_BTH + layer(layer.project(norm(y_BTH)))[0]
        return last.project(last_norm(y_BTH))
