"""From the `step` of a core to a graph of one step and its derivative.

One sequence is traced, a batch of one: every size is then that of a sequence, no operation has to be asked what it
does with the batch, and a sum over the batch becomes the kernel's sum over its lanes.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NamedTuple, cast

import optree
import torch
from torch import Tensor, fx, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, functionalize, vjp
from torch.fx.experimental.proxy_tensor import make_fx

from src.ops.generated.decompositions import BEFORE_DERIVATIVES, OneHot, all_decompositions
from src.ops.generated.recipe import LoweringError, example, tensors_of, variable_settings

aten = torch.ops.aten

VIEWS = {
    aten.view, aten._unsafe_view, aten.reshape, aten.permute, aten.transpose, aten.t, aten.unsqueeze, aten.squeeze,
    aten.select, aten.slice, aten.split, aten.split_with_sizes, aten.unbind, aten.expand, aten.diagonal,
}  # fmt: skip
UNCHANGED = {aten.alias, aten.detach, aten.clone, aten.lift_fresh, aten.lift_fresh_copy, aten.contiguous}


class Trace(NamedTuple):
    """One step of one sequence; states of integers or conditions are numbers in it, as in a kernel.

    `joint` maps (inputs, states, constants, gradient of the output, gradients of the next states) to (output, next
    states, gradients of inputs, states and differentiable constants, named intermediate values).
    """

    joint: fx.GraphModule
    prelude: fx.GraphModule
    """From parameters, buffers and variable settings to the constants: what does not depend on the sequence is computed
    once, by torch."""
    inputs: list[Tensor]
    states: list[Tensor]
    constants: list[Tensor]
    constant_names: list[str]
    differentiable: list[int]
    """Numbers of the constants that have a gradient; tables of indices have none, nor what is made of settings."""
    names: list[str]
    """The variables of `step` that hold the named intermediate values."""


class _Step(nn.Module):
    """`step` as the forward pass of a module, whose parameters can then be exchanged."""

    def __init__(self, core: Any):
        super().__init__()
        self.core = core

    def forward(self, p: Any, state: Any) -> Any:
        return self.core.step(p, state)


def trace(core: Any) -> Trace:
    """Trace the step of a core.

    Raises:
        LoweringError: the step cannot be traced, because it decides by the values of tensors, for example.
    """
    p, state = example(core)
    inputs, p_structure = optree.tree_flatten(p)
    states, state_structure = optree.tree_flatten(state)
    for tensor in (*inputs, *states):
        if tensor.numel() == 0:
            raise LoweringError("an input or state without numbers")
    for tensor in inputs:
        if not tensor.is_floating_point():
            raise LoweringError(f"inputs must be floating-point numbers, not {tensor.dtype}")
    for name, setting in variable_settings(core).items():
        if setting.requires_grad:
            raise LoweringError(f"{name}: a setting that requires a gradient; make it a parameter")
    kinds = [state.dtype for state in states]
    if any(kind.is_complex for kind in kinds):
        raise LoweringError("a complex state")
    inputs = [tensor.clone() for tensor in inputs]  # one tensor in two places would be taken for one argument
    states = [(state if state.is_floating_point() else state.to(inputs[0].dtype)).clone() for state in states]
    module, given = _Step(core), {f"core.{name}": t.detach() for name, t in tensors_of(core).items()}
    variables: list[str] = []

    def step(*flat: Tensor) -> list[Tensor]:
        left = iter(flat)
        p = optree.tree_unflatten(p_structure, [next(left) for _ in inputs])
        whole = [next(left) if kind.is_floating_point else next(left).to(kind) for kind in kinds]
        state = optree.tree_unflatten(state_structure, whole)
        with _local_variables_of(type(core).step) as found, OneHot():
            y, next_state = functional_call(module, dict(zip(given, left, strict=True)), (p, state))
        leaves, structure = optree.tree_flatten(next_state)
        if structure != state_structure:
            raise LoweringError(f"step returns a state of structure {structure}, not {state_structure}")
        for leaf, kind in zip(leaves, kinds, strict=True):
            if leaf.dtype != kind and not (leaf.is_floating_point() and kind.is_floating_point):
                raise LoweringError(f"step returns a state of {leaf.dtype}, not {kind}")
        leaves = [leaf if leaf.is_floating_point() else leaf.to(inputs[0].dtype) for leaf in leaves]
        named = {name: value for name, value in found.items() if isinstance(value, Tensor) and name.strip("_")}
        variables[:] = named
        return [y, *leaves, *named.values()]

    flat = [*inputs, *states, *given.values()]
    try:
        with torch.no_grad():
            graph = _graph_of(step, flat, BEFORE_DERIVATIVES)
            _multiply_by_inverse_roots(graph.graph, 1 + len(states))
            prelude, body = _split(graph, len(inputs) + len(states))
            constants = list(prelude(*given.values()))
        fixed = {f"core.{name}" for name in variable_settings(core)}
        free = _differentiable(prelude, [name in fixed for name in given], constants)
        joint = _with_derivative(body, inputs, states, constants, free)
    except Exception as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
        lasting = True
        if "_local_scalar_dense" in reason:
            reason = "data-dependent control flow: a decision by the values of tensors"
        elif not isinstance(error, LoweringError):
            reason, lasting = f"step cannot be traced: {reason}", False
        raise LoweringError(reason, _line_in(type(core).step, error.__traceback__), lasting) from error
    tensors = [node for node in prelude.graph.nodes if node.op == "placeholder"]
    known = {node: name.removeprefix("core.") for node, name in zip(tensors, given, strict=True)}
    constant_names = [known.get(node, node.name) for node in list(prelude.graph.nodes)[-1].args[0]]
    return Trace(joint, prelude, inputs, states, constants, constant_names, free, variables)


def _differentiable(prelude: fx.GraphModule, fixed: list[bool], constants: list[Tensor]) -> list[int]:
    """The constants that have a gradient; `fixed` says which arguments of the prelude have none."""
    *nodes, output = prelude.graph.nodes
    arguments = [node for node in nodes if node.op == "placeholder"]
    without = {node for node, is_fixed in zip(arguments, fixed, strict=True) if is_fixed}
    for node in nodes:
        if node.all_input_nodes and without.issuperset(node.all_input_nodes):
            without.add(node)
    pairs = enumerate(zip(output.args[0], constants, strict=True))
    return [i for i, (node, constant) in pairs if constant.is_floating_point() and node not in without]


@contextmanager
def _local_variables_of(function: Callable) -> Iterator[dict[str, Any]]:
    """The local variables of a function at its end, each by its name."""
    found: dict[str, Any] = {}

    def at_return(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is function.__code__:
            found.update(frame.f_locals)

    before = sys.getprofile()
    if before is not None and not callable(before):  # one that is not written in Python cannot be put back
        yield found
        return
    sys.setprofile(at_return)
    try:
        yield found
    finally:
        sys.setprofile(before)


def _line_in(function: Callable, trace: TracebackType | None) -> int | None:
    """The line of a function at which an error was raised."""
    while trace is not None and trace.tb_frame.f_code is not function.__code__:
        trace = trace.tb_next
    return trace.tb_lineno if trace is not None else None


def is_view(node: fx.Node) -> bool:
    """Whether a node only looks at its argument in another shape."""
    return node.op == "call_function" and getattr(node.target, "overloadpacket", None) in VIEWS | UNCHANGED


def _multiply_by_inverse_roots(graph: fx.Graph, num_results: int) -> None:
    """Turn x / sqrt(y) into x * rsqrt(y), with which neither pass divides; not if the root is read elsewhere."""
    output = graph.output_node()
    results = cast(Any, output.args[0])[:num_results]  # after them come named values, which need not be computed
    for root in graph.find_nodes(op="call_function", target=aten.sqrt.default):
        users = [user for user in root.users if user is not output or root in results]
        if users and all(user.target is aten.div.Tensor and user.args[0] is not root for user in users):
            with graph.inserting_before(root):
                inverse = graph.call_function(aten.rsqrt.default, root.args)
            for user in users:
                user.target, user.args = aten.mul.Tensor, (user.args[0], inverse)


def _split(graph: fx.GraphModule, num_sequence: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The prelude, which depends on parameters alone, and the body; views of parameters stay in the body."""
    nodes = list(graph.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    output = nodes[-1]
    of_sequence = set(placeholders[:num_sequence])
    for node in nodes:
        if node.op == "call_function" and of_sequence.intersection(node.all_input_nodes):
            of_sequence.add(node)
    results = output.all_input_nodes
    frontier: dict[fx.Node, None] = {}  # an ordered set

    def reach(node: fx.Node) -> None:
        if is_view(node):
            for argument in node.all_input_nodes:
                reach(argument)
        else:
            frontier[node] = None

    readers = [node for node in nodes if node in of_sequence and node.op == "call_function"]
    for node in [*(a for reader in readers for a in reader.all_input_nodes), *results]:
        if node not in of_sequence:
            reach(node)

    prelude, body = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in placeholders[num_sequence:]:
        copies[node] = prelude.placeholder(node.name)
    for node in nodes:
        if node not in of_sequence and node.op in ("call_function", "get_attr"):
            copies[node] = prelude.node_copy(node, copies.__getitem__)
    prelude.output(tuple(copies[node] for node in frontier))

    inside: dict[fx.Node, fx.Node] = {}
    for node in (*placeholders[:num_sequence], *frontier):
        inside[node] = body.placeholder(node.name)
    for node in nodes:
        if node.op == "call_function" and node not in inside and all(a in inside for a in node.all_input_nodes):
            inside[node] = body.node_copy(node, inside.__getitem__)
    body.output(fx.map_arg(output.args[0], inside.__getitem__))
    for part in (prelude, body):
        part.eliminate_dead_code()
    return fx.GraphModule(graph, prelude), fx.GraphModule(graph, body)


def _graph_of(function: Callable, tensors: list[Tensor], decompositions: dict) -> fx.GraphModule:
    """The graph of a function without mutations.

    In a context with a mode for fake tensors `make_fx` describes every value with that one. Otherwise it makes one for
    each, with a trace of the stack, which takes a third of the time.
    """
    with tracing(TracingContext(FakeTensorMode())):
        return make_fx(functionalize(function), decompositions)(*tensors)


def _with_derivative(
    body: fx.GraphModule, inputs: list[Tensor], states: list[Tensor], constants: list[Tensor], free: list[int]
) -> fx.GraphModule:
    """The graph of a step followed by its vector-Jacobian product; `free` are the constants that have a gradient."""
    num_sequence, num_results = len(inputs) + len(states), 1 + len(states)

    def joint(*flat: Tensor) -> list[Tensor]:
        of_sequence, left = flat[:num_sequence], flat[num_sequence:]
        all_constants, tangents = list(left[: len(constants)]), left[len(constants) :]

        def part(*primals: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            given = [*all_constants]
            for i, value in zip(free, primals[num_sequence:], strict=True):
                given[i] = value
            results = fx.Interpreter(body).run(*primals[:num_sequence], *given)
            return list(results[:num_results]), list(results[num_results:])

        results, pull_back, named = cast(Any, vjp)(part, *of_sequence, *(all_constants[i] for i in free), has_aux=True)
        return [*results, *pull_back(list(tangents)), *named]

    with torch.no_grad():
        results = body(*inputs, *states, *constants)[:num_results]
    tangents = [torch.zeros_like(result) for result in results]
    graph = _graph_of(joint, [*inputs, *states, *constants, *tangents], all_decompositions())
    graph.graph.eliminate_dead_code()
    return graph
