"""Gradients before and after training, for the network of a run or for small networks trained here.

Shapes: B sequences, T time steps, P projected features, L lags from 0.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.config.errors import UserError
from src.models.base import Core
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.specs import Batch
from src.tasks.addition import Addition
from src.tasks.associative_retrieval import AssociativeRetrieval
from src.tasks.base import Task
from src.theory.base import Claim
from src.theory.claims import at_least, at_most
from src.theory.figures import COLORS, LIMIT, MARKERS, heading, new_figure
from src.theory.gradient_flow.initialization import LOWEST, REPORT
from src.theory.gradient_flow.norms import (
    Array,
    check,
    loss_gradient_by_lag,
    norms_by_lag,
)
from src.theory.networks import Trained, evaluated, in_double, load_run, train_briefly


@dataclass
class Training:
    """Norms by lag before and after training, as medians over the test sequences, for each network."""

    claims: list[Claim]
    jacobian_L: dict[str, tuple[Array, Array]]
    loss_gradient_L: dict[str, tuple[Array, Array]]


def measure_after_training(
    run: str | None = None, num_updates: int = 600, num_sequences: int = 64, seed: int = 0
) -> Training:
    """Measure the network of a finished run on its test data, or four small networks trained within seconds.

    Args:
        run: folder of the run, whose state must consist of floating-point vectors; None to train the small networks.
        num_updates: number of training updates of the small networks; fast weights get twice as many.
        num_sequences: number of test sequences over which the median is taken.
        seed: seed of the small networks and their data.

    Raises:
        UserError: gradient norms cannot be measured for this run.
    """
    networks = [load_run(run)] if run else list(train_small_networks(num_updates, seed))
    result = Training([], {}, {})
    for network in networks:
        if run:
            try:
                check(network.end.core, network.task)
            except UserError as error:
                raise UserError(f"run={run}: {error}") from None
        test = next(iter(network.task.evaluation("test"))).take(slice(0, num_sequences))
        batch = in_double(test)
        jacobians, gradients = [], []
        for model in (network.start, network.end):
            p_BTP = model.project(batch.inputs).vectors
            jacobians.append(np.nanmedian(norms_by_lag(model.core, p_BTP, lengths=batch.lengths), axis=1))
            gradients.append(np.nanmedian(loss_gradient_by_lag(model, network.task, batch), axis=1))
        result.jacobian_L[network.name] = jacobians[0], jacobians[1]
        result.loss_gradient_L[network.name] = gradients[0], gradients[1]
        if run is None:
            result.claims += _training_claims(network, batch, jacobians[0][-1], jacobians[1][-1], len(jacobians[0]) - 1)
    return result


def _training_claims(network: Trained, batch: Batch, before: float, after: float, longest: int) -> list[Claim]:
    """Claim that gated networks and fast weights learn and preserve the first state, and a tanh RNN does not learn.

    How much the tanh RNN preserves differs from seed to seed. Nothing is claimed about a user's run, whose task may not
    need memory.
    """
    metric, best = network.task.objective.metric, max if network.task.objective.higher_is_better else min
    reached = evaluated(network.end, network.task, batch)
    floor = best(values[metric] for values in network.task.floors.values() if metric in values)
    source = f"{REPORT}, section 5.3: whether the weights come to preserve a dependency"
    name, error = network.name, f"{metric} after {network.update} updates"
    moved = f"‖∂h_T/∂s_t‖ at lag {longest}, {before:.2g} at first"
    if name == UNABLE:
        return [at_least(f"{name}: does not learn: {error}", source, floor, reached, "the best floor")]
    far_before, far_after = (abs(float(np.log(norm))) for norm in (before, after))
    return [
        at_most(f"{name}: learns: {error}", source, 0.8 * floor, reached, "0.8 of the best floor"),
        at_most(
            f"{name}: and preserves the first state better: |ln| of {moved}", source, far_before, far_after, "before"
        ),
    ]


UNABLE = "tanh RNN, addition"


def train_small_networks(num_updates: int, seed: int) -> Iterator[Trained]:
    """Train two gated networks and a tanh RNN on addition over 30 steps, and fast weights on retrieval of 3 pairs."""
    addition = Addition(seed, sequence_length=30, train_size=None, val_size=64, test_size=64)
    retrieval = AssociativeRetrieval(seed, num_pairs=3, train_size=None, val_size=64, test_size=64)
    small: tuple[tuple[str, Task, Callable[[int], Core], float, int], ...] = (
        ("LSTM, addition", addition, lambda size: LSTM(size, hidden_size=20), 1e-2, 1),
        ("GRU, addition", addition, lambda size: GRU(size, hidden_size=20), 1e-2, 1),
        (UNABLE, addition, lambda size: RNN(size, hidden_size=20, recurrent_scale=0.9), 3e-3, 1),
        ("fast weights, retrieval", retrieval, lambda size: FastWeights(size, hidden_size=30, decay=0.9), 5e-3, 2),
    )
    for name, task, make_core, lr, times in small:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = SequenceModel(task.input_spec, task.output_spec, make_core, embedding_size=32)
        yield train_briefly(name, model, task, times * num_updates, lr=lr)


def draw_training(result: Training) -> Figure:
    """Norms by lag: dashed with hollow markers before training, solid with filled markers after it."""
    figure, (all_axes,) = new_figure(1, 2, panel_width=4.6, panel_height=3.6)
    for axes, panel in zip(all_axes, (result.jacobian_L, result.loss_gradient_L), strict=True):
        for index, (name, norms) in enumerate(panel.items()):
            for norm_L, style, face in zip(norms, ("--", "-"), ("white", COLORS[index]), strict=True):
                axes.plot(np.maximum(norm_L, LOWEST), style, color=COLORS[index], marker=MARKERS[index], markersize=4.5,
                          markerfacecolor=face, markevery=max(1, len(norm_L) // 10))  # fmt: skip
            axes.plot([], [], "-", color=COLORS[index], marker=MARKERS[index], label=name)
        # the axis covers whole decades, even if the curves hardly change
        shown = np.maximum(np.concatenate([norm_L for norms in panel.values() for norm_L in norms]), LOWEST)
        decades = np.floor(np.log10(shown.min())), np.ceil(np.log10(shown.max()) + 0.01)
        axes.set(yscale="log", xlabel="lag $T - t$", ylim=np.power(10.0, decades))
    _name_styles(all_axes[0])
    all_axes[0].axhline(1, **LIMIT)
    all_axes[0].set_ylabel(r"$\|\partial h_T\,/\,\partial s_t\|$")
    all_axes[1].set_ylabel(r"$\|\partial E\,/\,\partial s_t\|$")
    heading(all_axes[0], "what remains of a state")
    heading(all_axes[1], "what reaches it from the loss")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _name_styles(axes: Axes) -> None:
    axes.plot([], [], "--", color="0.4", marker="o", markerfacecolor="white", label="at initialization")
    axes.plot([], [], "-", color="0.4", marker="o", label="after training")
