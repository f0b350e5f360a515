"""The names of values in generated source code."""

import re

from src.ops.generated.values import Value


class Names:
    """Gives every value a unique name, derived from its name in the step."""

    def __init__(self) -> None:
        self.names: dict[Value, str] = {}

    def name(self, value: Value) -> str:
        """The name of a value's memory. It ends in an underscore, which no keyword and no other name here does."""
        return self._named(value) + "_"

    def register(self, value: Value) -> str:
        """The name of what is computed at a time: one number of the value in C++, a block of numbers in Triton."""
        return self._named(value) + "_i"

    def _named(self, value: Value) -> str:
        if value not in self.names:
            wish = re.sub(r"\W", "_", value.name) or "value"
            taken, chosen, count = set(self.names.values()), wish, 2
            while chosen in taken:
                chosen, count = f"{wish}_{count}", count + 1
            self.names[value] = chosen
        return self.names[value]
