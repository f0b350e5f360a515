"""Compilation happens once, in one process at a time, and where it is impossible, a slower form takes over."""

import ctypes
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from src.config.errors import UserError
from src.config.paths import PROJECT
from src.models.fastweights import FastWeights
from src.models.retnet import RetNet
from src.models.rnn import RNN
from src.ops.cpu import build, calls
from src.utils.files import FolderInUseError

WORK = """
import logging
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
import torch
from src.models.fastweights import FastWeights
from src.models.rnn import RNN
torch.manual_seed(0)
for core in (FastWeights(3, hidden_size=4), RNN(3, hidden_size=4)):
    print(core.is_fused, core(torch.ones(8, 3, 4))[0].sum().item())
"""
COMPARE = """
import torch
from src.models.deltanet import DeltaNet
from src.models.fastweights import FastWeights
from src.models.lstm import LSTM
from src.ops.cpu import calls

def outputs_and_gradients(core, kernel, x_BTX):
    core.kernel = kernel
    core.zero_grad()
    y_BTH, _ = core(core.project(x_BTX))
    y_BTH.square().sum().backward()
    return [y_BTH.detach(), *(parameter.grad.clone() for parameter in core.parameters())]

torch.manual_seed(0)
for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
    for core in (FastWeights(9, hidden_size=9), LSTM(9, hidden_size=21), DeltaNet(9, hidden_size=9)):
        core.to(dtype)
        for batch in (1, 19):
            x_BTX = torch.randn(batch, 6, 9, dtype=dtype)
            found, expected = (outputs_and_gradients(core, kernel, x_BTX) for kernel in ("fused", "reference"))
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
print(calls.vector_bytes())
"""
COMPILING, COMPILED = "INFO compiling the", "INFO compiled in"
LIBRARIES = 2  # the hand-written kernels, and the step of an RNN


def use(folder):
    """Start another process that uses kernels and compiles them into this folder."""
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
    assert out.count("True") == 2
    return out


def results(out):
    return [line for line in out.splitlines() if line.startswith("True")]


@pytest.fixture(scope="module")
def whole():
    """The content of the library of hand-written kernels."""
    return Path(build.library()._name).read_bytes()


@pytest.fixture
def uncompiled(tmp_path, monkeypatch):
    """Reset this process to the state before its first use of a kernel, with nothing compiled yet."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    libraries = build.library, build.one_lane_library, build.linear_library
    caches = *libraries, build.step_library, build.one_lane_step_library, build._key
    for cached in caches:
        cached.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def without_steps(tmp_path, monkeypatch):
    """Keep the hand-written kernels of this process, but no compiled step."""
    assert build.library() is not None
    assert build.one_lane_library() is not None
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    build.step_library.cache_clear()
    build.one_lane_step_library.cache_clear()
    yield
    build.step_library.cache_clear()
    build.one_lane_step_library.cache_clear()


def the_only_warning(caplog):
    """Use kernels twice, check that the results are those of the vectorized form, and return what the warning says."""
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
    assert record.getMessage().startswith("the fused kernels are not available, so a slower form is used: ")
    return record.getMessage().partition(": ")[2]


def test_without_a_compiler_a_slower_form_takes_over(uncompiled, monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(uncompiled))
    assert the_only_warning(caplog) == f"no C++ compiler: c++ is not on the path ({build.INSTALL})"


def test_a_compiler_that_does_not_run(uncompiled, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "false")
    assert the_only_warning(caplog) == f"false --version failed with status 1 ({build.INSTALL})"


def test_a_compiler_that_fails_is_quoted(uncompiled, monkeypatch, caplog):
    compiler = uncompiled / "broken-c++"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no room for a template" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert the_only_warning(caplog) == f"{compiler} failed: no room for a template"
    assert not list((uncompiled / "extensions").rglob("*.so"))


def test_a_folder_that_cannot_be_made(uncompiled, monkeypatch, caplog):
    (uncompiled / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(uncompiled / "file"))
    folder = build.cache_folder()
    assert the_only_warning(caplog) == f"{folder}: Not a directory; {build.ELSEWHERE}"


def test_a_folder_where_another_process_compiles_without_end(uncompiled, monkeypatch, caplog):
    @contextmanager
    def in_use(folder, patience):
        raise FolderInUseError(f"{folder.parent.name} is in use by process 5")
        yield

    monkeypatch.setattr(build, "locked", in_use)
    says = "extensions is in use by process 5, which has not finished compiling within 10 minutes"
    assert the_only_warning(caplog) == says


def test_a_file_system_that_runs_no_programs(uncompiled, monkeypatch, caplog):
    """As when it is mounted noexec: the library is compiled, but cannot be loaded."""

    def refused(path, mode):
        raise OSError(f"{Path(path).name}: failed to map segment from shared object")

    monkeypatch.setattr(build, "_compile", written(b"whole"))
    monkeypatch.setattr(ctypes, "CDLL", refused)
    says = "failed to map segment from shared object; is that file system mounted noexec? "
    assert the_only_warning(caplog) == f"{build._name(b'whole')}: {says}{build.ELSEWHERE}"


def written(content):
    """A compilation that writes this content and counts its calls."""

    def compile_(folder, sources, what):
        compile_.calls += 1
        (folder / build._name(content)).write_bytes(content)
        return folder / build._name(content)

    compile_.calls = 0
    return compile_


def lengthened(path):
    path.write_bytes(path.read_bytes() + b"0")


def replaced_by_a_link(path):
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 20_000),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_text("text"),
        lambda path: path.write_bytes(bytes(range(256)) * 1000),
        lengthened,
        replaced_by_a_link,
    ],
    ids=["truncated", "empty", "text", "garbage", "lengthened", "link"],
)
def test_a_damaged_library_is_compiled_again_once(whole, uncompiled, damage, monkeypatch, caplog):
    def compiler(command, **_):
        if "-o" in command:
            Path(command[-1]).write_bytes(whole)
        if "-shared" in command and "-c" not in command:
            libraries.append(command)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    libraries = []
    monkeypatch.setattr(subprocess, "run", compiler)
    path, again = (build._compiled(build.cache_folder(), [Path("a.cpp")], "the kernels") for _ in range(2))
    assert again == path
    assert len(libraries) == 1
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert build.library() is not None
    assert [record.getMessage() for record in caplog.records] == [f"{path} is damaged; compiling it again"]
    build.library.cache_clear()
    assert build.library() is not None
    assert len(libraries) == 2
    assert path.read_bytes() == whole


def key(*compiler):
    build._key.cache_clear()
    return build._key(compiler)


@pytest.mark.usefixtures("uncompiled")
def test_what_is_compiled_is_filed_by_flags_and_compiler(monkeypatch):
    keys = {key("c++"), key("c++", "-v")}
    assert key("c++", "-DSLOW") not in keys
    monkeypatch.setattr(build, "_flags", lambda: ["-O0"])
    keys |= {key("c++")}
    monkeypatch.setattr(build, "_processor", lambda: "another")
    keys |= {key("c++")}
    assert len(keys) == 4


@pytest.mark.usefixtures("uncompiled")
def test_the_sources_are_part_of_the_name_it_is_filed_under(monkeypatch, tmp_path):
    sources = tmp_path / "csrc"
    sources.mkdir()
    for source in build.SOURCES.iterdir():
        (sources / source.name).write_bytes(source.read_bytes())
    before = key("c++")
    monkeypatch.setattr(build, "SOURCES", sources)
    assert key("c++") == before
    with open(sources / "lanes.h", "a") as file:
        file.write("\n")
    assert key("c++") != before


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are flags for x86 processors")
@pytest.mark.parametrize(("without", "widest"), [("-mno-avx512f", 32), ("-mno-avx", 16)])
def test_vectors_of_other_widths_give_the_same(without, widest, tmp_path):
    """Kernels compiled as for a processor with narrower registers, which lack some instructions of this one."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMPARE],
        cwd=PROJECT,
        env=dict(os.environ, CXX=f"c++ {without}", TORCH_EXTENSIONS_DIR=str(tmp_path), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) <= widest


def step_folders(folder):
    return sorted(folder.glob("step_*"))


@pytest.mark.usefixtures("without_steps")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="this is a flag for x86 processors")
def test_a_step_with_other_vectors_than_the_library_is_scanned(monkeypatch, caplog):
    """As when compiling for this processor fails only once; together they would write beyond the end of tensors."""
    if calls.vector_bytes() == 16:
        pytest.skip("this processor has no wider vectors")
    flags = build._flags()
    monkeypatch.setattr(build, "_flags", lambda: [*flags, "-mno-avx"])
    monkeypatch.setenv("CXX", "c++")  # without the precompiled headers, which may be those of another clone
    core, p_BTH = RNN(3, hidden_size=4), torch.randn(5, 3, 4)
    with caplog.at_level(logging.WARNING):
        y_BTH, _ = core(p_BTH)
    assert "symbol" in caplog.text  # one that the library lacks
    assert torch.equal(y_BTH, core.scan(p_BTH)[0])


@pytest.mark.usefixtures("without_steps")
def test_a_damaged_library_of_a_step_is_compiled_again_once(caplog):
    expected = None
    for damage in (None, lambda path: os.truncate(path, 20_000), lambda path: path.write_text("text")):
        build.step_library.cache_clear()
        if damage:
            (folder,) = step_folders(build.cache_folder())
            (path,) = folder.glob("*.so")
            path.unlink()  # a loaded library keeps its content
            path.write_bytes(b"0" * 30_000)
            damage(path)
            caplog.clear()
        with caplog.at_level(logging.INFO):
            torch.manual_seed(0)
            core = RNN(3, hidden_size=4)
            y_BTH, _ = core(torch.ones(8, 3, 4))
        assert core.is_fused
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert said == ([f"{path} is damaged; compiling it again"] if damage else [])
        starts = [
            record for record in caplog.records if "compiling the kernel of RNN (only once)" in record.getMessage()
        ]
        assert len(starts) == 1
        assert expected is None or torch.equal(y_BTH, expected)
        expected = y_BTH


@pytest.mark.usefixtures("without_steps")
def test_a_step_that_cannot_be_compiled_is_scanned_after_one_warning(monkeypatch, caplog):
    """As when the compiler is removed or the disk is full after the hand-written kernels have been compiled."""
    core, p_BTH = RNN(3, hidden_size=4), torch.randn(2, 3, 4)
    compile_ = build._compile

    def fails(folder, sources, what):
        if isinstance(sources, str):
            raise OSError(28, "No space left on device", str(folder))
        return compile_(folder, sources, what)

    monkeypatch.setattr(build, "_compile", fails)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(core(p_BTH)[0], core.scan(p_BTH)[0])
    assert not core.is_fused
    (record,) = caplog.records
    says = "RNN: its kernel is not available, so a slower form is used: "
    assert record.getMessage().startswith(says)
    assert record.getMessage().endswith(f"No space left on device; {build.ELSEWHERE}")


@pytest.mark.usefixtures("without_steps")
def test_without_the_kernels_for_few_sequences_those_for_many_compute_them(monkeypatch, caplog):
    core, p_BTH = RNN(3, hidden_size=4, kernel="fused"), torch.randn(3, 3, 4)
    compile_ = build._compile

    def fails(folder, sources, what, *own):
        if own:
            raise OSError(28, "No space left on device", str(folder))
        return compile_(folder, sources, what)

    monkeypatch.setattr(build, "_compile", fails)
    with caplog.at_level(logging.WARNING):
        alone = torch.cat([core(p_TH[None])[0] for p_TH in p_BTH])
    assert torch.equal(alone, core(p_BTH)[0])
    (record,) = caplog.records
    says = "the kernel of RNN for few sequences is not available, so a slower form is used: "
    assert record.getMessage().startswith(says)
    assert record.getMessage().endswith(f"No space left on device; {build.ELSEWHERE}")


@pytest.mark.slow
def test_four_processes_compile_once_and_a_fifth_does_not(tmp_path):
    outputs = [ended(process) for process in [use(tmp_path) for _ in range(4)]]
    assert sum(out.count(COMPILING) for out in outputs) == LIBRARIES
    assert sum(out.count(COMPILED) for out in outputs) == LIBRARIES
    assert len({tuple(results(out)) for out in outputs}) == 1
    assert ended(use(tmp_path)).splitlines() == results(outputs[0])


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
    assert not list(tmp_path.rglob("fused.*.so"))
    out = ended(use(tmp_path))
    assert out.count(COMPILING) == LIBRARIES
    assert out.count(COMPILED) == LIBRARIES
    (folder,) = tmp_path.iterdir()
    (library,) = folder.glob("fused.*.so")
    (of_step,) = step_folders(folder)
    assert {path.name for path in folder.iterdir()} == {".lock", library.name, of_step.name, "recipes"}
    (library,) = of_step.glob("fused.*.so")
    assert {path.name for path in of_step.iterdir()} == {".lock", library.name}
    assert len(list((folder / "recipes").iterdir())) == 1


@pytest.mark.parametrize(
    ("refused", "left_out"),
    [
        (["-fopenmp"], "-fopenmp"),
        (["native"], "-march=native"),
        (["-fopenmp", "native"], "-march=native and -fopenmp"),
    ],
    ids=str,
)
def test_a_flag_that_the_compiler_does_not_have_is_left_out_and_named(refused, left_out, tmp_path, monkeypatch, caplog):
    def compiler(command, **_):
        for flag in command:
            if any(word in flag for word in refused):
                return subprocess.CompletedProcess(command, 1, "", f"no such flag: {flag}\n  sorry")
        Path(command[-1]).write_bytes(b"whole")
        compilations.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    compilations = []
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(subprocess, "run", compiler)
    monkeypatch.setattr(build, "_flags", lambda: ["-O3", "-march=native", "-fopenmp"])
    with caplog.at_level(logging.WARNING):
        assert build._compile(tmp_path, [Path("a.cpp")], "the kernels").read_bytes() == b"whole"
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"the kernels: compiled without {left_out}, so slower: c++ failed: no such flag: -"
    )
    assert record.getMessage().endswith(" sorry")
    ((*_, source, _, _),) = compilations
    assert source == "a.cpp"


def test_several_files_are_compiled_at_the_same_time_and_linked(tmp_path, monkeypatch):
    at_the_same_time = threading.Barrier(3)

    def compiler(command, **_):
        if "-c" in command:
            at_the_same_time.wait(timeout=60)
        else:
            linked.append(command)
        Path(command[-1]).write_bytes(b"whole")
        return subprocess.CompletedProcess(command, 0, "", "")

    linked = []
    monkeypatch.setattr(subprocess, "run", compiler)
    sources = [Path(f"{name}.cpp") for name in "abc"]
    assert build._compile(tmp_path, sources, "the kernels").read_bytes() == b"whole"
    ((*_, a, b, c, _, _),) = linked
    assert [Path(name).name for name in (a, b, c)] == ["a.o", "b.o", "c.o"]


def test_the_linear_recurrence_is_compiled_at_its_first_use_and_may_be_missing(monkeypatch, caplog):
    build.linear_library.cache_clear()
    asked = []

    def refuse(source, name):
        asked.append(name)
        raise UserError("no room")

    monkeypatch.setattr(build, "step_library", refuse)
    core, p_BTH = FastWeights(3, hidden_size=4), torch.randn(2, 3, 4)
    core(p_BTH)
    assert asked == []
    core = RetNet(3, hidden_size=4)
    with caplog.at_level(logging.WARNING):
        y_BTH, _ = core(core.project(torch.randn(2, 3, 3)))
        core(core.project(torch.randn(2, 3, 3)))
    assert (y_BTH.shape, asked) == ((2, 3, 4), ["the linear recurrence"])
    said = "the kernel of the linear recurrence is not available, so a slower form is used: no room"
    assert [record.getMessage() for record in caplog.records] == [said]
    build.linear_library.cache_clear()
