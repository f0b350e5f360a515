"""From the `step` of a core to a graph of one step and its derivative.

A single sequence is traced, as a batch of one: all sizes are then those of a sequence, no operation has to be asked
what it does with the batch, and a sum over the batch becomes the kernel's sum over its lanes.
"""

import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NamedTuple, cast

import numpy as np
import optree
import torch
from torch import Tensor, fx, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, functionalize, vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from src.ops.generated.decompositions import BEFORE_DERIVATIVES, OneHot, all_decompositions
from src.ops.generated.reads import Reads
from src.ops.generated.recipe import LoweringError, example
from src.ops.generated.settings import (
    COMPARED,
    UNCHANGING,
    copied,
    has_hooked_parts,
    leaves_of,
    named_settings,
    setting_of,
    tensors_of,
    variable_settings,
)

aten = torch.ops.aten
_REQUIRES_GRAD = cast(Any, Tensor.requires_grad).__get__

VIEWS = {
    aten.view, aten._unsafe_view, aten.reshape, aten.permute, aten.transpose, aten.t, aten.unsqueeze, aten.squeeze,
    aten.select, aten.slice, aten.split, aten.split_with_sizes, aten.unbind, aten.expand, aten.diagonal,
}  # fmt: skip
UNCHANGED = {aten.alias, aten.detach, aten.clone, aten.lift_fresh, aten.lift_fresh_copy, aten.contiguous}


class Trace(NamedTuple):
    """One step of one sequence; in it, as in a kernel, states of integers or booleans are floating-point numbers.

    `joint` maps (inputs, states, constants, gradient of the output, gradients of the next states) to (output, next
    states, gradients of inputs, states and differentiable constants, named intermediate values).
    """

    joint: fx.GraphModule
    prelude: fx.GraphModule
    """From parameters, buffers and variable settings to the constants: what does not depend on the sequence is computed
    only once, by torch."""
    inputs: list[Tensor]
    states: list[Tensor]
    constants: list[Tensor]
    constant_names: list[str]
    differentiable: list[int]
    """Numbers of the constants that have a gradient: no indices, and nothing that is computed from settings alone."""
    names: list[str]
    """The variables of `step` that hold the named intermediate values."""


class _Step(nn.Module):
    """`step` as the forward pass of a module, so that its parameters can be replaced."""

    def __init__(self, core: Any):
        super().__init__()
        self.core = core

    def forward(self, p: Any, state: Any) -> Any:
        return self.core.step(p, state)


def trace(core: Any) -> Trace:
    """Trace the step of a core.

    Raises:
        LoweringError: the step cannot be traced, for example because its control flow depends on the values of tensors.
    """
    reads = Reads(core)
    values = [*named_settings(core), *reads.named()]
    _refuse_what_may_change(core, values)
    core = copied(core, next(core.parameters()).device)  # the step may change it
    p, state = example(core)
    inputs, p_structure = optree.tree_flatten(p)
    states, state_structure = optree.tree_flatten(state)
    for tensor in (*inputs, *states):
        if tensor.numel() == 0:
            raise LoweringError("an empty input or state")
    for tensor in inputs:
        if not tensor.is_floating_point():
            raise LoweringError(f"inputs must be floating-point numbers, not {tensor.dtype}")
    kinds = [state.dtype for state in states]
    if any(kind.is_complex for kind in kinds):
        raise LoweringError("a complex state")
    inputs = [tensor.clone() for tensor in inputs]  # a tensor in two places would be taken for a single argument
    states = [(state if state.is_floating_point() else state.to(inputs[0].dtype)).clone() for state in states]
    module, given = _Step(core), {f"core.{name}": t.detach() for name, t in tensors_of(core).items()}
    variables: list[str] = []
    changed: set[str] = set()

    def step(*flat: Tensor) -> list[Tensor]:
        left = iter(flat)
        p = optree.tree_unflatten(p_structure, [next(left) for _ in inputs])
        whole = [next(left) if kind.is_floating_point else next(left).to(kind) for kind in kinds]
        state = optree.tree_unflatten(state_structure, whole)
        passed = dict(zip(given, left, strict=True))
        before = dict(passed)
        with _local_variables_of(type(core).step) as found, OneHot(), _NoGradients():
            y, next_state = functional_call(module, passed, (p, state))
        changed.update(name.removeprefix("core.") for name in given if passed[name] is not before[name])
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
    around = _Around(core, reads)
    try:
        with torch.no_grad():
            graph = _graph_of(step, flat, BEFORE_DERIVATIVES)
            changed.update(_written_to(graph.graph, len(inputs) + len(states), list(given)))
            if changed := changed | around.changed():
                raise LoweringError(f"the step changes {', '.join(sorted(changed))}, which a kernel would not")
            if around.was_by_chance():
                raise LoweringError("the step draws random numbers from Python or NumPy")
            _refuse_gradients(values)
            _multiply_by_inverse_roots(graph.graph, 1 + len(states))
            prelude, body = _split(graph, len(inputs) + len(states))
            constants = list(prelude(*given.values()))
        fixed = {f"core.{name}" for name in variable_settings(core)}
        free = _differentiable(prelude, [name in fixed for name in given], constants)
        joint = _with_derivative(body, inputs, states, constants, free)
    except Exception as error:
        changed |= around.changed()
        around.was_by_chance()
        reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
        lasting = True
        if "_local_scalar_dense" in reason:
            reason = "data-dependent control flow: a branch on the values of tensors"
        elif not isinstance(error, LoweringError):
            reason, lasting = f"step cannot be traced: {reason}", False
        line = _line_in(type(core).step, error.__traceback__)
        raise LoweringError(reason, line, lasting, frozenset(changed)) from error
    tensors = [node for node in prelude.graph.nodes if node.op == "placeholder"]
    known = {node: name.removeprefix("core.") for node, name in zip(tensors, given, strict=True)}
    constant_names = [known.get(node, node.name) for node in list(prelude.graph.nodes)[-1].args[0]]
    return Trace(joint, prelude, inputs, states, constants, constant_names, free, variables)


def _refuse_what_may_change(core: nn.Module, named: list[tuple[str, Any]]) -> None:
    """Refuse a core with hooks, or with values whose changes would not be noticed."""
    own, *parts = core.modules()
    if has_hooked_parts(core):
        raise LoweringError("a submodule with hooks, which a kernel would not call", lasting=False)
    for name, value in named:
        for leaf in leaves_of(value):
            if isinstance(leaf, nn.Module):
                if leaf is not own and leaf not in parts:
                    raise LoweringError(f"{name}: a module that is not registered in the core; use nn.ModuleList")
            elif isinstance(leaf, np.ndarray) and leaf.size > COMPARED:
                raise LoweringError(f"{name}: an array of more than {COMPARED} numbers; make it a buffer")
            elif not isinstance(leaf, (*UNCHANGING, Tensor, np.ndarray)):
                raise LoweringError(f"{name}: an object of {type(leaf).__name__}, whose changes would go unnoticed")


def _refuse_gradients(named: list[tuple[str, Any]]) -> None:
    for name, value in named:
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves_of(value)):
            raise LoweringError(f"{name}: a setting that requires a gradient; make it a parameter")


class _Around:
    """The surroundings of a step before it is traced, to find out what it changes there."""

    def __init__(self, core: nn.Module, reads: Reads):
        self.core, self.reads = core, reads
        self.before = {place: (value, setting_of(value, {})) for place, value in self._values()}
        self.random, self.numpy = random.getstate(), np.random.get_state(legacy=False)

    def _values(self) -> Iterator[tuple[tuple[int, str], Any]]:
        """All values, by number and name, since two closures may have the same name."""
        for name, value in named_settings(self.core):
            yield (0, name), value
        for number, (name, value) in enumerate(self.reads.named(), 1):
            yield (number, name), value

    def changed(self) -> set[str]:
        """The names of what has a different value now."""
        names = set()
        for place, value in self._values():
            before, setting = self.before.get(place, (self, None))
            if (isinstance(value, Tensor) and value is not before) or setting_of(value, {}) != setting:
                names.add(place[1])
        return names

    def was_by_chance(self) -> bool:
        """Whether random numbers were drawn from Python's generator or NumPy's; resets both to their earlier states."""
        now = random.getstate(), pickle.dumps(np.random.get_state(legacy=False))
        random.setstate(self.random)
        np.random.set_state(self.numpy)
        return now != (self.random, pickle.dumps(self.numpy))


def _written_to(graph: fx.Graph, num_sequence: int, names: list[str]) -> list[str]:
    """The parameters, buffers and variable settings that a graph writes to."""
    given = dict(zip([node for node in graph.nodes if node.op == "placeholder"][num_sequence:], names, strict=True))
    copies = graph.find_nodes(op="call_function", target=aten.copy_.default)
    return [given[node.args[0]].removeprefix("core.") for node in copies if node.args[0] in given]


class _NoGradients(TorchFunctionMode):
    """Refuses whatever a step does about gradients, except `detach`: a kernel differentiates what the step computes."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (function is torch._C._set_grad_enabled and not args[0]) or torch.is_inference_mode_enabled():
            raise LoweringError("no_grad in a step; use detach()")
        if function is Tensor.register_hook:
            raise LoweringError("a tensor hook, which a kernel would not call")
        if function in (torch.is_grad_enabled, _REQUIRES_GRAD):
            raise LoweringError("a branch on whether there are gradients")
        return function(*args, **(kwargs or {}))


def _differentiable(prelude: fx.GraphModule, fixed: list[bool], constants: list[Tensor]) -> list[int]:
    """The numbers of the constants that have a gradient; `fixed` says which arguments of the prelude have none."""
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
    """The local variables of a function when it returns, by name."""
    found: dict[str, Any] = {}

    def at_return(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is function.__code__:
            found.update(frame.f_locals)

    before = sys.getprofile()
    if before is not None and not callable(before):  # one that is not written in Python cannot be restored
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
    """Whether a node only views its argument, possibly in another shape."""
    return node.op == "call_function" and getattr(node.target, "overloadpacket", None) in VIEWS | UNCHANGED


def _multiply_by_inverse_roots(graph: fx.Graph, num_results: int) -> None:
    """Turn x / sqrt(y) into x * rsqrt(y), so that neither pass divides, unless the root is read elsewhere."""
    output = graph.output_node()
    results = cast(Any, output.args[0])[:num_results]  # the named values after them need not be computed
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
    """The graph of a function, with mutations removed.

    If a fake tensor mode is active, `make_fx` uses it for every value. Otherwise it creates one for each value, with a
    stack trace, which takes a third of the time.
    """
    with tracing(TracingContext(FakeTensorMode())):
        return make_fx(functionalize(function), decompositions)(*tensors)


def _with_derivative(
    body: fx.GraphModule, inputs: list[Tensor], states: list[Tensor], constants: list[Tensor], free: list[int]
) -> fx.GraphModule:
    """The graph of a step followed by its vector-Jacobian product; `free`: numbers of the constants with a gradient."""
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
