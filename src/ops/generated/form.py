"""The generated kernel as one of the forms of a core, on the CPU or a GPU: built on first use, checked, and kept.

Shapes: B sequences, T time steps.
"""

import logging
from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import optree
import torch
from torch import Tensor, nn

from src.config.errors import UserError, explain
from src.ops.cpu import calls
from src.ops.dispatch import Form
from src.ops.generated.kernel import Kernel
from src.ops.generated.reads import Reads
from src.ops.generated.recipe import LoweringError, Recipe, example, store, stored, with_place
from src.ops.generated.settings import copied, has_hooked_parts, key_of
from src.ops.generated.triton_kernel import TritonKernel
from src.ops.inputs import Inputs
from src.ops.triton import calls as gpu
from src.specs import State, map_state, state_tensors

log = logging.getLogger(__name__)
_KERNELS: WeakKeyDictionary[nn.Module, dict[tuple, tuple[Reads, dict[tuple, Kernel | str]]]] = WeakKeyDictionary()
"""For each core, device, dtype and settings: what else its step reads and, for each combination of the values read, its
kernel or the reason why there is none."""
_SET: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()
"""The attributes that a step without a kernel changes; as they differ at every call, they are left out of its key."""
_MAKING = RLock()
"""Held while a kernel is built: tracing a step replaces functions of torch for all threads."""
_CHOSEN: WeakKeyDictionary[nn.Module, Kernel] = WeakKeyDictionary()
"""The kernel that was just found to serve the inputs, so that it is not looked up twice."""


def generated_form(core: Any) -> Form:
    """The form of a core that runs its step as a compiled kernel."""
    return Form("fused", partial(_run, core), partial(_serves, core))


def is_generated(form: Form) -> bool:
    """Whether a form comes from `generated_form`."""
    return isinstance(form.compute, partial) and form.compute.func is _run


@calls.not_compiled
def _serves(core: Any, inputs: Inputs) -> bool:
    if not (calls.available(inputs) or gpu.takes(inputs.example)):
        return False
    kernel = _kernel_of(core, inputs)
    if isinstance(kernel, Kernel):
        _CHOSEN[core] = kernel
        return True
    if core.kernel == "fused":
        raise UserError(f"model.kernel=fused: there is no kernel for the step of {type(core).__name__}: {kernel}")
    return False


@calls.not_compiled
def _run(
    core: Any, inputs: Inputs, state: State | None, return_state: bool, return_sequence: bool
) -> tuple[Tensor, State | None]:
    kernel = _CHOSEN.pop(core, None) or _kernel_of(core, inputs)
    assert isinstance(kernel, Kernel)
    start: tuple[Tensor | None, ...] = kernel.nothing
    if not kernel.recipe.starts_at_zero and (state is None or inputs.resets is not None):
        start = tuple(state_tensors(core.initial_state(inputs.batch_and_time[0])))
    initial = start if state is None else tuple(state_tensors(state))
    restart = start if inputs.resets is not None else kernel.nothing
    y, *last = kernel.run(core, inputs, initial, restart, return_state, return_sequence)
    return y, optree.tree_unflatten(kernel.structure, last) if return_state else None


def _kernel_of(core: nn.Module, inputs: Inputs) -> Kernel | str:
    """The kernel of a core with its current settings, or the reason why there is none."""
    on = "gpu" if inputs.example.is_cuda or gpu.INTERPRETED else "cpu"
    dtype = next(core.parameters()).dtype if on == "gpu" else inputs.example.dtype
    kernel = _known(core, (on, dtype, "but for what it sets", *key_of(core, _SET[core]))) if core in _SET else None
    if kernel is None:
        key = (on, dtype, *key_of(core))
        kernel = _known(core, key)
    if kernel is None:
        device = inputs.example.device
        reads = Reads(core)
        values = reads.values()
        with (
            _MAKING,
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),  # an initial state may be random
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
        ):
            kernel, sets = _make_for_gpu(core, dtype, device) if on == "gpu" else _make(core, dtype, "cpu", device)
        if sets:
            _SET[core] = sets
            key = (on, dtype, "but for what it sets", *key_of(core, sets))
            reads.leave_out(sets)
            values = reads.values()
        known = _KERNELS.setdefault(core, {})
        if key not in known or known[key][0].places.keys() != reads.places.keys():
            known[key] = reads, {}
        known[key][1][values] = kernel
    return kernel


def _known(core: nn.Module, key: tuple) -> Kernel | str | None:
    reads, kernels = _KERNELS.get(core, {}).get(key, (None, {}))
    return None if reads is None else kernels.get(reads.values())


def _make_for_gpu(core: nn.Module, dtype: torch.dtype, device: torch.device) -> tuple[Kernel | str, frozenset[str]]:
    """As `_make`, but from a copy on the CPU with its own tensors, since those of the core may be mapped by `vmap`."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    with temporarily_clear_interpreter_stack():
        return _make(copied(core, torch.device("cpu")), dtype, "gpu", device)


def _make(core: nn.Module, dtype: torch.dtype, on: str, device: torch.device) -> tuple[Kernel | str, frozenset[str]]:
    """A kernel, or the reason why there is none; and the attributes that the step changes, which rule out a kernel."""
    name, kind = type(core).__name__, TritonKernel if on == "gpu" else Kernel
    sets: frozenset[str] = frozenset()
    recipe = None if has_hooked_parts(core) else stored(core, dtype, on)
    try:
        if recipe is not None and recipe.refused is None:
            return kind(recipe, core), sets
        if recipe is None:
            from src.ops.generated.derive import derive  # its imports take a third of a second

            with torch.autograd.set_detect_anomaly(False):  # anomaly detection would be traced as well
                recipe = derive(core, dtype, on)
                kernel = kind(recipe, core)
                _compare(core, kernel, dtype, device)
            store(core, dtype, on, recipe)
            return kernel, sets
    except LoweringError as error:
        recipe, sets = Recipe(refused=str(error), line=error.line), error.sets
        if error.lasting:
            store(core, dtype, on, recipe)
    except Exception as error:  # a failing compiler, or something unforeseen in a step: the scan still runs
        log.warning("%s: its kernel is not available, so a slower form is used: %s", name, explain(error)[:400])
        return explain(error), sets
    assert recipe.refused is not None
    reason = with_place(core, recipe.refused, recipe.line)
    log.debug("%s: no kernel, so a slower form is used: %s", name, reason)
    return reason, sets


def _compare(core: Any, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
    """Compare a new kernel with the scan on some sequences of three steps, with random weights.

    The sequences are random ones from random states; large ones, with which units saturate and rare cases occur; and
    zeros from the initial state, for the ties and the roots of zero that random numbers do not hit.

    Raises:
        LoweringError: the results differ, so the step mixes sequences, depends on chance, or chooses among equal
            numbers, as `topk` does.
    """
    batch = 2 if isinstance(kernel, TritonKernel) else 5  # on a CPU, enough to be computed in lanes
    with torch.enable_grad():
        torch.manual_seed(0)
        core = copied(core, device)
        for parameter in core.parameters():
            parameter.requires_grad_().data.add_(0.1 * torch.randn(parameter.shape, dtype=dtype).to(device))
        p_of_one, state_of_one = example(core)
        for scale in (1, 30, 0):
            state = map_state(partial(_drawn, (batch,), 0.3 * scale), state_of_one)
            p = map_state(_free, map_state(partial(_drawn, (batch, 3), scale), p_of_one))
            if not scale:  # expanded; its own shape is checked when a kernel runs
                state = optree.tree_map(lambda one, own: own.to(one).expand_as(one), state, core.initial_state(batch))
            start = map_state(_free, state)
            try:
                expected = _results(core.scan, core, p, start, dtype)
            except (IndexError, RuntimeError):
                if scale != 30:  # with which an integer may be out of range as an index
                    raise
                continue
            actual = _results(partial(_outputs, core, kernel), core, p, start, dtype)
            _refuse_another(expected, actual, 1 + len(state_tensors(start)), 1e-3 if dtype == torch.float32 else 1e-8)


def _results(compute: Callable, core: nn.Module, p: Any, start: State, dtype: torch.dtype) -> list[Tensor]:
    """Outputs, states, and all gradients."""
    y, end = compute(p, start)
    results = [y, *state_tensors(end)]
    sources = [t for t in (*state_tensors((p, start)), *core.parameters()) if t.requires_grad]
    differentiable = [result for result in results if result.requires_grad]
    shares = [torch.cos(torch.arange(r.numel())).view_as(r).to(r) for r in differentiable]
    gradients = torch.autograd.grad(differentiable, sources, shares, allow_unused=True, materialize_grads=True)
    return [result.to(dtype) for result in (*results, *gradients)]


def _refuse_another(expected: list[Tensor], actual: list[Tensor], num_results: int, tolerance: float) -> None:
    """Raise `LoweringError` if results differ; if a gradient of the scan is nan, that of a kernel may be anything."""
    for number, (one, other) in enumerate(zip(expected, actual, strict=True)):
        scale = one.abs().nan_to_num(0, 0).max().clamp(min=1)
        is_same = ((other - one).abs() / scale < tolerance) | (one == other) | (one.isnan() & other.isnan())
        if not torch.all(is_same | one.isnan() if number >= num_results else is_same):
            why = "which mixes sequences, depends on chance, or chooses among equal numbers"
            raise LoweringError(f"its results differ from those of the step, {why}")


def _free(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def _drawn(lead: tuple[int, ...], scale: float, like: Tensor) -> Tensor:
    """Random numbers like a state or an input of one sequence, with leading dimensions `lead`; zeros for scale 0."""
    shape = (*lead, *like.shape[1:])
    if like.is_floating_point():
        numbers = scale * torch.randn(shape, dtype=like.dtype) if scale else torch.zeros(shape, dtype=like.dtype)
        return numbers.to(like.device)
    return torch.randint(2 if scale < 1 else 100, shape).to(like.device, like.dtype)


def _outputs(core: nn.Module, kernel: Kernel, p: Any, state: State) -> tuple[Tensor, State]:
    y, *last = kernel.run(core, Inputs(p), tuple(state_tensors(state)), kernel.nothing, True, True)
    return y, last
