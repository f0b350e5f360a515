"""Fast weights before and after training: how their dynamics change, and which settings can be trained.

Shapes: G settings of (λ, η), L decays, E fast learning rates, T time steps, B sequences, H hidden units.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from matplotlib.figure import Figure

from src.config.errors import UserError
from src.models.fastweights import FastWeights
from src.models.sequence import SequenceModel
from src.tasks.associative_retrieval import AssociativeRetrieval
from src.tasks.environment import Environment
from src.theory.base import Claim
from src.theory.claims import at_least, at_most
from src.theory.fast_weights_stability import dynamics
from src.theory.fast_weights_stability.dynamics import Array
from src.theory.figures import COLORS, LIMIT, heading, new_figure, wrapped
from src.theory.networks import Trained, evaluated, in_double, load_run, train_briefly

ROBUST = "Ba et al. 2016, section 3.1, on layer norm; the question of Wayman & Mathew, report, section 5"

OVERFLOWED = "hotpink"
"""The color of settings whose values are not finite; it occurs in neither color map."""


def retrieval_model(task: AssociativeRetrieval, num_units: int, seed: int, **settings) -> SequenceModel:
    """A fast-weights model for associative retrieval, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SequenceModel(
            task.input_spec,
            task.output_spec,
            lambda size: FastWeights(size, hidden_size=num_units, **settings),
            embedding_size=32,
        )


@dataclass
class BeforeAndAfter:
    """Maps over (λ, η) for a network at initialization and after training at one of these settings."""

    claims: list[Claim]
    name: str
    decay_L: Array
    fast_lr_E: Array
    trained_at: tuple[float, float]
    exponent_LE: tuple[Array, Array]
    """Largest Lyapunov exponents under a stream of test sequences, before and after training."""
    error_LE: Array
    """Test error of the trained network with λ and η changed after training."""
    metric: str
    """Name of the metric in `error_LE`."""
    own_exponents: tuple[float, float]
    """Exponents at the training setting, before and after training."""


def compare_before_and_after(
    run: str | None = None,
    num_updates: int = 700,
    num_decays: Annotated[int, Ge(2)] = 7,
    num_lrs: Annotated[int, Ge(2)] = 8,
    num_steps: Annotated[int, Ge(2)] = 120,
) -> BeforeAndAfter:
    """Measure a network trained here on associative retrieval, or the network of a finished run, at many λ and η.

    Args:
        run: folder of a run with fast weights; None to train a small network here.
        num_updates: number of training updates of the small network.
        num_decays: number of rows of the maps.
        num_lrs: number of columns of the maps.
        num_steps: length of the stream of test sequences on which exponents are measured.

    Raises:
        UserError: the run has no fast weights, its λ and η depend on the input, or its task is played step by step.
    """
    if run:
        network = load_run(run)
    else:
        task = AssociativeRetrieval(0, num_pairs=2, train_size=None, val_size=64, test_size=256)
        network = train_briefly("retrieval of 2 pairs", retrieval_model(task, 30, 0, decay=0.9), task, num_updates)
    core = network.end.core
    if not isinstance(core, FastWeights):
        raise UserError(f"run={run}: not a network with fast weights")
    if isinstance(network.task, Environment):
        raise UserError(f"run={run}: λ and η are varied on given inputs; this task is played")
    if core.gates:
        raise UserError(f"run={run}: λ and η depend on the input (model.gates=true), so they cannot be varied")
    decay_L, fast_lr_E = 1 - np.geomspace(0.5, 0.01, num_decays), np.geomspace(1e-2, 20.0, num_lrs)
    decay_G, fast_lr_G = (a.ravel() for a in np.meshgrid(decay_L, fast_lr_E, indexing="ij"))
    shape = num_decays, num_lrs
    batch = in_double(next(iter(network.task.evaluation("test"))).take(slice(0, 256)))

    def exponents(model: SequenceModel, decay_G: Array, fast_lr_G: Array) -> Array:
        assert isinstance(model.core, FastWeights)
        with torch.no_grad():
            stream_TH = model.project(batch.inputs).vectors.flatten(0, 1)[:num_steps]
            p_TGH = stream_TH[:, None].expand(-1, len(decay_G), -1)
            return dynamics.lyapunov_exponents(dynamics.on_grid(model.core, decay_G, fast_lr_G), p_TGH, num_steps // 6)

    def error(decay: float, fast_lr: float) -> float:
        return evaluated(dynamics.with_settings(network.end, decay, fast_lr), network.task, batch)

    before_LE, after_LE = (
        exponents(model, decay_G, fast_lr_G).reshape(shape) for model in (network.start, network.end)
    )
    error_LE = np.array([error(*setting) for setting in zip(decay_G, fast_lr_G, strict=True)]).reshape(shape)
    at = float(core.decay), float(core.fast_lr)
    before, after = (float(exponents(model, *np.array(at)[:, None])[0]) for model in (network.start, network.end))
    claims = _bounded(network, core, batch.inputs)
    if not run:
        decays = sorted([*decay_L[decay_L > 0.7], at[0]])
        nearby = max(
            *(error(decay, at[1]) for decay in decays), *(error(at[0], factor * at[1]) for factor in (0.25, 4))
        )
        worst = max(zip(error_LE.ravel(), decay_G, fast_lr_G, strict=True))
        claims += _trained_here(network.name, at, (before, after), error(*at), (decays[0], decays[-1]), nearby, worst)
    return BeforeAndAfter(claims, network.name, decay_L, fast_lr_E, at, (before_LE, after_LE), error_LE,
                          network.task.objective.metric, (before, after))  # fmt: skip


def _bounded(network: Trained, core: FastWeights, inputs: torch.Tensor) -> list[Claim]:
    """The claim about the bound on the state that follows from the learned gains and biases."""
    if core.num_inner_steps == 0 or not isinstance(core.norm, torch.nn.LayerNorm):
        return []  # layer norm is not applied, so there is no such bound
    with torch.no_grad():
        h_BTH, _ = core.scan(network.end.project(inputs).vectors)
        bound = core.norm.weight.abs().max() * core.hidden_size**0.5 + core.norm.bias.norm()
    return [
        at_most(
            f"{network.name}: after training ‖h_t‖ ≤ max|g| √H + ‖b‖ on test sequences: largest ‖h_t‖",
            "‖g ⊙ n + b‖ with ‖n‖ ≤ √H, and ReLU does not increase the norm",
            float(bound),
            float(h_BTH.norm(dim=2).max()),
            "a theorem, no tolerance",
        )
    ]


def _trained_here(
    name: str,
    at: tuple[float, float],
    exponents: tuple[float, float],
    error: float,
    decays: tuple[float, float],
    nearby: float,
    worst: tuple[float, float, float],
) -> list[Claim]:
    """Claims about the exponent at the training setting, and about the cost of changing λ and η.

    Args:
        name: name of the network.
        at: λ and η with which it was trained.
        exponents: exponents at this setting before and after training.
        error: error at this setting after training.
        decays: lowest and highest λ in the neighborhood that was tried.
        nearby: largest error at these λ, or with η changed by a factor of four.
        worst: largest error of the map, with its λ and η.
    """
    trained = f"the error of {error:.3f} at λ = {at[0]:g}, η = {at[1]:g}"
    return [
        at_most(
            f"{name}: the recurrence is nearly neutral where it was trained: larger modulus of the Lyapunov exponents "
            f"before, {exponents[0]:.3f}, and after, {exponents[1]:.3f}",
            "Measured; over the 7 steps of a sequence a factor of at most e^0.7",
            0.1,
            max(map(abs, exponents)),
            "the fluctuation over a path of this length",
        ),
        at_most(
            f"{name}: what was learned survives other λ, {decays[0]:.2f} to {decays[1]:.2f}, and a change of η by a "
            f"factor of four: largest error, next to {trained}",
            ROBUST,
            float(worst[0]) / 2,
            nearby,
            "half of the largest error of the map",
        ),
        at_least(
            f"{name}: but it does not survive every λ and η, although the state stays bounded: ratio of the error at "
            f"λ = {worst[1]:g}, η = {worst[2]:g}, the largest of the map, to {trained}",
            ROBUST,
            1.5,
            float(worst[0]) / error,
            "50 % more is 2.5 standard errors for 256 sequences",
        ),
    ]


def draw_before_and_after(result: BeforeAndAfter) -> Figure:
    """The exponents before and after training, and the error with λ and η changed."""
    figure, all_axes = wrapped(3, panel_height=3.3, sharey=True)
    exponents = np.abs(result.exponent_LE)
    edge = float(exponents[np.isfinite(exponents)].max(initial=0)) or 1.0
    maps = (*result.exponent_LE, result.error_LE)
    all_finite = all(np.isfinite(values_LE).all() for values_LE in maps)
    before, after = result.own_exponents
    titles = (
        f"before training, {before:.3f} at ★",
        f"after training, {after:.3f} at ★",
        f"test {result.metric}, λ and η changed",
    )
    for index, (axes, values_LE, title) in enumerate(zip(all_axes, maps, titles, strict=True)):
        scale = {"cmap": "PuOr_r", "vmin": -edge, "vmax": edge} if index < 2 else {"cmap": "cividis", "vmin": 0}
        if not np.isfinite(values_LE).all():
            axes.set_facecolor(OVERFLOWED)  # shows where nothing is drawn
            values_LE = np.ma.masked_invalid(values_LE)
        mesh = dynamics.draw_map(axes, result.decay_L, result.fast_lr_E, values_LE, **scale)
        axes.plot(result.trained_at[1], 1 - result.trained_at[0], "*", color="white", markeredgecolor="black",
                  markersize=14)  # fmt: skip
        heading(axes, title)
        if index:
            figure.colorbar(mesh, ax=axes, label=("", "largest Lyapunov exponent", result.metric)[index])
    for axes in all_axes[::2]:
        axes.set_ylabel("decay λ")
    pink = "" if all_finite else "; pink: not finite, the state overflows"
    figure.supxlabel(f"★: where it was trained ({result.name}){pink}", fontsize=10)
    return figure


@dataclass
class Learning:
    """Test losses after the same short training, with and without layer norm."""

    claims: list[Claim]
    decays: tuple[float, ...]
    fast_lrs: tuple[float, ...]
    loss: dict[tuple[bool, float, float], float]
    """Test loss by layer norm, λ and η; nan where training stopped because a loss or gradient was not finite."""
    at_once: bool
    """Whether it never stopped after the first update."""
    floor: float


def train_across_settings(
    num_updates: int = 600,
    decays: tuple[float, ...] = (0.5, 0.95),
    fast_lrs: tuple[float, ...] = (0.01, 0.5, 10.0),
    num_units: Annotated[int, Ge(2)] = 20,
    seed: int = 0,
) -> Learning:
    """Train on retrieval of two pairs to test the claim that layer norm makes fast weights robust to λ and η."""
    task = AssociativeRetrieval(seed, num_pairs=2, train_size=None, val_size=64, test_size=512)
    test = in_double(next(iter(task.evaluation("test"))))
    floor = min(values["nll"] for values in task.floors.values())
    loss, updates = {}, {}
    for layer_norm in (True, False):
        for decay in decays:
            for fast_lr in fast_lrs:
                settings = {"decay": decay, "fast_lr": fast_lr, "layer_norm": layer_norm}
                model = retrieval_model(task, num_units, seed, **settings)
                trained = train_briefly("", model, task, num_updates, lr=1e-2)
                updates[layer_norm, decay, fast_lr] = trained.update
                with torch.no_grad():
                    loss[layer_norm, decay, fast_lr] = (
                        float(task.criterion(trained.end(test.inputs).prediction, test))
                        if trained.update == num_updates
                        else float("nan")
                    )
    normalized = [value for (layer_norm, *_), value in loss.items() if layer_norm]
    broken = [key for key, value in loss.items() if np.isnan(value)]
    strong = [key for key in loss if not key[0] and key[2] >= 0.5]
    decay, fast_lr = decays[-1], fast_lrs[len(fast_lrs) // 2]
    others = [value for (layer_norm, _, other), value in loss.items() if layer_norm and other != fast_lr]
    shown = " and ".join(f"{other:g}" for other in fast_lrs if other != fast_lr)
    claims = [
        at_most(
            "With layer norm every setting trains without overflow: number of settings that do not",
            ROBUST,
            0,
            sum(key[0] for key in broken),
            "none",
        ),
        at_least(
            "Without layer norm, settings with η ≥ 0.5 overflow before the first update: share that do",
            "Inputs of norm 3 are far beyond c/√κ = 0.14 for λ = 0.95, η = 0.5",
            1.0,
            float(np.mean([updates[key] == 0 for key in strong])),
            "all",
        ),
        at_least(
            "But robust does not mean insensitive: ratio of largest to smallest test loss with layer norm after "
            f"{num_updates} updates",
            ROBUST,
            1.5,
            max(normalized) / min(normalized),
            "the standard error of a mean over 512 sequences is below 10 %",
        ),
        at_most(
            f"With layer norm, λ = {decay:g} and η = {fast_lr:g}, {num_updates} updates get below the "
            "loss that is possible without binding: test loss",
            "The least loss that is possible without binding",
            floor,
            loss[True, decay, fast_lr],
            "the floor; the standard error of the loss is below 10 %",
        ),
        at_least(
            f"With η = {shown} they do not: smallest test loss with layer norm",
            "The least loss that is possible without binding",
            floor,
            min(others, default=float("nan")),
            "the floor, as above; with more updates some of these settings get below it",
        ),
    ]
    return Learning(claims, decays, fast_lrs, loss, not any(updates[key] for key in broken), floor)


def draw_learning(result: Learning) -> Figure:
    """Losses as a function of η, with a line above for the settings that overflow."""
    figure, ((axes,),) = new_figure(1, 1, panel_width=6, panel_height=3.4)
    failed = 1.15 * max(value for value in result.loss.values() if np.isfinite(value))
    styles = {True: "-", False: "--"}
    markers = dict(zip(result.decays, "os^", strict=False))
    for layer_norm in (True, False):
        for decay in result.decays:
            values = np.array([result.loss[layer_norm, decay, fast_lr] for fast_lr in result.fast_lrs])
            shift = 1 + 0.06 * (result.decays.index(decay) - 0.5) * (1 if layer_norm else -1)
            x = np.array(result.fast_lrs) * shift
            color = COLORS[0 if layer_norm else 2]
            label = f"{'layer norm' if layer_norm else 'no layer norm'}, λ = {decay}"
            axes.plot(x, values, styles[layer_norm], color=color, marker=markers[decay], label=label)
            gone = np.isnan(values)
            axes.plot(x[gone], np.full(gone.sum(), failed), "x", color=color, markersize=9, markeredgewidth=2)
    axes.axhline(result.floor, **LIMIT)
    axes.text(result.fast_lrs[0], result.floor - 0.04, "without binding", va="top", fontsize=8)
    said = "×: overflow before the first update" if result.at_once else "×: overflow"
    axes.text(result.fast_lrs[-1], failed + 0.17, said, ha="right", fontsize=9)
    axes.set(xscale="log", xlabel="fast learning rate η", ylabel="test loss (nats)", ylim=(0, failed * 1.22))
    figure.legend(loc="outside right center", frameon=False)
    heading(axes, "layer norm lets every η train, but not equally fast")
    return figure
