"""Steps as users write them: those with a kernel, and those for which there is none.

Shapes: B sequences, X input features, H hidden units, K slots.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.models.base import Core
from src.models.gru import GRU
from src.models.rnn import RNN
from src.ops.dispatch import Kernel

X, H, K = 7, 6, 4


class Cell(Core):
    """Parameters and buffers for the steps below, and one vector as state."""

    features = H
    """The number of features of the projected input."""

    def __init__(self, kernel: Kernel = "auto"):
        super().__init__(X, H, kernel)
        self.input = nn.Linear(X, self.features)
        self.W = nn.Linear(H, H)
        self.V = nn.Linear(H, K)
        self.E_KH = nn.Parameter(0.5 * torch.randn(K, H))
        self.T_3HH = nn.Parameter(0.3 * torch.randn(3, H, H))
        self.rate_H = nn.Parameter(0.3 * torch.randn(H))
        self.gain = nn.Parameter(torch.tensor(0.8))
        self.register_buffer("mask_H", (torch.arange(H) % 2).to(torch.get_default_dtype()))
        self.register_buffer("is_odd_H", torch.arange(H) % 2 == 1)
        self.register_buffer("order_H", torch.tensor([2, 0, 1, 5, 4, 3]))

    def project(self, x: Tensor) -> Any:
        return self.input(x)

    def initial_state(self, batch_size: int) -> Any:
        return self.zeros(batch_size, H)


LOWERED: list[type[Cell]] = []
REFUSED: dict[type[Cell], str] = {}
"""Cells whose step has no kernel, each with a part of the reason."""


def lowered(function: Callable) -> Callable:
    """Add a cell with this step, whose only state is its output."""

    def step(self: Cell, p: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y = function(self, p, h)
        return y, y

    LOWERED.append(type(function.__name__, (Cell,), {"step": step, "__module__": __name__}))
    return function


def lowered_cell(cell: type[Cell]) -> type[Cell]:
    """Add a cell that defines its own state."""
    LOWERED.append(cell)
    return cell


def refused(reason: str) -> Callable[[Callable], Callable]:
    """Add a cell with this step, for which there is no kernel."""

    def register(function: Callable) -> Callable:
        REFUSED[type(function.__name__, (Cell,), {"step": function, "__module__": __name__})] = reason
        return function

    return register


@lowered
def softmax_over_slots(self, p, h):
    return torch.tanh(torch.softmax(self.V(h), 1) @ self.E_KH + p)


@lowered
def log_of_a_sum_of_exponentials(self, p, h):
    return torch.tanh(p + self.W(h) - torch.logsumexp(h, 1, keepdim=True))


@lowered
def product_with_the_input_added_to_the_state(self, p, h):
    return torch.tanh(h + self.W(p))


@lowered
def product_with_the_input_added_to_some_units(self, p, h):
    h = h.clone()
    h[:, :K].add_(self.V(p))
    return torch.tanh(h)


@lowered
def gelu(self, p, h):
    return functional.gelu(self.W(h) + p)


@lowered
def gelu_by_tanh(self, p, h):
    return functional.gelu(self.W(h) + p, approximate="tanh")


@lowered
def silu_and_softplus(self, p, h):
    return functional.silu(self.W(h) + p) + 0.1 * functional.softplus(h)


@lowered
def elu_and_leaky_relu(self, p, h):
    return functional.elu(self.W(h) + p) + 0.1 * functional.leaky_relu(h)


@lowered
def mish_and_log_of_a_sigmoid(self, p, h):
    return functional.hardtanh(self.W(h)) * functional.mish(p) + functional.logsigmoid(h)


@lowered
def gated_linear_unit(self, p, h):
    return functional.glu(torch.cat([self.W(h), p], 1), 1)


@lowered
def trainable_average(self, p, h):
    decay_H = torch.exp(-functional.softplus(self.rate_H))
    return decay_H * h + (1 - decay_H) * self.gain * p


@lowered
def tensor_rnn(self, p, h):
    return torch.tanh(torch.einsum("bi,kij,bk->bj", h, self.T_3HH, p[:, :3]) + p)


@lowered
def unit_length(self, p, h):
    return functional.normalize(self.W(h) + p, dim=1)


@lowered
def length_and_spread_of_nothing(self, p, h):
    nothing = 0 * (self.W(h) + p)
    spread_B1 = nothing.norm(dim=1, keepdim=True) + nothing.std(1, keepdim=True)
    return torch.tanh(self.W(h) + p / (1 + spread_B1)) + functional.normalize(nothing, dim=1)


@lowered
def root_mean_square_norm(self, p, h):
    a = self.W(h) + p
    return a * torch.rsqrt(a.pow(2).mean(1, keepdim=True) + 1e-5) * (1 + self.rate_H)


@lowered
def layer_norm_without_weights(self, p, h):
    return torch.tanh(functional.layer_norm(self.W(h) + p, (H,)))


@lowered
def mean_and_variance(self, p, h):
    a = self.W(h) + p
    return (a - a.mean(1, keepdim=True)) / (a.var(1, keepdim=True) + 0.1).sqrt()


@lowered
def concatenation(self, p, h):
    both_H2 = torch.cat([self.W.weight, self.W.weight.t()], 1)  # the weight is used twice
    return torch.tanh(functional.linear(torch.cat([h, p], 1), both_H2))


@lowered
def rolled(self, p, h):
    return torch.tanh(torch.roll(h, 1, 1) + p)


@lowered
def flipped(self, p, h):
    return torch.tanh(self.gain * h.flip(1) + p)


@lowered
def largest_of_a_stack(self, p, h):
    return torch.tanh(torch.stack([self.W(h), p, 0.5 * h], 2).amax(2))


@lowered
def maximum_and_clamp(self, p, h):
    return torch.maximum(0.5 * self.W(h), p).clamp(-1, 1) + 0.1 * torch.minimum(h, p).clamp(min=-0.3)


@lowered
def where_the_input_is_positive(self, p, h):
    return torch.where(p > 0, torch.tanh(self.W(h)), self.mask_H * h + p)


@lowered
def where_a_buffer_says(self, p, h):
    return torch.where(self.is_odd_H, torch.tanh(self.W(h) + p), h)


@lowered
def comparisons(self, p, h):
    a = self.W(h)
    inside = (a > -0.5) & (a <= 0.5) | ~(p >= h)
    return torch.tanh(inside * a + (p < 0.2).to(a.dtype) * p)


@lowered
def comparisons_of_conditions(self, p, h):
    a, b = p > 0, self.W(h) > 0
    rises, both = (a > b) | ((a <= b) == 0), (a == b) & (a != self.is_odd_H)
    return torch.tanh(p + h * rises + 2 * p * both + torch.where(a, b, False) + torch.where(b, self.is_odd_H, a == 1))


@lowered
def order_of_a_list(self, p, h):
    return torch.tanh(h[:, [2, 0, 1, 5, 4, 3]] + p)


@lowered
def order_of_a_buffer(self, p, h):
    return torch.tanh(self.W(h)[:, self.order_H] + p)


@lowered
def the_same_unit_twice(self, p, h):
    return torch.tanh(h[:, [0, 0, 1, 1, 5, 5]] * p + p)


@lowered
def attention_of_heads(self, p, h):
    q, k, v = (t.view(-1, 2, 3) for t in (self.W(h), p, h))
    weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / 3**0.5, -1)
    return torch.tanh((weights @ v).flatten(1) + p)


@lowered
def linear_of_each_head(self, p, h):
    return torch.tanh(functional.linear(h.view(-1, 2, 3), self.E_KH[:3, :3]).flatten(1) + p)


@lowered
def in_place(self, p, h):
    a = self.W(h)
    a += p
    a.tanh_()
    y = a.clone()
    y[:, 0] = h[:, 0]
    y[:, 2:4] *= 0.5
    return y


@lowered
def powers_and_roots(self, p, h):
    length_B1 = (self.V(h).square().sum(1, keepdim=True) + 0.01).sqrt()
    return torch.tanh(p) * (h.abs() + 0.1).pow(0.3) + length_B1 * (0.5 * p**3).tanh() + 0.1 / (1 + h**2)


@lowered
def sine_and_cosine(self, p, h):
    return torch.sin(self.W(h)) + torch.cos(p)


@lowered
def log_softmax(self, p, h):
    return torch.log_softmax(self.W(h) + p, 1)


@lowered
def inner_steps(self, p, h):
    y = torch.tanh(p)
    for _ in range(3):
        y = torch.tanh(self.W(y) + 0.5 * h + p)
    return y


@lowered
def pieces_of_a_vector(self, p, h):
    first, second = h.chunk(2, 1)
    a, b = p.split([2, 4], 1)
    c, d = self.W(h).view(-1, 2, 3).unbind(1)
    return torch.tanh(torch.cat([second * c, first + d], 1) + torch.cat([b, a], 1))


@lowered
def transposed(self, p, h):
    p_B32, h_B23 = p.view(-1, 2, 3).transpose(1, 2), h.view(-1, 2, 3)
    return torch.tanh((p_B32.permute(0, 2, 1) + h_B23).flip(2).transpose(1, 2).reshape(-1, H) + self.rate_H)


@lowered
def absolute_value_sign_and_relu(self, p, h):
    a = self.W(h) + p
    return torch.relu(a) - 0.3 * a.abs() + 0.1 * torch.sign(p) * h


@lowered
def division_exponential_and_logarithm(self, p, h):
    a = torch.exp(-self.W(h).square())
    return torch.log1p(a) / (1 + p.abs()) + torch.log(a + 1) * torch.expm1(-p.square()) + torch.reciprocal(2 + a)


@lowered
def interpolation(self, p, h):
    gate = torch.sigmoid(self.W(h) + p)
    return torch.lerp(h, torch.tanh(p), gate) + 0.1 * torch.lerp(p, h, 0.3)


@lowered
def fused_multiply_add(self, p, h):
    a = torch.addcmul(torch.addmm(p, h, self.W.weight, beta=0.5, alpha=0.3), self.gain, self.W(h), value=0.5)
    one_step_BHH = p[:, :, None] * h[:, None, :]
    return torch.tanh(torch.baddbmm(a[:, :, None], one_step_BHH, h[:, :, None], beta=0.5, alpha=0.3).squeeze(2))


@lowered
def error_function(self, p, h):
    return torch.erf(self.W(h) + p) + 0.1 * torch.rsqrt(1 + h.square())


@lowered
def sums_over_several_dimensions(self, p, h):
    total_B1 = (h.view(-1, 2, 3) * self.gain).sum((1, 2))[:, None]
    return torch.tanh(p * total_B1 / H + (h * p).sum(1, keepdim=True) - self.T_3HH.sum((0, 2)) + p.amin(1, True))


@lowered
def product_with_a_sum_of_weights(self, p, h):
    symmetric_HH = (self.W.weight + self.W.weight.t()) / 2
    return torch.tanh(h @ symmetric_HH + p + self.W.bias)


@lowered
def bias_only(self, p, h):
    return torch.tanh(h * self.mask_H + p + self.W.bias)


@lowered
def outer_product_with_itself(self, p, h):
    return torch.tanh(torch.einsum("bi,bj,ij->bj", h, p, self.W.weight) + p)


@lowered_cell
class TwoStates(Cell):
    """States of different shapes, neither of which is the output."""

    def initial_state(self, batch_size):
        return self.zeros(batch_size, H), self.zeros(batch_size, 2, K)

    def step(self, p, state):
        h, slots_B2K = state
        slots_B2K = 0.9 * slots_B2K + torch.stack([self.V(h), self.V(p)], 1).tanh()
        h = torch.tanh(p + slots_B2K.mean(1) @ self.E_KH)
        return self.W(h), (h, slots_B2K)


@lowered_cell
class DeltaRule(Cell):
    """M = M + β (v - M k) kᵀ, y = M q."""

    features = 3 * H + 1

    def initial_state(self, batch_size):
        return self.zeros(batch_size, H, H)

    def step(self, p, M_BHH):
        q, k, v, beta = p.split([H, H, H, 1], 1)
        k = functional.normalize(k, dim=1)
        wrong = v - torch.einsum("bij,bj->bi", M_BHH, k)
        M_BHH = M_BHH + torch.sigmoid(beta)[:, :, None] * wrong[:, :, None] * k[:, None, :]
        return torch.bmm(M_BHH, q[:, :, None])[:, :, 0], M_BHH


@lowered_cell
class ScalarState(Cell):
    """A state with one number per sequence besides a vector."""

    def initial_state(self, batch_size):
        return {"h": self.zeros(batch_size, H), "level": self.zeros(batch_size)}

    def step(self, p, state):
        level = 0.9 * state["level"] + torch.sigmoid(p).mean(1)
        h = torch.tanh(self.W(state["h"]) + p) * level[:, None]
        return h, {"h": h, "level": level}


class Projected(NamedTuple):
    """The contribution of the input."""

    vector: Tensor
    matrix: Tensor
    gate: Tensor


@lowered_cell
class SeveralInputs(Cell):
    """A vector, a matrix and one number as inputs."""

    features = H + H * H + 1

    def project(self, x):
        vector, matrix, gate = self.input(x).split([H, H * H, 1], -1)
        return Projected(vector, matrix.tanh().unflatten(-1, (H, H)), gate.sigmoid().squeeze(-1))

    def step(self, p, h):
        read = torch.einsum("bij,bj->bi", p.matrix, h)
        h = torch.tanh(self.W(h) + p.gate[:, None] * read + p.vector)
        return h, h


@lowered_cell
class TrainableStart(Cell):
    """The initial state is a parameter."""

    def __init__(self, kernel="auto"):
        super().__init__(kernel)
        self.start_H = nn.Parameter(torch.randn(H))

    def initial_state(self, batch_size):
        return torch.tanh(self.start_H).expand(batch_size, H)

    def step(self, p, h):
        h = torch.tanh(self.W(h) + p)
        return h, h


@lowered_cell
class TwoLayers(Cell):
    """A GRU under an RNN with layer norm."""

    def __init__(self, kernel="auto"):
        super().__init__(kernel)
        self.first = GRU(H, hidden_size=5)
        self.second = RNN(5, hidden_size=H, layer_norm=True)

    def initial_state(self, batch_size):
        return self.first.initial_state(batch_size), self.second.initial_state(batch_size)

    def step(self, p, state):
        y, first = self.first.step(self.first.project(p), state[0])
        y, second = self.second.step(self.second.project(y), state[1])
        return y, (first, second)


@lowered_cell
class AnotherOutput(Cell):
    """An output with a size of its own, which is not part of the state."""

    @property
    def output_size(self):
        return K

    def step(self, p, h):
        h = torch.sigmoid(self.W(h) + p)
        return self.V(h * p), h


@lowered_cell
class InputAsOutput(Cell):
    """The output is the state before the step, and the next state is the input itself."""

    def step(self, p, h):
        return h, p


@lowered_cell
class WithoutState(Cell):
    """A network that forgets everything."""

    def step(self, p, h):
        y = torch.tanh(self.W(p))
        return y, torch.zeros_like(h)


@lowered_cell
class DetachedState(Cell):
    """No gradient flows back in time."""

    def step(self, p, h):
        h = torch.tanh(self.W(h) + p)
        return h, h.detach()


@lowered
def sums_of_stacked_values(self, p, h):
    both_B2H = torch.stack([torch.tanh(self.W(h) + p), torch.sigmoid(h * p)], 1)
    halves_B2K3 = torch.stack([h.unflatten(1, (2, 3)), p.unflatten(1, (2, 3))], 2)
    return torch.tanh(both_B2H.sum(2) @ self.E_KH[:2] + halves_B2K3.sum(1).flatten(1) + both_B2H.mean(1))


@lowered
def sums_of_joined_values_of_several_lengths(self, p, h):
    joined_B32 = torch.cat([torch.tanh(p).unflatten(1, (3, 2))[:, :1], h.unflatten(1, (3, 2))[:, 1:]], 1)
    return torch.tanh(joined_B32.sum(2).repeat_interleave(2, 1) + joined_B32.mean(1).repeat(1, 3) + self.W(p))


@lowered
def permuted_values_of_a_stack(self, p, h):
    both_B2H = torch.stack([torch.tanh(h), torch.sigmoid(p)], 1)[..., self.order_H]
    twice_B22H = torch.stack([both_B2H, both_B2H.flip(1)], 2)[..., torch.stack([self.order_H, self.order_H.flip(0)])]
    return torch.tanh(self.W(twice_B22H.movedim(-2, 1).square().sum((1, 2, 3))) + p)


@lowered
def pieces_of_one_value_side_by_side(self, p, h):
    y = torch.tanh(self.W(h) + p)
    return torch.cat([y[:, :2], y[:, 2:5], y[:, 5:]], 1) * torch.cat([p[:, 3:], p[:, :3]], 1)


@lowered
def sums_of_two_sums(self, p, h):
    a_BHH, b_BHH = h[:, :, None] * p[:, None, :], torch.tanh(h)[:, :, None] * self.W.weight
    return torch.tanh(a_BHH.sum(1) + b_BHH.sum(1) + self.W(p))


@lowered
def log_of_a_sum_of_two_exponentials(self, p, h):
    return torch.tanh(torch.logaddexp(self.W(h), p))


@lowered
def cumulative_sum(self, p, h):
    return torch.tanh(torch.cumsum(h, 1) + p)


@lowered
def cumulative_sum_of_columns(self, p, h):
    return torch.tanh(torch.cumsum(h.view(-1, 3, 2), 1).flatten(1) + self.W(p).cumsum(-1).flip(1))


@lowered
def largest_three(self, p, h):
    values_B3, order_B3 = torch.topk(self.W(h) + p, 3, 1)
    return torch.tanh(p + values_B3.repeat(1, 2) + 0.1 * order_B3.to(p.dtype).sum(1, keepdim=True))


@lowered
def smallest_two_of_each_column(self, p, h):
    values_B22 = torch.topk((self.W(h) + p).view(-1, 3, 2), 2, 1, largest=False).values
    return torch.tanh(p + values_B22.flatten(1).repeat(1, 2)[:, :H])


@lowered
def winner_takes_all(self, p, h):
    a = self.W(h) + p
    return torch.tanh(a) * functional.one_hot(a.argmax(1), H)


@lowered
def largest_and_smallest_with_their_places(self, p, h):
    most, least = self.V(h).max(1), (self.W(h) + p).view(-1, 2, 3).min(2, keepdim=True)
    places_B = most.indices + self.V(p).argmin(1)
    return torch.tanh(p + (most.values + places_B)[:, None] + least.values.sum(1) * least.indices.sum(1))


@lowered
def gathered_by_data(self, p, h):
    place_B2 = torch.stack([self.W(h).argmax(1), self.V(p).argmax(1)], 1)
    chosen_B2 = torch.take_along_dim(h, place_B2, 1) * torch.gather(p, 1, place_B2)
    return torch.tanh(p + chosen_B2.repeat(1, 3))


@lowered
def embedding_of_a_choice(self, p, h):
    return torch.tanh(functional.embedding(self.V(h).argmax(1), self.E_KH) + p)


@lowered
def rounded_numbers(self, p, h):
    a = 3 * self.W(h)
    parts = a.floor() + a.ceil() * p + a.round() + a.trunc() + a.int() + torch.remainder(a, 0.7)
    return torch.tanh(parts + p + torch.div(a, 0.6, rounding_mode="floor") + torch.div(a, 0.6, rounding_mode="trunc"))


@lowered_cell
class Counter(Cell):
    """A clockwork: each unit changes only at every third step."""

    def initial_state(self, batch_size):
        return self.zeros(batch_size, H), torch.zeros(batch_size, dtype=torch.int64)

    def step(self, p, state):
        h, count_B = state
        ticks_BH = (count_B[:, None] + self.order_H) % 3 == 0
        h = torch.where(ticks_BH, torch.tanh(self.W(h) + p / (1 + count_B[:, None])), h)
        return h, (h, count_B + 1)


@lowered_cell
class Pointer(Cell):
    """A pointer that the input moves across slots, and a record of the slots that it has visited."""

    def initial_state(self, batch_size):
        place_B, visited_BK = torch.ones(batch_size, dtype=torch.int64), torch.zeros(batch_size, K, dtype=torch.bool)
        return self.zeros(batch_size, K), place_B, visited_BK

    def step(self, p, state):
        slots_BK, place_B, visited_BK = state
        place_B = (place_B + torch.where(p[:, 0] > 0, 1, -1)) % K
        here_BK = functional.one_hot(place_B, K).bool()
        slots_BK = torch.where(here_BK, torch.tanh(self.V(p)), slots_BK)
        read_B1 = torch.gather(slots_BK, 1, place_B[:, None])
        visited_BK = visited_BK | here_BK
        y = torch.tanh(read_B1 * p + (slots_BK * visited_BK) @ self.E_KH)
        return y, (slots_BK, place_B, visited_BK)


@lowered_cell
class Clock(Cell):
    """Quotients of a step count, which multiplication by an inverse would make slightly too small."""

    def initial_state(self, batch_size):
        return self.zeros(batch_size, H), torch.full((batch_size, 1), 39), torch.ones(batch_size, 1, dtype=torch.int64)

    def step(self, p, state):
        h, count_B1, quotient_B1 = state
        count_B1 = count_B1 + 1
        parts = torch.div(count_B1, 41, rounding_mode="trunc") - torch.div(-count_B1, 41, rounding_mode="floor")
        h = torch.tanh(self.W(h) + p * (1 + quotient_B1) + parts)
        return h, (h, count_B1, count_B1 // 41)


@lowered_cell
class Quotients(Cell):
    """A step count with quotients whose last bit matters, in the same step or in the next one."""

    def initial_state(self, batch_size):
        return self.zeros(batch_size, H), torch.full((batch_size, 1), 46), self.zeros(batch_size, 1)

    def step(self, p, state):
        h, count_B1, quotient_B1 = state
        count_B1 = count_B1 + 1
        ones_BH = torch.floor((count_B1 + 0 * self.order_H) / count_B1)
        whole_B49 = count_B1.to(p.dtype).expand(-1, 49)
        parts = torch.floor(count_B1 / 49) + (torch.ceil(p.abs()[:, :1]) / 49 * 49 >= 1) + torch.floor(quotient_B1)
        h = torch.tanh(self.W(h) + p * (ones_BH + parts) - torch.trunc(whole_B49.mean(1, keepdim=True) / 8))
        return h, (h, count_B1, count_B1 / 49)


@lowered_cell
class Newest(Cell):
    """Two slots, read in the order of their scores, which are -inf at first."""

    def initial_state(self, batch_size):
        return self.zeros(batch_size, 2, H), torch.full((batch_size, 2), -torch.inf)

    def step(self, p, state):
        slots_BKH, score_BK = state
        slots_BKH = torch.cat([torch.tanh(p)[:, None], slots_BKH[:, :-1] + 0.1], 1)
        score_BK = torch.cat([p[:, :1], score_BK[:, :-1]], 1)
        best_B2 = score_BK.topk(2, 1).indices
        read_B2H = torch.gather(slots_BKH, 1, best_B2[:, :, None].expand(-1, -1, H))
        return read_B2H[:, 0] - 2 * read_B2H[:, 1], (slots_BKH, score_BK)


@refused("aten.sort")
def sorted_units(self, p, h):
    y = torch.tanh(torch.sort(h, 1).values + p)
    return y, y


@refused("aten.sort")
def transposed_and_sorted(self, p, h):
    h = h.t().t()  # aten.t, whose name "t" is contained in "sort"
    y = torch.tanh(torch.sort(h, 1).values + p)
    return y, y


@refused("chooses among equal numbers")  # those of the first state, from which torch takes the last ones
def largest_two_of_the_state(self, p, h):
    y = torch.tanh(p + h.topk(2, 1).values.sum(1, keepdim=True))
    return y, y


@refused("aten.topk of 18; at most 16")
def largest_eighteen(self, p, h):
    y = torch.tanh(p + torch.cat([h, p, self.W(h)], 1).topk(18, 1).values.sum(1, keepdim=True))
    return y, y


@refused("aten.index with indices that depend on the sequence")
def indexed_by_data(self, p, h):
    y = torch.tanh(p + self.E_KH[self.V(h).argmax(1)])
    return y, y


@refused("aten.index with a mask")
def indexed_by_a_mask(self, p, h):
    y = torch.tanh(p + h[:, self.is_odd_H].sum(1, keepdim=True))
    return y, y


@refused("aten.scatter")
def scattered_by_data(self, p, h):
    y = torch.tanh(p + h.scatter(1, h.argmax(1, keepdim=True), 0.5))
    return y, y


@refused("aten.bitwise_and.Scalar of integers")
def bits_of_an_integer(self, p, h):
    y = torch.tanh(p + (h.argmax(1, keepdim=True) & 1))
    return y, y


@refused("aten.add.Tensor of integers with alpha")
def multiple_of_an_integer(self, p, h):
    y = torch.tanh(p + torch.add(h.argmax(1, keepdim=True), p.argmax(1, keepdim=True), alpha=6))
    return y, y


@refused("aten.mul.Tensor of integers")
def product_of_integers(self, p, h):
    y = torch.tanh(p + h.argmax(1, keepdim=True) * p.argmax(1, keepdim=True))
    return y, y


@refused("aten.convolution")
def convolution(self, p, h):
    y = torch.tanh(functional.conv1d(h[:, None], self.E_KH[:1, :3][:, None], padding=1)[:, 0] + p)
    return y, y


@refused("complex")
def complex_numbers(self, p, h):
    z = torch.view_as_complex(h.view(-1, 3, 2).contiguous())
    y = torch.tanh(torch.view_as_real(z * z).flatten(1) + p)
    return y, y


@refused("solve")
def system_of_equations(self, p, h):
    matrix_HH = torch.eye(H, dtype=h.dtype) + 0.1 * h[:, :, None] * p[:, None, :]
    y = torch.tanh(torch.linalg.solve(matrix_HH, h[:, :, None])[:, :, 0] + p)
    return y, y


@refused("data-dependent")
def decision_by_values(self, p, h):
    y = torch.tanh(self.W(h) + p)
    if y.abs().max() > 10:
        y = y * 0
    return y, y


@refused("mixes sequences")
def mean_over_the_batch(self, p, h):
    y = torch.tanh(self.W(h) + p - p.mean(0))
    return y, y


@refused("bernoulli")
def dropout(self, p, h):
    y = torch.tanh(functional.dropout(self.W(h), 0.5, self.training) + p)
    return y, y


class EmptyState(Cell):
    """A state with a part that has no numbers."""

    def initial_state(self, batch_size):
        return self.zeros(batch_size, H), self.zeros(batch_size, 0, H)

    def step(self, p, state):
        h, nothing = state
        h = torch.tanh(self.W(h) + p)
        return h, (h, nothing)


REFUSED[EmptyState] = "an empty input or state"
