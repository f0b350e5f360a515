"""Shows the kernel that is generated from a model's step: the step, the plan and the C++.

    python scripts/kernel.py model=gru
    python scripts/kernel.py model=lstm model.hidden_size=100 task=copying

The arguments are those of `python -m src.train`. The plan says what is saved for the backward pass, and which loops and
products each pass consists of; the C++ is compiled at the first use of the model.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone, whichever one is installed

from src.running.show_kernel import main

if __name__ == "__main__":
    main()
