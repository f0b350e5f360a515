"""How a command says how its run ended: a table or a line, and the exit status."""

import logging
import sys
from pathlib import Path
from typing import Any

from src.config.paths import LOG
from src.reports.hparams import update_hparams_page
from src.reports.tables import one_line, show_run
from src.results.result import ENDED
from src.training.signals import exit_status

log = logging.getLogger(__name__)


def conclude(result: dict[str, Any], folder: Path, in_sweep: bool) -> float:
    """Say how the run ended, and end the command unless the run is part of a sweep."""
    status = result["status"]
    if status == "interrupted":
        log.info("%s; the same command resumes it", result["reason"])
        raise KeyboardInterrupt(exit_status())
    if status not in ENDED:
        if in_sweep:
            log.error("%s", one_line(result, folder))
            return float("nan")
        sys.exit(f"error: {result['reason']}" + (f" (see {folder}/{LOG})" if "traceback" in result else ""))
    if in_sweep:
        log.info("%s", one_line(result, folder))
    else:
        update_hparams_page(folder.parent)
        show_run(result, folder)
    return next((value for tag, value in result["metrics"].items() if tag.startswith("test/")), float("nan"))
