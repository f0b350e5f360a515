"""torch's optimizers with their settings annotated, so that a wrong one is found before a run starts."""

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Len, Lt
from torch import nn

LearningRate = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
_ONE = torch.ones(())  # a number would be made a tensor, and converted, at every step


class _AdamW(torch.optim.AdamW):
    """torch's AdamW, its fused kernel without what torch wraps around it.

    Around a step that is a record for its profiler, hooks and the grouping of tensors, which takes longer than the step
    itself where all weights are one vector: 0.15 ms of an update of one millisecond. Around the other methods it is
    what keeps torch's compiler away, which is imported for it, in a second.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    @staticmethod
    def profile_hook_step(func: Callable) -> Callable:
        """The step as it is."""
        return func

    def step(self) -> None:  # type: ignore[override]
        """One step of AdamW."""
        for group in self.param_groups:
            lr, (beta1, beta2), decay, eps = group["lr"], group["betas"], group["weight_decay"], group["eps"]
            for weights in group["params"]:
                state = self.state[weights]
                if not state:
                    self._init_group(group, [], [], [], [], [], [])
                state["step"].add_(_ONE)
                torch._fused_adamw_(
                    [weights.detach()], [weights.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
                    lr=lr, beta1=beta1, beta2=beta2, weight_decay=decay, eps=eps, amsgrad=False, maximize=False,
                )  # fmt: skip


def adam(
    parameters: Iterable[nn.Parameter],
    *,
    lr: LearningRate = 1e-3,
    betas: Annotated[list[Fraction], Len(2, 2)] = (0.9, 0.999),  # type: ignore[assignment]
    eps: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba, 2015); `weight_decay` is decoupled (AdamW, Loshchilov & Hutter, 2019)."""
    return _AdamW(parameters, lr, (betas[0], betas[1]), eps, weight_decay, fused=True)


def rmsprop(
    parameters: Iterable[nn.Parameter],
    *,
    lr: LearningRate = 1e-3,
    alpha: Fraction = 0.99,
    eps: Annotated[float, Gt(0)] = 1e-8,
    momentum: Fraction = 0.0,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
) -> torch.optim.Optimizer:
    """RMSProp (Tieleman & Hinton, 2012), with optional momentum."""
    return torch.optim.RMSprop(parameters, lr, alpha, eps, weight_decay, momentum)


def sgd(
    parameters: Iterable[nn.Parameter],
    *,
    lr: LearningRate = 1e-2,
    momentum: Fraction = 0.0,
    nesterov: bool = False,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent, with optional (Nesterov) momentum."""
    if nesterov and momentum == 0:
        raise ValueError("nesterov=true: needs a momentum above 0")
    return torch.optim.SGD(parameters, lr, momentum, weight_decay=weight_decay, nesterov=nesterov)
