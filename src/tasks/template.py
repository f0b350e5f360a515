"""Detection of a template in noise, the tasks of Mathews (2016) with a saw tooth and a block.

Shapes: N examples, T time steps, L steps in the template.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from src.specs import Batch, InputSpec, Objective, Output, OutputSpec
from src.tasks.base import RIGHT, WRONG, Task


class Template(Task):
    r"""Does the sequence contain the template?

        block   0 1 0 0 1 1 1 1 0 1   ->   yes (L = 4)

    - `saw`: Gaussian noise of standard deviation s. The template is a ramp from -s to s that replaces L steps.
    - `block`: bits that are 1 with probability p, shown as -1 and 1. The template is a run of L ones. In sequences
      without it, every 1 that would complete a run of L is a 0 instead, so the answer is always certain.

    Half of the sequences contain the template; its position is uniform. With variable lengths, a sequence has between
    T // 2 and T steps, all lengths equally likely, and the rest is padding.

    Args:
        seed: seed of all data.
        variant: the kind of template.
        sequence_length: T, the number of steps.
        template_length: L, the number of steps in the template.
        noise_std: s, the standard deviation of the noise; saw only.
        ones: p, the probability of a 1; block only.
        variable_length: whether sequences differ in length.
        train_size: number of training sequences; null for fresh ones at every update.
        val_size: number of validation sequences.
        test_size: number of test sequences.
    """

    input_spec = InputSpec("vectors", 1)
    output_spec = OutputSpec("class", 2)
    objective = Objective("error")

    def __init__(
        self,
        seed: int,
        *,
        variant: Literal["saw", "block"] = "saw",
        sequence_length: Annotated[int, Ge(2)] = 50,
        template_length: Annotated[int, Ge(2)] = 5,
        noise_std: Annotated[float, Gt(0)] = 1.0,
        ones: Annotated[float, Gt(0), Lt(1)] = 0.3,
        variable_length: bool = False,
        train_size: Annotated[int, Ge(1)] | None = None,
        val_size: Annotated[int, Ge(1)] = 2000,
        test_size: Annotated[int, Ge(1)] = 5000,
    ):
        super().__init__(seed, train_size=train_size, val_size=val_size, test_size=test_size)
        self.shortest = sequence_length // 2 if variable_length else sequence_length
        if template_length > self.shortest:
            raise ValueError(f"template_length={template_length}: must be at most {self.shortest}, the shortest length")
        self.variant = variant
        self.sequence_length = sequence_length
        self.template_length = template_length
        self.noise_std = noise_std
        self.ones = ones
        self.variable_length = variable_length

    def generate(self, num_examples: int, generator: torch.Generator) -> Batch:
        shape = (num_examples, self.sequence_length)
        targets_N = torch.randint(2, (num_examples,), generator=generator)
        lengths_N = torch.full((num_examples,), self.sequence_length)
        if self.variable_length:
            lengths_N = torch.randint(self.shortest, self.sequence_length + 1, (num_examples,), generator=generator)
        if self.variant == "saw":
            values_NT = self.noise_std * torch.randn(shape, generator=generator)
            template_L = torch.linspace(-self.noise_std, self.noise_std, self.template_length)
        else:
            bits_NT = torch.rand(shape, generator=generator) < self.ones
            bits_NT = torch.where(targets_N[:, None] == 1, bits_NT, _without_runs(bits_NT, self.template_length))
            values_NT, template_L = 2.0 * bits_NT - 1, torch.ones(self.template_length)

        share_N = torch.rand(num_examples, generator=generator)
        start_N = (share_N * (lengths_N - self.template_length + 1)).long()
        steps_NL = start_N[:, None] + torch.arange(self.template_length)
        inside_NL = torch.where(targets_N[:, None] == 1, template_L, values_NT.gather(1, steps_NL))
        values_NT = values_NT.scatter(1, steps_NL, inside_NL)
        return Batch(values_NT[..., None], targets_N, lengths=lengths_N if self.variable_length else None)

    @property
    def floors(self) -> dict[str, dict[str, float]]:
        return {"chance": {"error": 0.5, "nll": math.log(2)}}

    def render(self, batch: Batch, row: int, output: Output) -> str:
        length = self.sequence_length if batch.lengths is None else int(batch.lengths[row])
        values = batch.inputs[row, :length, 0].tolist()
        if self.variant == "block":
            shown = "".join("1" if value > 0 else "0" for value in values)
        else:
            shown = " ".join(f"{value:.1f}" for value in values)
        target, answer = int(batch.targets[row]), int(output.prediction[row].argmax())
        words = ("no", "yes")
        return f"{shown} -> {words[target]}   predicted {words[answer]}   {RIGHT if answer == target else WRONG}"


def _without_runs(bits_NT: Tensor, length: int) -> Tensor:
    """The bits, with a 0 in place of each 1 that would complete a run of this length."""
    run_N = torch.zeros(len(bits_NT), dtype=torch.int64)
    kept = []
    for bit_N in bits_NT.unbind(1):
        run_N = (run_N + 1) * bit_N
        bit_N = bit_N & (run_N < length)
        run_N = run_N * bit_N
        kept.append(bit_N)
    return torch.stack(kept, dim=1)
