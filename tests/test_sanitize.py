"""The sanitizers find errors in a library that is compiled and loaded like a kernel."""

import shlex
import shutil
import subprocess
import sys

import pytest

from tests.sanitize import COMPILER, environment

SOURCE = """
extern "C" int past_the_end(int n) { int *all = new int[4]{}, last = all[n]; delete[] all; return last; }
extern "C" int overflow(int n) { return 2147483647 + n; }
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which(COMPILER) is None, reason="needs g++ on Linux")
@pytest.mark.parametrize(("function", "report"), [("past_the_end", "heap-buffer-overflow"), ("overflow", "overflow")])
def test_an_error_ends_the_process_with_a_report(function, report, tmp_path):
    (tmp_path / "made.cpp").write_text(SOURCE)
    given = environment()
    command = [*shlex.split(given["CXX"]), "-shared", "-fPIC", str(tmp_path / "made.cpp"), "-o", str(tmp_path / "made")]
    subprocess.run(command, check=True, env=given)
    for number, fails in ((0, False), (4, True)):
        call = f"import ctypes, torch; ctypes.CDLL({str(tmp_path / 'made')!r}).{function}({number})"
        ended = subprocess.run([sys.executable, "-c", call], env=given, capture_output=True, text=True, check=False)
        assert (ended.returncode != 0) == fails, ended.stderr
        assert (report in ended.stderr) == fails
