"""The cores for which the contract is tested: every file in configs/model, and three that are defined here.

Shapes: B sequences, T time steps, X input features, H hidden units.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin, get_type_hints

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn

from src.models.base import Core, last_step
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.ops.dispatch import Form, Kernel
from src.ops.inputs import Inputs
from src.specs import map_state

FILES = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
B, T, X, H = 3, 7, 4, 6
OF_LINEAR_CORES = {"output_gate", "learned_start", "decay_init"}


class Projected(NamedTuple):
    """The contribution of an input: a vector, and a matrix to be written."""

    vector_BH: Tensor
    matrix_BHH: Tensor


class Pair(NamedTuple):
    """An output and a matrix."""

    h_BH: Tensor
    M_BHH: Tensor


class Nested(Core):
    """A core that uses all that the contract allows: several projected tensors, and a nested state with an integer.

    M_t = 0.9 M_{t-1} + tanh(P x_t), s_t = (s_{t-1} + h_{t-1}) / 2, h_t = tanh(W h_{t-1} + cos(t) M_t h_{t-1} + s_t +
    V x_t), where the matrix tanh(P x_t) and the vector V x_t are the contribution of the input.
    """

    def __init__(self, input_size: int, *, hidden_size: int = 50, kernel: Kernel = "auto"):
        super().__init__(input_size, hidden_size, kernel)
        self.vector = nn.Linear(input_size, hidden_size)
        self.matrix = nn.Linear(input_size, hidden_size**2)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)

    def project(self, x: Tensor) -> Projected:
        return Projected(self.vector(x), self.matrix(x).tanh().unflatten(-1, (self.hidden_size, self.hidden_size)))

    def initial_state(self, batch_size: int) -> dict[str, Any]:
        size = self.hidden_size
        pair = Pair(self.zeros(batch_size, size), self.zeros(batch_size, size, size))
        return {"slow": self.zeros(batch_size, size), "rest": [pair, pair.h_BH.new_zeros(batch_size).long()]}

    def step(self, p: Projected, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        (h_BH, M_BHH), position_B = state["rest"]
        s_BH = (state["slow"] + h_BH) / 2
        M_BHH = 0.9 * M_BHH + p.matrix_BHH
        read_BH = torch.cos(position_B.to(h_BH.dtype))[:, None] * torch.einsum("bij,bj->bi", M_BHH, h_BH)
        h_BH = torch.tanh(self.recurrent(h_BH) + read_BH + s_BH + p.vector_BH)
        return h_BH, {"slow": s_BH, "rest": [Pair(h_BH, M_BHH), position_B + 1]}


class Stack(Core):
    """Fast weights on top of a GRU; the state is that of both, and the fast form computes layer by layer."""

    def __init__(self, input_size: int, *, hidden_size: int = 50, kernel: Kernel = "auto"):
        super().__init__(input_size, hidden_size, kernel)
        self.first = GRU(input_size, hidden_size=hidden_size)
        self.second = FastWeights(hidden_size, hidden_size=hidden_size)

    def project(self, x: Tensor) -> Tensor:
        return self.first.project(x)

    def initial_state(self, batch_size: int) -> tuple:
        return self.first.initial_state(batch_size), self.second.initial_state(batch_size)

    def step(self, p_BP: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        y_BH, first = self.first.step(p_BP, state[0])
        y_BH, second = self.second.step(self.second.project(y_BH), state[1])
        return y_BH, (first, second)

    def forms(self) -> Iterator[Form]:
        yield Form("vectorized", self._layer_by_layer)
        yield from super().forms()

    def _layer_by_layer(
        self, inputs: Inputs, state: tuple | None, return_state: bool, return_sequence: bool
    ) -> tuple[Tensor, tuple | None]:
        first, second = (None, None) if state is None else state
        y_BTH, first = self.first(inputs, first, return_state=return_state)
        above = Inputs(self.second.project(y_BTH), resets=inputs.resets)
        y_BTH, second = self.second(above, second, return_state=return_state)
        return y_BTH if return_sequence else last_step(y_BTH), (first, second) if return_state else None


class Started(Core):
    """A tanh network whose initial state is trained: h_t = tanh(W h_{t-1} + V x_t), h_0 = tanh(s)."""

    def __init__(self, input_size: int, *, hidden_size: int = 50, kernel: Kernel = "auto"):
        super().__init__(input_size, hidden_size, kernel)
        self.input = nn.Linear(input_size, hidden_size)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.start_H = nn.Parameter(torch.randn(hidden_size))

    def project(self, x: Tensor) -> Tensor:
        return self.input(x)

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.tanh(self.start_H).expand(batch_size, self.hidden_size)

    def step(self, p_BH: Tensor, h_BH: Tensor) -> tuple[Tensor, Tensor]:
        h_BH = torch.tanh(self.recurrent(h_BH) + p_BH)
        return h_BH, h_BH


@dataclass(frozen=True)
class Made:
    """The name of a core, and how to build it."""

    name: str
    build: Callable[..., Core]

    def __call__(self, input_size: int = X, **settings: Any) -> Core:
        return self.build(input_size, **{"hidden_size": H, **settings})


@cache
def example(made: Made) -> Core:
    """One core of this kind, built only once, for everything that does not depend on its weights."""
    return made()


@cache
def class_and_settings(file: Path) -> tuple[type[Core], dict[str, Any]]:
    """The class and the settings that a model's file names."""
    settings = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(file)))
    return get_class(settings.pop("_target_")), settings


def of_file(file: Path, **variant: Any) -> Made:
    """The model of a file, with some settings changed."""

    def build(input_size: int, **changed: Any) -> Core:
        kind, settings = class_and_settings(file)
        return kind(input_size, **{**settings, **variant, **changed})

    return Made("-".join([file.stem, *(f"{key}={value}" for key, value in variant.items())]), build)


def keywords(file: Path) -> dict[str, Any]:
    """The keyword-only parameters of the constructor of a file's class, with their defaults."""
    signature = inspect.signature(class_and_settings(file)[0])
    return {name: p.default for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}


def variants(file: Path) -> list[Made]:
    """The file as it is, then every other legal value of every choice, switch and optional key, one at a time.

    `kernel` is not varied, since the tests run every form of every variant. The settings shared by all linear
    recurrences are varied for one of them.
    """
    hints = get_type_hints(class_and_settings(file)[0].__init__)
    made = [of_file(file)]
    for name, default in keywords(file).items():
        values: list[Any] = []
        if name == "kernel" or (name in OF_LINEAR_CORES and file.stem != "deltanet"):
            continue
        for hint in (hints[name], *get_args(hints[name])):
            values += get_args(hint) if get_origin(hint) is Literal else []
            values += [False, True] if hint is bool else []
            values += [None] if hint is NoneType else []
        made += [of_file(file, **{name: value}) for value in values if value != default]
    return made


WRITTEN_HERE = [Made("nested", Nested), Made("stack", Stack), Made("started", Started)]
MODELS = [*(of_file(file) for file in FILES), *WRITTEN_HERE]
VARIANTS = [*(made for file in FILES for made in variants(file)), *WRITTEN_HERE]
WITHOUT_KERNEL = {
    "convnet": "int64",
    "fastweights_multilevel": "int64",
    "attention": "int64",
    "fastweights_softmax": "int64",
    "ttt_linear": "int64",
    "mesanet": "linalg_solve",
}
"""Cores whose step cannot be lowered, with the reason; for them, kernel="fused" is an error."""


def each_with_kernels(models: list[Made]) -> list[tuple[Made, Kernel]]:
    """Every model with every kernel that it has; "auto" is "fused" where there is one."""
    kernels: tuple[Kernel, ...] = ("auto", "vectorized", "reference")
    return [
        (made, kernel)
        for made in models
        for kernel in kernels
        if kernel == "auto" or kernel in [form.kernel for form in example(made).forms()]
    ]


def random_state(core: Core, batch_size: int = B) -> Any:
    """A random state, as in the middle of a sequence."""
    return map_state(
        lambda tensor: tensor.detach() + (0.3 * torch.randn_like(tensor) if tensor.is_floating_point() else 2),
        core.initial_state(batch_size),
    )
