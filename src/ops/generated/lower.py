"""From the graph of a step to the values that it computes."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from src.ops.generated.builder import Builder, Filled, Operand
from src.ops.generated.expressions import BINARY, COSTLY, UNARY
from src.ops.generated.recipe import LoweringError
from src.ops.generated.rules import RULES
from src.ops.generated.trace import UNCHANGED, VIEWS, Trace
from src.ops.generated.values import Value, View, contiguous, extents, whole

_ROUNDING = {"floor", "ceil", "trunc", "round", "remainder", "eq", "ne", "lt", "le", "gt", "ge"}
_INEXACT = {*COSTLY, "mm", "addmm", "bmm", "native_layer_norm"}


class Lowered(Builder):
    """The values of a traced step.

    `output`, `next_states`, `d_inputs`, `d_states` and `d_constants` (None where there is no gradient) are views or
    tensors filled with a single number.
    """

    def __init__(self, trace: Trace):
        num_in, num_states, num_constants = len(trace.inputs), len(trace.states), len(trace.constants)
        nodes = list(trace.joint.graph.nodes)
        placeholders = [node for node in nodes if node.op == "placeholder"]
        tensors = [*trace.inputs, *trace.states, *trace.constants]
        names = [f"p{i}" for i in range(num_in)] + [f"s{i}" for i in range(num_states)]
        names += [*trace.constant_names, "dy", *(f"ds{i}" for i in range(num_states))]
        kinds = ["input"] * num_in + ["state"] * num_states + ["constant"] * num_constants
        kinds += ["gradient"] * (1 + num_states)
        given: list[Value] = []
        for node, kind in zip(placeholders, kinds, strict=True):
            shape = tuple(tensors[len(given)].shape if len(given) < len(tensors) else node.meta["val"].shape)
            condition = len(given) < len(tensors) and tensors[len(given)].dtype == torch.bool
            loops = extents(shape)
            given.append(Value(kind, "", [], shape, loops, contiguous(loops), boolean=condition))
        self.inputs, self.states = given[:num_in], given[num_in : num_in + num_states]
        super().__init__(given[num_in + num_states :][:num_constants], trace.constants)
        self.d_output, *self.d_next = given[num_in + num_states + num_constants :]

        exact = _before_rounding(nodes, placeholders[num_in : num_in + num_states])
        results: dict[fx.Node, Any] = {n: whole(value) for n, value in zip(placeholders, given, strict=True)}
        for node in nodes:
            if node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), results.__getitem__)
                _check_integers(node)
                self.exact = node in exact
                results[node] = self._lower(node.target, *args, **kwargs)
            elif node.op == "get_attr":
                results[node] = _of_attribute(getattr(trace.joint, str(node.target)))
        outputs = [results[node] for node in nodes[-1].args[0]]
        free = trace.differentiable
        self.output, outputs = outputs[0], outputs[1:]
        self.next_states, outputs = outputs[:num_states], outputs[num_states:]
        self.d_inputs, outputs = outputs[:num_in], outputs[num_in:]
        self.d_states, outputs = outputs[:num_states], outputs[num_states:]
        self.d_constants: list[Operand | None] = [None] * num_constants
        for i, gradient in zip(free, outputs, strict=False):
            self.d_constants[i] = gradient
        for view, name in zip(outputs[len(free) :], trace.names, strict=True):
            _name(view, name)
        for value, name in zip(given, names, strict=True):
            _name(whole(value), name)
        for node, result in results.items():
            _name(result, node.name)

    def _lower(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        if target is operator.getitem:
            return args[0][args[1]]
        packet, name = target.overloadpacket, target.overloadpacket.__name__
        if packet in VIEWS:
            return self.view_as(target, *args, **kwargs)
        if packet in UNCHANGED:
            return args[0]
        if name in ("add", "sub") and kwargs.get("alpha", 1) != 1:
            return self.map(name, args[0], self.map("mul", args[1], kwargs["alpha"]))
        if packet in RULES:
            return RULES[packet](self, *args, **kwargs)
        if name in UNARY:
            return self.map(name, args[0])
        if name in BINARY and name != "pow":
            return self.map(name, *args[:2])
        raise LoweringError(str(target))


def _name_of(node: fx.Node) -> str:
    return getattr(getattr(node.target, "overloadpacket", None), "__name__", "")


def _before_rounding(nodes: list[fx.Node], states: list[fx.Node]) -> set[fx.Node]:
    """The nodes that decide how a number is rounded or compared, at this step or a later one.

    For these, the last bit matters, unless it differs anyway: after a product with a matrix, or a function like exp.
    """
    next_states = dict(zip(states, nodes[-1].args[0][1:], strict=False))  # type: ignore[arg-type, index]
    left = [n for n in nodes if _name_of(n) in _ROUNDING or _makes_integers(n)]
    found: set[fx.Node] = set()
    while left:
        node = left.pop()
        if node not in found and _name_of(node) not in _INEXACT:
            found.add(node)
            left += node.all_input_nodes if node not in next_states else [next_states[node]]
    return found


def _makes_integers(node: fx.Node) -> bool:
    return _name_of(node) == "_to_copy" and not node.meta["val"].is_floating_point()


def _check_integers(node: fx.Node) -> None:
    """Refuse operations that behave differently for integers.

    A kernel holds integers as floating-point numbers of its own precision.
    """
    value, with_factor = node.meta.get("val"), node.kwargs.get("alpha", 1) not in (1, -1)
    if not (with_factor or _name_of(node).startswith(("bitwise", "mul", "pow"))) or not isinstance(value, Tensor):
        return
    selects = any(isinstance(a, fx.Node) and a.meta["val"].dtype == torch.bool for a in node.args)
    if not (value.is_floating_point() or value.dtype == torch.bool or selects):
        raise LoweringError(f"{node.target} of integers{' with alpha' if with_factor else ''}")


def _name(result: Any, name: str) -> None:
    if isinstance(result, View) and result.in_order() and not result.value.name:
        result.value.name = name


def _of_attribute(tensor: Tensor) -> Filled:
    if tensor.numel() != 1:
        raise LoweringError("a constant tensor that the derivative creates")
    return Filled(tensor.item(), tuple(tensor.shape))
