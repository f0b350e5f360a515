"""A core between an encoder and a head: any model on any task.

Shapes: B sequences, T time steps, V symbols, E embedding features, X inputs of the core, P projected, H hidden units.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn
from torch.nn import functional

from src.config.schema import Neutral
from src.models.base import NONLINEARITIES, Core, Nonlinearity, last_step
from src.models.init import uniform_fan_out_
from src.models.stack import Stack
from src.ops.generated.projecting import Projecting
from src.ops.inputs import Inputs
from src.specs import InputSpec, Output, OutputSpec, State


class SequenceModel(nn.Module):
    """An encoder, a core and a head, with the sizes of inputs and outputs taken from the task.

    Tokens are embedded and vectors enter unchanged; both can be expanded by another layer (Ba et al. expand a
    50-dimensional embedding to 100). The head is linear and may be preceded by a layer of ReLU units.

    The embedding is drawn from N(0, 1): unless the input dominates W h at the start, fast weights stay at the floor of
    associative retrieval for thousands of updates. All other weights here are drawn from U(-1/sqrt(n), 1/sqrt(n)),
    where n is the number of outgoing connections; biases start at 0.

    If the task asks only at the last step, the output contains only the hidden state of that step, unless
    `return_sequence` is set, which a regularizer of the hidden states requires.

    Args:
        input_spec: the inputs of the task.
        output_spec: the outputs of the task.
        make_core: builds the core for a given number of input features.
        embedding_size: features of a token's embedding; unused if the inputs are vectors.
        expansion_size: units of a layer between the input or embedding and the core; null for none.
        expansion_nonlinearity: nonlinearity of that layer.
        num_layers: number of stacked cores, with residual connections and layer norms; see `Stack`.
        head: whether there is a head; without one, the outputs of the core are the answer, and the next two settings
            are unused.
        head_size: ReLU units between the core and the output; null for a linear head.
        head_std: standard deviation of the initial weights of the output layer, drawn from N(0, head_std²); null for
            the uniform distribution above.
        input_dropout: probability of dropping an input feature of the core during training.
        output_dropout: the same for an output feature of the core, before the head.
        dropout_mask: whether a mask is drawn for every step, or once per sequence of a batch and used at all its steps,
            as in the variational dropout of Gal and Ghahramani (2016), but without their recurrent masks.
    """

    def __init__(
        self,
        input_spec: InputSpec,
        output_spec: OutputSpec,
        make_core: Callable[[int], Core],
        *,
        embedding_size: Annotated[int, Ge(1)] = 100,
        expansion_size: Annotated[int, Ge(1)] | None = None,
        expansion_nonlinearity: Nonlinearity = "relu",
        num_layers: Annotated[int, Ge(1), Le(1000), Neutral(1)] = 1,
        head: Annotated[bool, Neutral(True)] = True,
        head_size: Annotated[int, Ge(1)] | None = None,
        head_std: Annotated[Annotated[float, Ge(0)] | None, Neutral(None)] = None,
        input_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        output_dropout: Annotated[float, Ge(0), Lt(1), Neutral(0.0)] = 0.0,
        dropout_mask: Annotated[Literal["step", "sequence"], Neutral("step")] = "step",
    ):
        super().__init__()
        self.input_spec = input_spec
        self.output_spec = output_spec
        self.return_sequence = output_spec.every_step

        size = input_spec.size
        self.embedding = None
        if input_spec.kind == "tokens":
            self.embedding = nn.Embedding(size, embedding_size)
            size = embedding_size
        self.expansion = None
        if expansion_size is not None:
            self.expansion = _linear(size, expansion_size)
            size = expansion_size
        self.expansion_nonlinearity = NONLINEARITIES[expansion_nonlinearity]
        self.input_dropout = input_dropout
        self.output_dropout = output_dropout
        self.one_mask = dropout_mask == "sequence"

        core = make_core(size)
        if num_layers > 1:
            core = Stack([core, *(make_core(core.output_size) for _ in range(num_layers - 1))])
        self.core = core
        self._projecting = [Projecting(core)]  # in a list, so as not to register the core twice
        self.head: nn.Module
        if not head:
            if self.core.output_size != output_spec.num_outputs:
                raise ValueError(
                    f"hidden_size={self.core.hidden_size}: must give {output_spec.num_outputs} outputs with "
                    "network.head=false"
                )
            self.head = nn.Identity()
            return
        last = self.head = _linear(self.core.output_size, head_size or output_spec.num_outputs)
        if head_size is not None:
            first, last = last, _linear(head_size, output_spec.num_outputs)
            self.head = nn.Sequential(first, nn.ReLU(), last)
        if head_std is not None:
            nn.init.normal_(last.weight, std=head_std)

    def forward(
        self,
        inputs: Tensor | Inputs,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        mask: Tensor | None = None,
        return_state: bool = True,
    ) -> Output:
        """Run sequences of tokens [B, T] or of vectors [B, T, size] from a state.

        Args:
            inputs: the inputs of the task; vectors may be given as a table with ids, so that each is encoded once.
            state: the state of the core before the first step; its initial state if None.
            lengths: length of each sequence [B], if some are padded; see `Core.forward`.
            resets: steps before which a sequence is reset to the initial state [B, T]; None for no resets.
            mask: the steps whose answers are needed [B, T]; the others are 0, without computing the head. None for all.
            return_state: whether the state after the last step is needed.
        """
        [inside] = self._projecting
        if inside.core is not self.core:  # the core has been replaced
            inside = self._projecting[0] = Projecting(self.core)
        if isinstance(inputs, Tensor) and lengths is None and self._enters_unchanged and inside.serves(inputs):
            hidden_BTH, state = inside(Inputs(inputs, resets=resets), state, return_state, self.return_sequence)
        else:
            projected = self.project(inputs)
            if resets is not None:
                projected = projected._replace(resets=resets)
            hidden_BTH, state = self.core(
                projected, state, lengths=lengths, return_state=return_state, return_sequence=self.return_sequence
            )
        asked = hidden_BTH if self.output_spec.every_step else last_step(hidden_BTH, lengths)
        return Output(self._answers(self._dropped(asked, self.output_dropout), mask), hidden_BTH, state)

    def _answers(self, asked: Tensor, mask_BT: Tensor | None) -> Tensor:
        if mask_BT is None:
            return self.head(asked)
        rows_N = mask_BT.flatten().nonzero()[:, 0]
        answers_NC = self.head(asked.flatten(0, 1).index_select(0, rows_N))
        zeros = answers_NC.new_zeros(mask_BT.numel(), answers_NC.shape[1])
        return zeros.index_copy(0, rows_N, answers_NC).unflatten(0, mask_BT.shape)

    def project(self, inputs: Tensor | Inputs) -> Inputs:
        """The contribution of the inputs to the core at every step.

        Without dropout a token's contribution is always the same; so if a batch has more tokens than there are
        symbols, the whole table is projected once.
        """
        dropping = self.training and self.input_dropout > 0
        core, embedding = self.core, self.embedding
        if isinstance(inputs, Inputs) and not dropping:
            return inputs._replace(table=core.project(self._encode(inputs.table)))
        if isinstance(inputs, Inputs):
            return self.project(inputs.vectors)._replace(resets=inputs.resets)
        if embedding is None:
            return Inputs(core.project(self._encode(inputs)))
        if dropping or inputs.numel() <= self.input_spec.size:
            return Inputs(core.project(self._encode(embedding(inputs))))
        return Inputs(core.project(self._encode(embedding.weight)), inputs)

    @property
    def _enters_unchanged(self) -> bool:
        """Whether the core receives the inputs of the task unchanged, and no hook observes how it is called."""
        dropping = self.training and self.input_dropout > 0
        hooked = self.core._forward_hooks or self.core._forward_pre_hooks
        return self.embedding is None and self.expansion is None and not dropping and not hooked

    def _encode(self, x: Tensor) -> Tensor:
        """Turn vectors or embeddings into inputs of the core, position by position."""
        if self.expansion is not None:
            x = self.expansion_nonlinearity(self.expansion(x))
        return self._dropped(x, self.input_dropout)

    def _dropped(self, x: Tensor, probability: float) -> Tensor:
        """Apply dropout during training, to vectors [B, T, size], or [B, size] of a single step."""
        if probability == 0 or not self.training:
            return x
        if not self.one_mask or x.ndim == 2:
            return functional.dropout(x, probability)
        return x * functional.dropout(torch.ones_like(x[:, :1]), probability)

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def _linear(size_in: int, size_out: int) -> nn.Linear:
    layer = nn.Linear(size_in, size_out)
    uniform_fan_out_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
