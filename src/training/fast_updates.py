"""Faster versions of everything in an update except the forward and backward pass.

They matter when an update takes half a millisecond. An update of fast weights with 50 units takes 0.6 ms, with batches
of 128 on one thread of an AMD EPYC, and each of the following saves:

- all weights form one vector, so that the optimizer, clipping and zeroing take one operation each, instead of one per
  parameter: 0.05 ms;
- clipping checks the norm instead of always scaling: 0.02 ms;
- AdamW calls torch's fused kernel directly, without the profiler record, the hooks and the tensor grouping that torch
  wraps around it: 0.02 ms.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

Columns = Mapping[str, Any]
"""Optimizer settings of P runs: a float64 column [P, 1] for each number, a list of columns for several numbers."""


@torch.no_grad()
def flat_parameters(model: nn.Module) -> nn.Parameter:
    """Make all trainable parameters of a model views of one new vector, and their gradients views of its gradient.

    The model works as before; an optimizer of the vector updates it. The gradient has to be zeroed in place. A
    parameter that does not affect the loss has a gradient of zero. Converting or moving the model or a part of it would
    create separate parameters, which the optimizer does not update, so from now on this raises a RuntimeError.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    vector = nn.Parameter(torch.cat([parameter.flatten() for parameter in parameters]))
    vector.grad = torch.zeros_like(vector)
    make_views_of(vector, model)
    for module in model.modules():
        module._apply = _refuse  # type: ignore[method-assign]
    return vector


def make_views_of(vector: nn.Parameter, model: nn.Module) -> None:
    """Make the trainable parameters of a model, and their gradients, views of a vector and of its gradient."""
    assert vector.grad is not None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, value, gradient in zip(parameters, vector.data.split(sizes), vector.grad.split(sizes), strict=True):
        parameter.data = value.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)


def _refuse(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("an optimizer updates these weights as one vector; convert or move the model before that")


class Unwrapped(torch.optim.Optimizer):
    """A base class to list before one of torch's optimizers, whose methods it calls without torch's wrappers.

    The wrappers import torch's compiler, which takes two seconds at every start.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    @staticmethod
    def profile_hook_step(func: Callable) -> Callable:
        """Return the step unchanged."""
        return func

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Perform one step of torch's optimizer."""
        inspect.unwrap(super().step)(self)


class FusedAdamW(Unwrapped, torch.optim.AdamW):
    """torch's AdamW, with a step that calls only the fused kernel.

    `torch._fused_adamw_` and `_init_group` are private; a test compares this class with `torch.optim.AdamW`.
    """

    lr_on_device: Tensor | None = None
    """The learning rate for a step that is part of a CUDA graph, in which all other numbers are constants."""

    def write_lr(self, lr: float) -> None:
        """Set the learning rate on the device of the weights, where all later steps read it."""
        if self.lr_on_device is None:
            self.lr_on_device = torch.zeros((), device=self.param_groups[0]["params"][0].device)
        self.lr_on_device.fill_(lr)

    def step(self) -> None:  # type: ignore[override]
        """Perform one step of AdamW."""
        for group in self.param_groups:
            lr = group["lr"] if self.lr_on_device is None else self.lr_on_device
            (beta1, beta2), decay, eps = group["betas"], group["weight_decay"], group["eps"]
            for weights in group["params"]:
                state = self.state[weights]
                if not state:
                    self._init_group(group, [], [], [], [], [], [])
                state["step"].add_(_ONE)
                torch._fused_adamw_(
                    [weights.detach()], [weights.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
                    lr=lr, beta1=beta1, beta2=beta2, weight_decay=decay, eps=eps, amsgrad=False, maximize=False,
                )  # fmt: skip

    @staticmethod
    def step_rows(weights_PN: Tensor, gradient_PN: Tensor, state: Mapping[str, Tensor], settings: Columns) -> None:
        """Perform the same step for P runs, each with its own settings [P, 1]; see `src.training.population`."""
        mean_PN, square_PN, dtype = state["exp_avg"], state["exp_avg_sq"], weights_PN.dtype
        lr, decay, eps, (beta1, beta2) = (settings[key] for key in ("lr", "weight_decay", "eps", "betas"))
        step_P1 = state["step"].add_(1)[:, None].double()
        weights_PN.mul_((1 - lr * decay).to(dtype))
        mean_PN.lerp_(gradient_PN, (1 - beta1).to(dtype))
        square_PN.mul_(beta2.to(dtype)).addcmul_(gradient_PN, gradient_PN * (1 - beta2).to(dtype))
        root_PN = square_PN.sqrt().div_((1 - beta2**step_P1).sqrt().to(dtype)).add_(eps.to(dtype))
        weights_PN.sub_(mean_PN.div(root_PN).mul_((lr / (1 - beta1**step_P1)).to(dtype)))


_ONE = torch.ones(())  # a number would be converted to a tensor at every step


def clip_norm_(gradient: Tensor, bound: float | None) -> Tensor:
    """Scale a gradient to a norm of at most `bound` (Pascanu et al., 2013) and return the norm before scaling.

    The same as `torch.nn.utils.clip_grad_norm_`, except that the norm is finite if all entries of the gradient are: the
    squares of entries above 1e19 overflow float32, so the norm is computed in float64. Most gradients need no scaling,
    and on a CPU it is faster to check the norm in float32 first; on another device this would mean waiting for it.
    """
    if bound is not None and gradient.is_cpu:
        norm = torch.linalg.vector_norm(gradient)
        if math.isfinite(value := norm.item()):
            if value + 1e-6 > bound:
                gradient.mul_(bound / (norm + 1e-6))
            return norm
    norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    if bound is not None:
        _scale_(gradient, bound / (norm + 1e-6))
    return norm


def clip_rows_(gradient_PN: Tensor, bounds_P: Tensor) -> Tensor:
    """Apply `clip_norm_` to each row with its own bound, which may be infinite; return the norms before, in float64."""
    norms_P = torch.linalg.vector_norm(gradient_PN, dim=1, dtype=torch.float64)
    factors_P = torch.where(bounds_P.isinf(), 1.0, bounds_P / (norms_P + 1e-6))
    _scale_(gradient_PN, factors_P[:, None])
    return norms_P


def _scale_(gradient: Tensor, factor: Tensor) -> None:
    """Scale by the factor where it is below 1, in two steps: it may be too small for float32."""
    root = factor.clamp(max=1.0).sqrt().to(gradient.dtype)
    gradient.mul_(root).mul_(root)
