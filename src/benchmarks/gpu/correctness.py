"""The parts that check results: kernels, models, resumed runs, and the memory accesses of the kernels."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from src.benchmarks.gpu.compiled import for_every_model
from src.benchmarks.gpu.rows import Rows
from src.benchmarks.gpu.updates import How
from src.benchmarks.updates import MODELS
from src.config.paths import CHECKPOINTS, METRICS, PROJECT
from src.models.base import Core
from src.models.fastweights import FastWeights
from src.ops.inputs import Inputs
from src.ops.triton import fastweights as triton
from src.results.result import read_result
from src.specs import map_state, state_tensors
from src.training import checkpoint

SYMBOLS, FEATURES = 7, 4


def card(rows: Rows, device: str, tiny: bool) -> None:
    """The hardware and the software versions that the check runs on."""
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        memory = f"{found.total_memory / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}"
        rows.add("card", f"{found.name}, {memory}")
        rows.add("CUDA", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    rows.add("torch", torch.__version__)
    works = torch.ones(3, device=device).sum().item()
    rows.right("a sum", str(works), "3.0", works == 3)


def compared(core: Core, device: torch.device, batch: int, length: int, by_ids: bool, carried: bool) -> float:
    """The largest error of outputs, final state and gradients on a device, against the scan on the CPU in float64."""
    torch.manual_seed(0)
    dtype = next(core.parameters()).dtype
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # so that no parameter is 0 or 1
    x = torch.randn(SYMBOLS if by_ids else batch, *(() if by_ids else (length,)), FEATURES)
    ids = torch.randint(SYMBOLS, (batch, length)) if by_ids else None
    state = core.double().to("cpu").initial_state(batch)
    state = map_state(lambda t: t + (0.3 * torch.randn_like(t) if t.is_floating_point() else 0), state)

    def run(core: Core, kernel: str, dtype: torch.dtype, where: Any) -> list[Tensor]:
        core = core.to(device=where, dtype=dtype)
        core.kernel = kernel  # type: ignore[assignment]
        leaf = x.to(device=where, dtype=dtype).requires_grad_()

        def moved(tensor: Tensor) -> Tensor:
            tensor = tensor.detach().to(where)
            return tensor.to(dtype).requires_grad_() if tensor.is_floating_point() else tensor

        start = map_state(moved, state) if carried else None
        inputs = Inputs(core.project(leaf), None if ids is None else ids.to(where))
        y, end = core(inputs, start)
        results = [t for t in (y, *state_tensors(end)) if t.is_floating_point()]
        varying = [t for t in results if t.requires_grad]
        shares = [torch.cos(torch.arange(t.numel(), dtype=torch.float64)).view(t.shape).to(t) for t in varying]
        leaves = [t for t in state_tensors(start) if t.is_floating_point()] if carried else []
        gradients = torch.autograd.grad(
            varying, [leaf, *leaves, *core.parameters()], shares, allow_unused=True, materialize_grads=True
        )
        return [t.detach().double().cpu() for t in (*results, *gradients)]

    expected = run(core, "reference", torch.float64, "cpu")
    actual = run(core, "auto", dtype, device)
    return max(((a - e).abs().max() / (1 + e.abs().max())).item() for a, e in zip(actual, expected, strict=True))


def kernels(rows: Rows, device: str, tiny: bool) -> None:
    """The Triton kernels of fast weights, in both precisions, against the scan."""
    how = How.of(device, tiny)
    core = FastWeights(FEATURES, hidden_size=8).to(how.device)
    p = core.project(torch.zeros(1, 2, FEATURES, device=how.device))
    is_used = triton.available(Inputs(p), 8) and core.is_fused
    if how.device.type == "cuda":
        rows.right("the Triton kernels", "are used" if is_used else "are not used", "are used", is_used)
    norms: list[dict[str, Any]] = [{}, {"layer_norm": False, "fast_lr": 0.02}, {"layer_norm_preliminary": True}]
    for dtype, most in ((torch.float64, 1e-10), (torch.float32, 2e-4)):
        for units, length in [(5, 3)] if tiny else [(5, 1), (20, 11), (50, 11), (50, 150), (100, 70), (128, 11)]:
            what = f"{str(dtype).removeprefix('torch.')}, {units} units, T = {length}"
            with rows.trying(what):
                worst, count = 0.0, 0
                for norm, inner_steps, boundary in product(norms, (0, 1, 2), ("sustained", "identity")):
                    if length > 11 and (inner_steps != 1 or "fast_lr" in norm):
                        continue
                    settings = norm | {"num_inner_steps": inner_steps, "boundary": boundary}
                    for carried in (False, True):
                        made = FastWeights(FEATURES, hidden_size=units, **settings).to(dtype)
                        worst = max(worst, compared(made, how.device, 3, length, not carried, carried))
                        count += 1
                rows.right(what, f"{count} settings, largest error {worst:.1e}", f"below {most:.0e}", worst < most)


def every_model(rows: Rows, device: str, tiny: bool) -> None:
    """Every model in float64, in the form that it uses on the device, against its scan on the CPU."""
    for name, result in for_every_model(_compared, device, tiny):
        with rows.trying(name):
            worst, count = result()
            rows.right(name, f"{count} comparisons, largest error {worst:.1e}", "below 1e-10", worst < 1e-10)


def _compared(file: Path, device: str, tiny: bool) -> tuple[float, int]:
    how, errors = How.of(device, tiny), []
    for length, (by_ids, carried) in product((1, 11), ((False, True), (True, False))):
        torch.manual_seed(1)
        core = instantiate(OmegaConf.load(file), FEATURES, hidden_size=6).double()
        errors.append(compared(core, how.device, 3, length, by_ids, carried))
    core = instantiate(OmegaConf.load(file), FEATURES, hidden_size=6).double()
    errors.append(members_compared(core, how.device, 3, 11))
    return max(errors), len(errors)


class _Outputs(nn.Module):
    """The outputs of a core with replaced settings, as a module, so that its weights can be replaced as well."""

    def __init__(self, core: Core):
        super().__init__()
        self.core = core

    def forward(self, x_BTX: Tensor, settings: dict[str, Any]) -> Tensor:
        vars(self.core).update(settings)
        y_BTH, _ = self.core(self.core.project(x_BTX), return_state=False)
        return y_BTH


def members_compared(core: Core, device: torch.device, batch: int, length: int) -> float:
    """The largest error of outputs and gradients of two members of a population, against their scans on the CPU.

    The members differ in weights, inputs and all nonzero floats among the settings of the model.
    """
    torch.manual_seed(0)
    numbers = {key: value for key, value in vars(core).items() if isinstance(value, float) and value != 0}
    settings = [numbers, {key: 0.8 * value for key, value in numbers.items()}]
    x_PBTX = torch.randn(2, batch, length, FEATURES, dtype=torch.float64)
    stacked = {f"core.{name}": torch.stack([w.detach(), 0.9 * w.detach()]) for name, w in core.named_parameters()}

    def run(where: torch.device, kernel: str) -> list[Tensor]:
        network = _Outputs(core.to(where))
        core.kernel = kernel  # type: ignore[assignment]
        leaves = {name: w.to(where).requires_grad_() for name, w in stacked.items()}
        x = x_PBTX.to(where).requires_grad_()

        def outputs(weights: dict[str, Tensor], x_BTX: Tensor, settings: dict[str, Any]) -> Tensor:
            return torch.func.functional_call(network, weights, (x_BTX, settings))

        if kernel == "auto":
            columns = {key: torch.tensor([one[key] for one in settings], dtype=x.dtype).to(where) for key in numbers}
            y_PBTH = torch.func.vmap(outputs)(leaves, x, columns)
        else:
            each = [({name: w[m] for name, w in leaves.items()}, x[m], settings[m]) for m in range(2)]
            y_PBTH = torch.stack([outputs(*one) for one in each])
        sources = [x, *leaves.values()]
        gradients = torch.autograd.grad(y_PBTH.square().sum(), sources, allow_unused=True, materialize_grads=True)
        return [t.detach().cpu() for t in (y_PBTH, *gradients)]

    actual, expected = run(device, "auto"), run(torch.device("cpu"), "reference")
    return max(((a - e).abs().max() / (1 + e.abs().max())).item() for a, e in zip(actual, expected, strict=True))


def resumed(rows: Rows, device: str, tiny: bool) -> None:
    """Runs that are killed and restarted, against undisturbed ones: single runs, and three runs as one program."""
    how = How.of(device, tiny)
    updates, every = (60, 10) if tiny else (1000, 100)
    common = [f"device={how.device.type}", f"trainer.max_updates={updates}", f"trainer.eval_every={every}"]
    common += [f"trainer.checkpoint_every={every}", "task.train_size=5000", "task.val_size=500", "task.test_size=500"]
    common += ["model.hidden_size=8", "trainer.batch_size=8"] if tiny else []
    for name, settings in (
        ("fastweights", ["model=fastweights"]),
        ("lstm", ["model=lstm"]),
        ("three runs as one program", ["-m", "model=fastweights", "seed=0,1,2", "run.together=3"]),
    ):
        with rows.trying(name), tempfile.TemporaryDirectory() as root:
            command = [sys.executable, "-m", "src.train", *settings, *common]
            undisturbed, process = (_start(command, root, name) for name in ("whole", "killed"))
            while process.poll() is None and _reached(Path(root, "killed")) < updates // 2:
                time.sleep(0.02)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            at = _reached(Path(root, "killed"))
            for each in (undisturbed, _start(command, root, "killed")):
                if status := each.wait():
                    raise RuntimeError(f"{' '.join(command[1:])} ended with exit status {status}")
            whole, killed = (_ends(Path(root, name), how.device) for name in ("whole", "killed"))
            same = len(whole) > 0 and whole.keys() == killed.keys() and all(_same(whole[k], killed[k]) for k in whole)
            found = (
                f"killed at update {at} of {updates}: {'the same' if same else 'different'} weights, metrics and curves"
            )
            rows.right(name, found, "the same to the last bit", same and 0 < at < updates)


def _start(command: list[str], root: str, name: str) -> subprocess.Popen:
    arguments = [*command, f"run.root={root}", f"name={name}"]
    return subprocess.Popen(arguments, cwd=PROJECT, stdout=subprocess.DEVNULL, start_new_session=True)


def _reached(folder: Path) -> int:
    """The smallest update among the newest checkpoints of the runs in a folder; 0 while any run has none."""
    runs = [path for path in folder.glob("*/.hydra/..") if path.is_dir()]
    newest = [max((int(p.name[7:15]) for p in (run / CHECKPOINTS).glob("update-*.pt")), default=0) for run in runs]
    return min(newest, default=0)


def _ends(folder: Path, device: torch.device) -> dict[str, tuple[Any, Any]]:
    """The metrics, curves and selected weights of every run in a folder."""
    found = {}
    for run in sorted(path.parent for path in folder.glob("*/result.json")):
        result = read_result(run)
        content = checkpoint.load_newest(run / CHECKPOINTS, device, lambda content: content)
        if result is not None and content is not None:
            found[run.name] = (result["metrics"], (run / METRICS).read_bytes()), content["model"]
    return found


def _same(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    return a[0] == b[0] and all(torch.equal(a[1][name], b[1][name]) for name in a[1])


def sanitized(rows: Rows, device: str, tiny: bool) -> None:
    """The kernels under NVIDIA's compute-sanitizer, if it is installed."""
    how = How.of(device, tiny)
    program = shutil.which("compute-sanitizer")
    if program is None or how.device.type != "cuda":
        rows.add("compute-sanitizer", "not found on the PATH", "no error", "not run")
        return
    for tool in ("memcheck", "racecheck"):
        with rows.trying(tool):
            command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", __name__]
            ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
            print(ended.stdout[-4000:], ended.stderr[-2000:], flush=True)
            lines = ended.stdout.strip().splitlines() or [""]
            rows.right(tool, lines[-1][:200], "no error", ended.returncode == 0)


def _under_sanitizer() -> None:
    device = torch.device("cuda")
    for units, length in ((20, 11), (50, 70)):
        for inner_steps, preliminary in ((2, False), (1, True)):
            core = FastWeights(
                FEATURES, hidden_size=units, num_inner_steps=inner_steps, layer_norm_preliminary=preliminary
            )
            error = compared(core, device, 2, length, by_ids=length == 11, carried=True)
            assert error < 1e-3, error
    for model in ("lstm", "sparse_rnn"):  # generated kernels: with matrices in registers, and with tables
        core = instantiate(OmegaConf.load(MODELS / f"{model}.yaml"), FEATURES, hidden_size=20)
        error = compared(core, device, 2, 11, by_ids=True, carried=True)
        assert error < 1e-3, error
    print("done")


if __name__ == "__main__":
    _under_sanitizer()
