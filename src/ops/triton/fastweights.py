"""Fast weights on a GPU as one operation: attention over the past states of a chunk, one program per sequence.

The kernels are in `fastweights_kernels.py`. They run in float32 and float64. A population of P networks, each with its
own weights, λ and η and its own sequences, is a single operation as well.

Shapes: P members, B sequences of each, T time steps, V symbols, H hidden units.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from src.config.errors import explain
from src.ops.cpu import calls
from src.ops.inputs import Inputs
from src.ops.triton.calls import of_members, sum_by_id, takes

log = logging.getLogger(__name__)
MOST_UNITS = 128
"""Largest H: W has to fit into the registers of a program."""
ON_CHIP = 4096
"""How many numbers of a sequence's past states a program holds in registers."""
EPSILON = 1e-5
"""The ε of layer norm, as in torch."""


@calls.not_compiled
def available(inputs: Inputs, hidden_size: int) -> bool:
    """Whether the kernels can compute these inputs; compiles and tests them if necessary."""
    tensor = inputs.example
    return hidden_size <= MOST_UNITS and takes(tensor) and _works(tensor.device)


@cache
def _works(device: torch.device) -> bool:
    """Whether the kernels can be compiled and run on a device; if not, a single warning says why."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack  # a `vmap` may be active

    try:
        with temporarily_clear_interpreter_stack(), torch.enable_grad():
            table = torch.ones(1, 1, 2, device=device, requires_grad=True)
            ids = torch.zeros(1, 1, 2, dtype=torch.long, device=device)
            weight, number = torch.ones(1, 2, 2, device=device), torch.ones(1, device=device)
            settings: Any = {"nonlinearity": "linear", "num_inner_steps": 1, "sustained": True}
            nothing = (None, None)
            y = population(
                Inputs(table, ids), None, None, weight, nothing, nothing, decay_P=number, fast_lr_P=number, **settings
            )
            y.sum().backward()
        # h(1) = 1 in each unit; h(2) = z + h(1) (h(1)·z) with z = 1 + W h(1) = 3
        if y.tolist() != [[[[1.0, 1.0], [9.0, 9.0]]]]:
            raise RuntimeError(f"their test gave {y.tolist()} instead of [[[[1.0, 1.0], [9.0, 9.0]]]]")
        return True
    except Exception as error:
        install = "; pip install -e '.[gpu]'" if isinstance(error, ImportError) else ""
        reason = " ".join(explain(error).split())[:400]
        log.warning("the Triton kernels are not available, so a slower form is used: %s%s", reason, install)
        return False


def chunk_length(hidden_size: int) -> int:
    """How many steps of a long sequence one call computes: attention within them, the matrix A for earlier ones."""
    return ON_CHIP // _power_of_two(hidden_size)


def _power_of_two(number: int) -> int:
    return max(16, 1 << (number - 1).bit_length())


def _layout(units: int, time: int) -> dict[str, Any]:
    """Compiler settings: sizes rounded up to powers of two, and enough warps to keep W and the states in registers."""
    width, steps = _power_of_two(units), _power_of_two(time)
    numbers = width * (width + 2 * steps)  # of W, of the states and of their gradients
    warps = 1 if numbers <= 2048 else 4 if numbers <= 10240 else 8
    sizes = {"H": units, "WIDTH": width, "STEPS": steps, "EXPONENT_BITS": steps.bit_length()}
    return sizes | {"num_warps": warps, "enable_fp_fusion": True}


class _FastWeights(Function):
    """The kernels on one chunk; every tensor has a leading dimension of members, and None stands for an absent one.

    Under `torch.func.vmap`, the mapped dimension is merged into that of the members.
    """

    @staticmethod
    def forward(settings, save, ids, table, weight, gain, bias, first_gain, first_bias, initial, fast, decay, fast_lr):
        """The outputs [P, B, T, H], or the last one [P, B, H], followed by what the backward pass needs."""
        from src.ops.triton.fastweights_kernels import forward_kernel

        members, units = weight.shape[:2]
        batch, time = (table if ids is None else ids).shape[1:3]
        steps, inner_steps = (members, batch, time), settings["INNER_STEPS"]
        norms = (0 if gain is None else inner_steps) + (first_gain is not None)
        outputs = table.new_empty((*steps, units) if settings["RETURN_SEQUENCE"] else (members, batch, units))
        saved = [
            table.new_empty(shape if save else 0)
            for shape in [(*steps, units), (*steps, inner_steps + 1, units), (*steps, norms, units), (*steps, norms)]
        ]
        fast_transposed = None if fast is None else fast.mT
        given = (ids, weight.mT, gain, bias, first_gain, first_bias, initial, fast_transposed, decay, fast_lr)
        forward_kernel[batch, members](
            *calls.contiguous(table, *given), outputs, *saved, batch, time, table.shape[1],
            **settings, **_layout(units, time), EPSILON=EPSILON, SAVE=save,
        )  # fmt: skip
        return outputs, *saved

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Save what the backward pass reads."""
        settings, _, ids, table, weight, gain, _, first_gain, _, initial, fast, decay, fast_lr = inputs
        ctx.settings, ctx.symbols = settings, None if ids is None else table.shape[1]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ids, weight, gain, first_gain, initial, fast, decay, fast_lr, *output)

    @staticmethod
    def backward(ctx, d_outputs, *_):
        """The gradients of the arguments of `forward`, in the same order."""
        calls.refuse_second_derivative()
        from src.ops.triton.fastweights_kernels import backward_kernel

        ids, *saved = ctx.saved_tensors
        weight, gain, first_gain, initial, fast, decay, fast_lr, outputs, states, queries, normalized, scales = (
            calls.contiguous(*saved)
        )
        settings, (members, batch, time, units) = ctx.settings, states.shape
        d_outputs = torch.zeros_like(outputs) if d_outputs is None else d_outputs.contiguous()
        d_z = torch.empty_like(states)
        d_a = None if fast is None else queries.new_empty(members, batch, time, settings["INNER_STEPS"], units)
        d_norms = queries.new_empty(members, batch, 4, units)
        d_initial = None if initial is None else torch.empty_like(initial)
        backward_kernel[batch, members](
            weight, gain, first_gain, fast, decay, fast_lr, states, queries, normalized, scales, d_outputs,
            d_z, d_a, d_norms, d_initial, batch, time, **settings, **_layout(units, time),
        )  # fmt: skip
        d_weight = torch.bmm(d_z.flatten(1, 2).transpose(1, 2), states.flatten(1, 2))
        d_gain, d_bias, d_first_gain, d_first_bias = d_norms.sum(1).unbind(1)
        d_table = d_z if ids is None else sum_by_id(ids, d_z, ctx.symbols)
        d_fast = None
        if d_a is not None and fast is not None:
            read = queries[:, :, :, :-1].reshape(members * batch, -1, units)
            d_fast = torch.bmm(d_a.view(members * batch, -1, units).transpose(1, 2), read).view_as(fast)
        d_norm = (None, None) if gain is None else (d_gain, d_bias)
        d_first = (None, None) if first_gain is None else (d_first_gain, d_first_bias)
        return None, None, None, d_table, d_weight, *d_norm, *d_first, d_initial, d_fast, None, None

    @staticmethod
    def vmap(info, in_dims, settings, save, *given):
        """Run with the mapped dimension merged into that of the members."""
        size = info.batch_size
        save = calls.needs_backward(given)
        merged = [of_members(tensor, dim, size) for tensor, dim in zip(given, in_dims[2:], strict=True)]
        results = _FastWeights.apply(settings, save, *merged)
        apart = tuple(r.unflatten(0, (size, -1)) if r.ndim > 1 else r for r in results)
        return apart, tuple(0 if r.ndim > 1 else None for r in results)


@calls.not_compiled
def population(
    inputs: Inputs,
    initial_PBH: Tensor | None,
    fast_PBHH: Tensor | None,
    weight_PHH: Tensor,
    norm: Sequence[Tensor | None],
    preliminary_norm: Sequence[Tensor | None],
    *,
    nonlinearity: str,
    num_inner_steps: int,
    sustained: bool,
    decay_P: Tensor,
    fast_lr_P: Tensor,
    return_sequence: bool = True,
) -> Tensor:
    """All h(t) [P, B, T, H] of P networks, or the last one [P, B, H], from their h(0) and A(0).

    Args:
        inputs: vectors [P, B, T, H], or tables [P, V, H] with ids [P, B, T]; an id outside its table yields nan.
        initial_PBH: h(0), None for zero.
        fast_PBHH: A(0), None for zero.
        weight_PHH: W.
        norm: gain and bias [P, H], or None and None for no layer norm.
        preliminary_norm: the same for the preliminary state.
        nonlinearity: relu, tanh or linear.
        num_inner_steps: S.
        sustained: whether z is the boundary condition.
        decay_P: λ of each network.
        fast_lr_P: η of each network.
        return_sequence: whether to return all outputs or only the last one.
    """
    table, ids, dtype = inputs.table, inputs.ids, weight_PHH.dtype
    members, units = weight_PHH.shape[:2]
    batch = (table if ids is None else ids).shape[1]
    calls.check("inputs", table, (members, *table.shape[1:-1], units), dtype)
    calls.check("W", weight_PHH, (members, units, units), dtype)
    for state, shape in ((initial_PBH, (batch, units)), (fast_PBHH, (batch, units, units))):
        if state is not None:
            calls.check("state", state, (members, *shape), dtype)
    for tensor in (*norm, *preliminary_norm):
        if tensor is not None:
            calls.check("norm", tensor, (members, units), dtype)
    for number in (decay_P, fast_lr_P):
        calls.check("decay and fast_lr", number, (members,), dtype)
    settings = {
        "INNER_STEPS": num_inner_steps,
        "SUSTAINED": sustained,
        "NONLINEARITY": nonlinearity,
        "RETURN_SEQUENCE": return_sequence,
    }
    given = (table, weight_PHH, *norm, *preliminary_norm, initial_PBH, fast_PBHH)
    ids = None if ids is None else ids.long()
    return _FastWeights.apply(settings, calls.needs_backward(given), ids, *given, decay_P, fast_lr_P)[0]


def fastweights(
    inputs: Inputs,
    initial_BH: Tensor | None,
    fast_BHH: Tensor | None,
    weight_HH: Tensor,
    norm: tuple[Tensor | None, Tensor | None],
    preliminary_norm: tuple[Tensor | None, Tensor | None],
    *,
    decay: float | Tensor,
    fast_lr: float | Tensor,
    **settings: Any,
) -> Tensor:
    """All h(t) [B, T, H] of one network, or the last one [B, H]: see `src.ops.cpu.fastweights.fastweights`.

    Under `torch.func.vmap`, λ and η may be mapped tensors.
    """

    def column(number: float | Tensor) -> Tensor:
        if isinstance(number, Tensor):
            return number.to(weight_HH.dtype).reshape(1)
        return weight_HH.new_full((1,), number)

    def one(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[None]

    outputs = population(
        Inputs(inputs.table.to(weight_HH.dtype)[None], one(inputs.ids)),
        one(initial_BH),
        one(fast_BHH),
        weight_HH[None],
        [one(tensor) for tensor in norm],
        [one(tensor) for tensor in preliminary_norm],
        decay_P=column(decay),
        fast_lr_P=column(fast_lr),
        **settings,
    )
    return outputs[0]
