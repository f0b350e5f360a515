"""From a core to the recipe of its kernel: `trace`, `lower`, `plan` and `emit`, one after the other."""

import re
import sys
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from src.ops.generated.emit import Source, emit
from src.ops.generated.emit_triton import emit_triton
from src.ops.generated.lower import Lowered
from src.ops.generated.plan import Plan
from src.ops.generated.recipe import Gradient, Instruction, LoweringError, Recipe, example, tensors_of
from src.ops.generated.trace import Trace, trace
from src.ops.generated.values import contiguous
from src.specs import state_tensors


def derive(core: Any, dtype: torch.dtype, on: str) -> Recipe:
    """The recipe of a kernel for a core's step, on a "cpu" or "gpu".

    Raises:
        LoweringError: no kernel can be generated.
    """
    _check_worth(core)
    traced = trace(core)
    recipe = of_plan(traced, plan_of(core, traced), dtype, on)
    recipe.starts_at_zero = _starts_at_zero(core)
    return recipe


def _starts_at_zero(core: Any) -> bool:
    """Whether the initial state is zero for any values of the parameters, buffers and variable settings."""
    unknown = {
        f"core.{name}": torch.full_like(t, float("nan")) if t.is_floating_point() else torch.ones_like(t)
        for name, t in tensors_of(core).items()
    }
    with torch.no_grad():
        states = functional_call(_InitialState(core), unknown, (64,))
    return not any(state.any() for state in state_tensors(states))


class _InitialState(nn.Module):
    """`initial_state` as the forward pass of a module, so that its parameters can be replaced."""

    def __init__(self, core: Any):
        super().__init__()
        self.core = core

    def forward(self, batch_size: int) -> Any:
        return self.core.initial_state(batch_size)


def _check_worth(core: Any) -> None:
    """Refuse a core whose state counts the past steps that it holds, if it has a vectorized form.

    A kernel writes the whole state at every step, which takes 1.4 to 9 times as long as attention and similar forms
    (measured). With resets, which some of these forms do not serve, the step is scanned.
    """
    counted = [t.dtype for t in state_tensors(core.initial_state(1)) if not t.is_floating_point()]
    if counted and any(form.kernel == "vectorized" for form in getattr(core, "forms", list)()):
        raise LoweringError(f"a state of {counted[0]} in a core with a vectorized form, which is faster")


def plan_of(core: Any, traced: Trace) -> Plan:
    """The plan of a traced step; if an operation cannot be lowered, the error names it and its line."""
    try:
        return Plan(Lowered(traced))
    except LoweringError as error:
        raise LoweringError(str(error), _line_of(core, str(error))) from None
    except Exception as error:  # something in torch's graphs that was not foreseen here
        raise LoweringError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def of_plan(traced: Trace, plan: Plan, dtype: torch.dtype, on: str) -> Recipe:
    """The recipe for a plan."""
    if on == "gpu":
        text, gpu = emit_triton(plan, str(dtype).removeprefix("torch."))
        source = Source(text, [], [])
    else:
        gpu, source = None, emit(plan, {torch.float32: "float", torch.float64: "double"}[dtype])
    names, prelude = _instructions(traced.prelude)
    gradients: list[Gradient | None] = [None] * len(plan.constants)
    for weight in plan.weights:
        view = weight.result
        gradients[weight.constant] = Gradient(weight.shape, view.strides, view.shape)
    for total in plan.totals:
        size = total.value.size
        gradients[total.constant] = Gradient((size,), contiguous(total.value.shape), total.value.shape)
    return Recipe(
        source=source.text,
        sizes=source.sizes,
        numbers=source.numbers,
        inputs=[value.shape[1:] for value in plan.inputs],
        states=[value.shape[1:] for value in plan.states],
        output=plan.output.size,
        history=sum(plan.states[i].size for i in plan.history),
        saved=sum(value.size for value in plan.per_step),
        products=plan.products,
        constants=names,
        shapes=[value.shape for value in plan.constants],
        prelude=prelude,
        tables=list(plan.tables),
        gradients=gradients,
        gpu=gpu,
    )


def _instructions(prelude: fx.GraphModule) -> tuple[list[str], list[Instruction]]:
    """The names of the constants, and how those that are not parameters or buffers are computed."""
    names, instructions, placeholders = [], [], []
    for node in prelude.graph.nodes:
        if node.op == "placeholder":
            placeholders.append(node)
        elif node.op == "output":
            names = [f"${placeholders.index(n)}" if n in placeholders else n.name for n in node.args[0]]
        elif node.op == "get_attr":
            tensor = getattr(prelude, str(node.target))
            arguments = [tensor.tolist(), str(tensor.dtype).removeprefix("torch.")]
            instructions.append(Instruction(node.name, "tensor", arguments, {}))
        else:
            known = {
                n: f"${placeholders.index(n)}" if n in placeholders else f"${n.name}" for n in node.all_input_nodes
            }
            arguments, keywords = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            operator = "item" if not isinstance(node.target, torch._ops.OpOverload) else str(node.target)
            keywords = {k: v for k, v in keywords.items() if k not in ("device", "pin_memory", "layout")}
            instructions.append(Instruction(node.name, operator, _plain(arguments), _plain(keywords)))
    return names, instructions


def _plain(value: Any) -> Any:
    """Replace the immutable lists and dictionaries of torch.fx by ordinary ones."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _line_of(core: Any, operator: str) -> int | None:
    """The line of the source file in which a step uses an operator; None if it is not found."""
    code, found, names = type(core).step.__code__, [], set(re.findall(r"\w+", operator))

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if str(function).split(".")[1] in names:
                frame = sys._getframe()
                while frame is not None and frame.f_code is not code:
                    frame = frame.f_back  # type: ignore[assignment]
                if frame is not None:
                    found.append(frame.f_lineno)
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        core.step(*example(core))
    return found[0] if found else None
