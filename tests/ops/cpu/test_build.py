"""The compilation: once, by one process at a time, and never in the way where it cannot be had."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from src.config.paths import PROJECT
from src.models.fastweights import FastWeights
from src.ops.cpu import build

WORK = """
import logging
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
import torch
from src.models.fastweights import FastWeights
from src.ops.cpu import bindings
torch.manual_seed(0)
core = FastWeights(3, hidden_size=4)
print(bindings.available(torch.zeros(1)), core(torch.ones(2, 3, 4))[0].sum().item())
"""
COMPILING, COMPILED = "INFO compiling the fused kernels", "INFO compiled in"


def use(folder):
    """Another process that uses a kernel, with its compiled kernels in this folder."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WORK],
        cwd=PROJECT,
        env=dict(os.environ, TORCH_EXTENSIONS_DIR=str(folder), OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "WARNING" not in out
    assert "True" in out
    return out


@pytest.fixture
def uncompiled(tmp_path, monkeypatch):
    """This process as it was before its first use of a kernel, with nothing compiled before."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    build.library.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    build.library.cache_clear()


def the_only_warning(caplog):
    """Use kernels twice; the results are those of the vectorized form."""
    core, p_BTH = FastWeights(3, hidden_size=4), torch.randn(2, 3, 4)
    with caplog.at_level(logging.WARNING):
        for kernel in ("auto", "fused"):
            core.kernel = kernel
            gradients = []
            for form in (core, core.attend):
                y_BTH, end = form(p_BTH, None)
                gradients.append([y_BTH, *end, *torch.autograd.grad(y_BTH.sum(), core.recurrent.weight)])
            assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "apt-get install g++" in record.getMessage()
    assert "xcode-select --install" in record.getMessage()
    return record.getMessage()


def test_without_a_compiler_a_slower_form_takes_over(uncompiled, monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(uncompiled))
    assert "c++ is not on the path" in the_only_warning(caplog)


def test_a_compiler_that_does_not_run(uncompiled, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "false")
    assert "false" in the_only_warning(caplog)


def test_a_compiler_that_fails_is_quoted(uncompiled, monkeypatch, caplog):
    compiler = uncompiled / "broken-c++"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no room for a template" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    message = the_only_warning(caplog)
    assert str(compiler) in message
    assert "no room for a template" in message
    assert not list((uncompiled / "extensions").rglob("*.so"))


def test_a_folder_that_cannot_be_made(uncompiled, monkeypatch, caplog):
    (uncompiled / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(uncompiled / "file"))
    assert "file" in the_only_warning(caplog)


def test_what_is_compiled_is_filed_by_flags_and_compiler(monkeypatch):
    keys = {build._key(["c++"]), build._key(["c++", "-v"])}
    monkeypatch.setattr(build, "_flags", lambda: ["-O0"])
    keys |= {build._key(["c++"])}
    monkeypatch.setattr(build, "_processor", lambda: "another")
    keys |= {build._key(["c++"])}
    assert len(keys) == 4


def test_the_sources_are_part_of_the_name_it_is_filed_under(monkeypatch, tmp_path):
    for source in build.SOURCES.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    before = build._key(["c++"])
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    assert build._key(["c++"]) == before
    with open(tmp_path / "lanes.h", "a") as file:
        file.write("\n")
    assert build._key(["c++"]) != before


@pytest.mark.slow
def test_four_processes_compile_once_and_a_fifth_does_not(tmp_path):
    outputs = [ended(process) for process in [use(tmp_path) for _ in range(4)]]
    assert sum(out.count(COMPILING) for out in outputs) == 1
    assert sum(out.count(COMPILED) for out in outputs) == 1
    assert len({out.splitlines()[-1] for out in outputs}) == 1
    assert ended(use(tmp_path)) == outputs[0].splitlines()[-1] + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("with_its_compiler", [False, True])
def test_a_killed_compilation_leaves_nothing_in_the_way(tmp_path, with_its_compiler):
    killed = use(tmp_path)
    while not list(tmp_path.glob("*/tmp*")):
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    (os.killpg if with_its_compiler else os.kill)(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.rglob("fused.so"))
    out = ended(use(tmp_path))
    assert out.count(COMPILING) == 1
    assert out.count(COMPILED) == 1
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {".lock", "fused.so"}
