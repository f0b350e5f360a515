"""Precompiled headers for the hundreds of generated kernels that the tests compile.

GCC spends half of its time for a kernel on the headers. Precompiled, they occupy 120 MB, and compiling them takes as
long as four kernels, which does not pay off outside the tests. The kernels are the same either way: if the flags
differ, GCC reads the header itself.
"""

import os
import shlex
import subprocess

from src.config.errors import UserError
from src.ops.cpu import build
from src.utils.files import locked


def use_precompiled_headers() -> None:
    """Make this process and its children compile kernels with precompiled headers, if the compiler is GCC."""
    if "CXX" in os.environ:
        return
    try:
        [compiler] = build._compiler()
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True)
        if "Free Software Foundation" not in version.stdout:
            return
        folder = build.cache_folder() / "headers"
        folder.mkdir(parents=True, exist_ok=True)
        header, compiled = folder / "step.h", folder / "step.h.gch"  # a folder: GCC takes the file that fits the flags
        with locked(folder, patience=600):
            if not compiled.exists():
                header.write_text(f'#include "{build.SOURCES / "step.h"}"\n')
                made = folder / "made.gch"
                made.mkdir(exist_ok=True)
                flags = ["-fPIC", "-std=c++17", *build._flags(), f"-I{build.SOURCES}"]
                flags += ["-x", "c++-header", str(header)]
                at_once = [
                    subprocess.Popen([compiler, *own, *flags, "-o", str(made / name)])
                    for name, own in (("lanes", ()), ("one_lane", build.ONE_LANE))
                ]
                ended = [compilation.wait() for compilation in at_once]
                if any(ended):
                    return
                made.rename(compiled)
    except (UserError, OSError):
        return  # the tests of the compilation report what is wrong
    os.environ["CXX"] = shlex.join([compiler, "-include", str(header)])
