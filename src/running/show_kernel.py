"""Prints the kernel of a model; see scripts/kernel.py."""

import inspect
import sys
import textwrap

from src.config.compose import compose
from src.config.errors import UserError, in_one_line
from src.models.memory_core import MemoryCore
from src.models.recall_core import RecallCore
from src.ops.generated.derive import plan_of
from src.ops.generated.emit import emit
from src.ops.generated.recipe import LoweringError, with_place
from src.ops.generated.trace import trace
from src.running.build import build_model, build_task, check
from src.utils.console import printing


@printing()
def main() -> None:
    """Compose a configuration from the arguments, and print the step of its model, the plan and the C++ code."""
    arguments = sys.argv[1:]
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(sys.modules["__main__"].__doc__)
        return
    with in_one_line():
        print(kernel_of(arguments))


def kernel_of(overrides: list[str]) -> str:
    """The step of a model, the plan of its kernel and the C++ code.

    Raises:
        UserError: there is no kernel for the step, or a handwritten one is used.
    """
    config = compose(*overrides)
    check(config)
    core = build_model(config, build_task(config)).core
    name = type(core).__name__
    if isinstance(core, MemoryCore) and not isinstance(core, RecallCore):
        raise UserError(
            f"the kernel of {name} is not generated from its step but written by hand: src/ops/linear_recurrence.py"
        )
    try:
        plan = plan_of(core, trace(core))
    except LoweringError as error:
        reason = with_place(core, str(error), error.line)
        raise UserError(f"there is no kernel for the step of {name}: {reason}") from None
    source = emit(plan, "float")
    step = textwrap.dedent(inspect.getsource(type(core).step))
    sizes = ", ".join(f"n{number} = {size}" for number, size in enumerate(source.sizes))
    numbers = ", ".join(f"x{number} = {value:g}" for number, value in enumerate(source.numbers))
    called = f"// called with {', '.join(filter(None, (sizes, numbers)))}"
    return "\n\n".join([f"# the step\n\n{step}", f"# the plan\n\n{plan}", f"# the C++\n\n{called}\n{source.text}"])
