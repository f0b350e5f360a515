r"""Back-propagation through time in Jacobian form, computed with Kronecker products.

A Jacobian is J_x y = ∂y/∂xᵀ and a gradient its transpose; for matrices, DF(X) = ∂vec F/∂(vec X)ᵀ, where vec stacks the
columns of a matrix (Magnus and Neudecker, Matrix Differential Calculus). Everything is in float64.

Shapes: T time steps, M hidden units, N input features, K classes; MM is a matrix from M to M units; an array with
T1 = T + 1 entries starts with the state before the first step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from src.models.fastweights import FastWeights

Array = NDArray[np.float64]
Gradient = dict[str, Array]


class Network(NamedTuple):
    """The network of the report: a_t = b + W h_{t-1} + U x_t, h = tanh(a), o = c + V h, ŷ = softmax(o)."""

    W_MM: Array
    U_MN: Array
    b_M: Array
    V_KM: Array
    c_K: Array
    h0_M: Array


class Pass(NamedTuple):
    """The values of a forward pass; h[t] is the state after t steps, and a[t] the sum in step t + 1."""

    x_TN: Array
    y_K: Array
    a_TM: Array
    h_T1M: Array
    o_K: Array
    prediction_K: Array


def random_network(seed: int, M: int = 5, N: int = 4, K: int = 3, zero_start: bool = False) -> Network:
    """Gaussian weights, with standard deviation 1/sqrt(M) for W and 1 for all others; h_0 is Gaussian or zero."""
    draw = np.random.default_rng(seed).standard_normal
    W_MM, U_MN, V_KM = draw((M, M)) / np.sqrt(M), draw((M, N)), draw((K, M))
    b_M, c_K, h0_M = draw(M), draw(K), draw(M)
    return Network(W_MM, U_MN, b_M, V_KM, c_K, 0 * h0_M if zero_start else h0_M)


def run_forward(network: Network, x_TN: Array, y_K: Array) -> Pass:
    """Compute the states of all steps and the prediction at the last step."""
    a, h = [], [network.h0_M]
    for x_N in x_TN:
        a.append(network.b_M + network.W_MM @ h[-1] + network.U_MN @ x_N)
        h.append(np.tanh(a[-1]))
    o_K = network.c_K + network.V_KM @ h[-1]
    return Pass(x_TN, y_K, np.array(a), np.array(h), o_K, softmax(o_K))


def tanh_jacobian(a_M: Array) -> Array:
    """J_a tanh(a) = diag(1 - tanh²(a))."""
    return np.diag(1 - np.tanh(a_M) ** 2)


class Chain(NamedTuple):
    """The factors of the chain rule for E_T = -Σ_k y_k ln ŷ_k at the last step, in the order of multiplication.

    The defaults are correct. Each printed form is this chain with one factor replaced.
    """

    loss_by_prediction: Callable[[Pass], Array] = lambda p: -(p.y_K / p.prediction_K)
    prediction_by_logits: Callable[[Pass], Array] = lambda p: (
        np.diag(p.prediction_K) - np.outer(p.prediction_K, p.prediction_K)
    )
    logits_by_state: Callable[[Array], Array] = lambda V_KM: V_KM
    state_by_sum: Callable[[Pass, int], Array] = lambda p, t: tanh_jacobian(p.a_TM[t])
    first_step_back: Callable[[Array, Array, Array], Array] = lambda W_MM, now_MM, before_MM: W_MM @ before_MM
    """The factor from δ of the last step to δ of the step before; `now` and `before` are the tanh Jacobians of both."""
    step_back: Callable[[Array, Array, Array], Array] = lambda W_MM, now_MM, before_MM: W_MM @ before_MM
    """The same factor for all earlier steps."""
    sum_by_W: Callable[[Pass, int], Array] = lambda p, t: np.kron(p.h_T1M[t][None], np.eye(p.h_T1M.shape[1]))
    """J_W a_τ = h_{τ-1}ᵀ ⊗ I, the immediate Jacobian, for t = τ - 1."""
    first: int = 0
    """Index of the step at which the sum over time starts."""


def deltas(network: Network, p: Pass, chain: Chain) -> Array:
    """δ_τ = J_{a_τ} E for all steps: δ_T = (ŷ - y)ᵀ V diag(f'(a_T)), δ_τ = δ_{τ+1} W diag(f'(a_τ))."""
    last = len(p.a_TM) - 1
    through_softmax_K = chain.loss_by_prediction(p) @ chain.prediction_by_logits(p)
    rows = [through_softmax_K @ chain.logits_by_state(network.V_KM) @ chain.state_by_sum(p, last)]
    for t in range(last - 1, -1, -1):
        step_back = chain.first_step_back if t == last - 1 else chain.step_back
        rows.append(rows[-1] @ step_back(network.W_MM, chain.state_by_sum(p, t + 1), chain.state_by_sum(p, t)))
    return np.array(rows[::-1])


def gradient(network: Network, p: Pass, chain: Chain | None = None) -> Gradient:
    """J_W E = Σ_τ δ_τ (h_{τ-1}ᵀ ⊗ I), J_U E = Σ_τ δ_τ (x_τᵀ ⊗ I), J_b E = Σ_τ δ_τ, in the shapes of W, U and b."""
    chain = chain or Chain()
    delta_TM = deltas(network, p, chain)
    steps = range(chain.first, len(delta_TM))
    eye_MM = np.eye(len(network.b_M))
    by_W = sum(delta_TM[t] @ chain.sum_by_W(p, t) for t in steps)
    by_U = sum(delta_TM[t] @ np.kron(p.x_TN[t][None], eye_MM) for t in steps)
    return {
        "W": unvec(by_W, network.W_MM.shape),
        "U": unvec(by_U, network.U_MN.shape),
        "b": delta_TM[chain.first :].sum(0),
    }


def unvec(vector: Any, shape: tuple[int, ...]) -> Array:
    """The matrix whose stacked columns are the vector."""
    return np.asarray(vector).reshape(shape, order="F")


def total_jacobians(network: Network, p: Pass, sum_by_W: Callable[[Pass, int], Array]) -> list[Array]:
    """The total J_W a_τ = immediate J_W a_τ + W diag(f'(a_{τ-1})) J_W a_{τ-1} of all steps, forward through time."""
    totals = [sum_by_W(p, 0)]
    for t in range(1, len(p.a_TM)):
        totals.append(sum_by_W(p, t) + network.W_MM @ tanh_jacobian(p.a_TM[t - 1]) @ totals[-1])
    return totals


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(prediction_K: torch.Tensor, y_K: torch.Tensor) -> torch.Tensor:
    """E = -Σ_k y_k ln ŷ_k."""
    return -(y_K * prediction_K.log()).sum()


def autograd_gradient(network: Network, p: Pass, loss: Loss = cross_entropy) -> Gradient:
    """The same gradients, and the one for h_0, by automatic differentiation of the network."""
    W_MM, U_MN, b_M, V_KM, c_K, h_M = (torch.tensor(array, requires_grad=True) for array in network)
    start_M = h_M
    for x_N in torch.tensor(p.x_TN):
        h_M = torch.tanh(b_M + W_MM @ h_M + U_MN @ x_N)
    E = loss(torch.softmax(c_K + V_KM @ h_M, 0), torch.tensor(p.y_K))
    found = torch.autograd.grad(E, [W_MM, U_MN, b_M, start_M])
    return {name: tensor.numpy() for name, tensor in zip(("W", "U", "b", "h0"), found, strict=True)}


def relative_error(found: Array, right: Array) -> float:
    """‖found - right‖ / ‖right‖."""
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


class FastPass(NamedTuple):
    """The values of a forward pass through fast weights with one read per step (S = 1)."""

    p_TM: Array
    h_T1M: Array
    A_TMM: Array
    z_TM: Array
    q_TM: Array
    """The preliminary state f(z)."""
    normalized_TM: Array
    deviation_T: Array
    sum_TM: Array
    """The argument of f in h = f(sum)."""


def run_fast_weights(core: FastWeights, p_TM: Array) -> FastPass:
    """A_t = λ A_{t-1} + η h_{t-1} h_{t-1}ᵀ, z_t = W h_{t-1} + p_t, q_t = f(z_t), h_t = f(LN[z_t + A_t q_t])."""
    W_MM, f = core.recurrent.weight.detach().numpy(), _nonlinearity(core)[0]
    M = len(W_MM)
    h, A_MM, saved = [np.zeros(M)], np.zeros((M, M)), []
    for p_M in p_TM:
        A_MM = core.decay * A_MM + core.fast_lr * np.outer(h[-1], h[-1])
        z_M = W_MM @ h[-1] + p_M
        q_M = f(z_M)
        u_M = z_M + A_MM @ q_M
        normalized_M, deviation, sum_M = u_M, 1.0, u_M
        if isinstance(core.norm, torch.nn.LayerNorm):
            gain_M, bias_M = core.norm.weight.detach().numpy(), core.norm.bias.detach().numpy()
            deviation = np.sqrt(u_M.var() + core.norm.eps)
            normalized_M = (u_M - u_M.mean()) / deviation
            sum_M = gain_M * normalized_M + bias_M
        h.append(f(sum_M))
        saved.append((A_MM, z_M, q_M, normalized_M, deviation, sum_M))
    A, z, q, normalized, deviations, sums = (np.array(column) for column in zip(*saved, strict=True))
    return FastPass(p_TM, np.array(h), A, z, q, normalized, deviations, sums)


def fast_weights_gradient(
    core: FastWeights, p: FastPass, by_h_M: Array, through_memory: bool = True, symmetric: bool = True
) -> Gradient:
    """The gradient of a loss with J_{h_T} E = `by_h_M`, for W, the inputs p and the layer norm's gain and bias.

    Going back from step t, with u_t = z_t + A_t q_t:

        J_u E         = J_h E diag(f') J_u LN           J_u LN = diag(g) (I - 11ᵀ/M - nnᵀ/M) / σ, n the normalized sum
        J_z E         = J_u E (I + A_t diag(f'(z_t)))   z enters both the sum and the query
        J_{A_t} E     = J_u E (q_tᵀ ⊗ I) + λ J_{A_{t+1}} E
        J_{h_{t-1}} E = J_z E W + J_{A_t} E · η (h_{t-1} ⊗ I + I ⊗ h_{t-1})
        J_W E         = Σ_t J_{z_t} E (h_{t-1}ᵀ ⊗ I)

    Args:
        core: fast weights with S = 1 and the sustained boundary condition.
        p: forward pass of the core.
        by_h_M: J_{h_T} E.
        through_memory: whether the gradient flows through A to the states that were written into it; otherwise A is
            treated as a constant.
        symmetric: whether both factors of h hᵀ are differentiated; otherwise only the left one.
    """
    W_MM, derivative = core.recurrent.weight.detach().numpy(), _nonlinearity(core)[1]
    M = len(W_MM)
    eye_MM = np.eye(M)
    gain_M = core.norm.weight.detach().numpy() if isinstance(core.norm, torch.nn.LayerNorm) else None
    by_W, by_gain, by_bias, by_A = np.zeros(M * M), np.zeros(M), np.zeros(M), np.zeros(M * M)
    by_p = []
    for t in range(len(p.p_TM) - 1, -1, -1):
        by_sum_M = by_h_M @ np.diag(derivative(p.sum_TM[t]))
        by_gain += by_sum_M @ np.diag(p.normalized_TM[t])
        by_bias += by_sum_M
        by_u_M = by_sum_M
        if gain_M is not None:
            n_M = p.normalized_TM[t]
            centered_MM = eye_MM - np.ones((M, M)) / M - np.outer(n_M, n_M) / M
            by_u_M = by_sum_M @ np.diag(gain_M) @ centered_MM / p.deviation_T[t]
        by_z_M = by_u_M @ (eye_MM + p.A_TMM[t] @ np.diag(derivative(p.z_TM[t])))
        by_A = by_u_M @ np.kron(p.q_TM[t][None], eye_MM) + core.decay * by_A
        before_M1 = p.h_T1M[t][:, None]
        by_W += by_z_M @ np.kron(before_M1.T, eye_MM)
        by_p.append(by_z_M)
        by_h_M = by_z_M @ W_MM
        if through_memory:
            written = np.kron(before_M1, eye_MM) + symmetric * np.kron(eye_MM, before_M1)
            by_h_M = by_h_M + core.fast_lr * by_A @ written
    found = {"W": unvec(by_W, (M, M)), "p": np.array(by_p[::-1])}
    return found | {"gain": by_gain, "bias": by_bias} if gain_M is not None else found


def autograd_fast_weights(core: FastWeights, p_TM: Array, by_h_M: Array) -> Gradient:
    """The same gradient, by automatic differentiation of the core's definition."""
    inputs_TM = torch.tensor(p_TM, requires_grad=True)
    y_1TM, _ = core.scan(inputs_TM[None])
    named = {"W": core.recurrent.weight, "p": inputs_TM}
    if isinstance(core.norm, torch.nn.LayerNorm):
        named |= {"gain": core.norm.weight, "bias": core.norm.bias}
    found = torch.autograd.grad(y_1TM[0, -1] @ torch.tensor(by_h_M), list(named.values()))
    return {name: tensor.numpy() for name, tensor in zip(named, found, strict=True)}


def _nonlinearity(core: FastWeights) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """f and its derivative f'."""
    if core.nonlinearity == "relu":
        return lambda a: np.maximum(a, 0), lambda a: (a > 0).astype(float)
    return np.tanh, lambda a: 1 - np.tanh(a) ** 2
