"""The benchmark of updates: its output, its ratios, and the operations and bytes that it counts."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from statistics import median

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scripts import benchmark
from src.benchmarks import updates
from src.benchmarks.updates import PausingClock, saved_bytes
from src.models.alstm import ALSTM
from src.models.fastweights import FastWeights
from src.models.gru import GRU
from src.models.lstm import LSTM
from src.models.rnn import RNN
from src.ops.cpu import calls
from src.ops.inputs import Inputs
from src.specs import map_state

MODELS = ("fastweights", "gru")


def run(*arguments):
    """Run the command in this process; return its exit status, standard output and standard error."""
    out, error, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr("sys.argv", ["benchmark.py", *map(str, arguments)])
        patch.setattr("src.benchmarks.updates.MATRIX_SIZE", 64)
        try:
            benchmark.main()
        except SystemExit as ended:
            status = ended.code
    return status, out.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The results of a small grid: the printed tables, the path of the figure, and the content of the JSON file."""
    folder = tmp_path_factory.mktemp("benchmark")
    grid = "--models", *MODELS, "--kernels", "auto", "vectorized", "--hidden-sizes", 4, "--lengths", 11, 22
    how = "--batch-size", 16, "--seconds", 0.02, "--rounds", 3
    status, tables, error = run(*grid, *how, "--json", folder / "all.json", "--figure", folder / "all.png")
    assert (status, error) == (0, "")
    return tables, folder / "all.png", json.loads((folder / "all.json").read_text())


def test_vectors_take_the_place_of_tokens(tmp_path):
    grid = "--models", "irnn", "--hidden-sizes", 4, "--lengths", 9, "--features", 2
    how = "--kernels", "vectorized", "--batch-size", 16, "--seconds", 0.02, "--rounds", 1
    status, tables, error = run(*grid, *how, "--json", tmp_path / "vectors.json")
    assert (status, error) == (0, "")
    assert "The fused kernel alone" not in tables
    (row,) = json.loads((tmp_path / "vectors.json").read_text())["rows"]
    assert (row["features"], row["own_layer"]) == (2, "nn.RNN")
    assert row["ratio_to_own_layer"] > 0
    status, _, error = run("--text", "--features", 2)
    assert (status, error) == (
        1,
        "error: --features: not with --text or --catch, which have inputs of their own (see --help)\n",
    )


def test_where_a_step_has_no_kernel_none_is_measured(tmp_path):
    how = "--batch-size", 4, "--seconds", 0.02, "--rounds", 1, "--hidden-sizes", 4, "--lengths", 6
    status, tables, error = run("--models", "attention", *how, "--json", tmp_path / "x.json")
    assert (status, error) == (0, "")
    assert "The fused kernel alone" not in tables
    (row,) = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert not {"kernel_ms", "outside_ms", "plain_ms", "paused_ms"} & set(row)


def test_everything_is_written(measured):
    table, figure, everything = measured
    assert "Updates of 16 sequences" in table
    assert ("The fused kernel alone" in table) == calls.available(torch.empty(0))
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert {"versions", "processor", "threads", "date"} <= set(everything["provenance"])

    rows = everything["rows"]
    cells = [(row["length"], row["model"], row["kernel"]) for row in rows]
    assert cells == [(t, model, kernel) for t in (11, 22) for model in MODELS for kernel in ("auto", "vectorized")]
    always = {"model", "kernel", "hidden_size", "length", "threads", "batch_size", "dtype", "rounds_ms", "state_size"}
    always |= {"update_ms", "update_iqr_ms", "sequences_per_second", "saved_bytes_per_sequence", "nn.LSTM_ms"}
    always |= {"own_layer", "ratio_to_own_layer", "ratio_to_lstm"}
    of_kernel = {"kernel_ms", "kernel_gflop", "kernel_gflop_per_second", "sgemm_ms", "sgemm_gflop_per_second"}
    of_kernel |= {"kernel_share_of_sgemm", "outside_ms", "plain_ms", "ratio_outside_to_plain"}
    of_kernel |= {"paused_ms", "ratio_outside_to_paused"}
    for row in rows:
        fused = row["kernel"] == "auto" and calls.available(torch.empty(0))
        own = {f"{row['own_layer']}_ms"} if row["own_layer"] else set()
        assert set(row) == always | own | (of_kernel if fused else set())


@pytest.mark.slow
def test_updates_of_a_language_model_are_measured(tmp_path):
    how = "--batch-size", 4, "--seconds", 0.02, "--rounds", 2, "--hidden-sizes", 4, "--lengths", 6
    status, table, error = run("--text", "--models", "cp_gate", "gru", *how, "--rank", 3, "--json", tmp_path / "x.json")
    assert (status, error) == (0, "")
    assert "Updates of 4 sequences" in table
    gate, gru = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert (gate["rank"], gate["own_layer"], gru["own_layer"]) == (3, None, "nn.GRU")
    for row in (gate, gru):
        assert row["ratio_to_lstm"] == pytest.approx(
            median(a / b for a, b in zip(*map(row["rounds_ms"].get, ("update", "nn.LSTM")), strict=True))
        )


@pytest.mark.slow
def test_the_linear_recurrence_is_measured_in_each_of_its_forms(tmp_path):
    how = "--batch-size", 2, "--seconds", 0.02, "--rounds", 2, "--hidden-sizes", 4, "--lengths", 6
    models = "--models", "retnet", "kda"
    status, table, error = run("--recurrence", *models, *how, "--chunk-size", 3, "--json", tmp_path / "x.json")
    assert (status, error) == (0, "")
    assert "The linear recurrence on 2 sequences" in table
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["retnet", "kda", "retnet", "retnet", "kda", "kda"]
    assert [row.get("chunk_size") for row in rows] == [3, 3, None, None, None, None]
    assert [row.get("task") for row in rows] == [None, None, *2 * ["stacked_recall", "mqar"]]
    for row in rows:
        assert (row["size"], row["length"]) == (4, 6)
        first, scan = next(iter(row["rounds_ms"].values())), row["rounds_ms"]["scan"]
        assert row["ratio_of_scan"] == pytest.approx(median(a / b for a, b in zip(scan, first, strict=True)))
        assert row["scan_ms"] == pytest.approx(median(scan))


def test_ratios_are_those_of_the_times(measured):
    for row in measured[2]["rows"]:
        rounds = row["rounds_ms"]
        assert {len(values) for values in rounds.values()} == {3}
        assert min(rounds["update"]) <= row["update_ms"] <= max(rounds["update"])
        assert row["sequences_per_second"] == pytest.approx(16 / (1e-3 * row["update_ms"]))
        lstm = median(a / b for a, b in zip(rounds["update"], rounds["nn.LSTM"], strict=True))
        assert row["ratio_to_lstm"] == pytest.approx(lstm)

        assert row["own_layer"] == {"fastweights": None, "gru": "nn.GRU"}[row["model"]]
        if row["own_layer"] is None:
            assert row["ratio_to_own_layer"] is None
        else:
            own = median(a / b for a, b in zip(rounds["update"], rounds[row["own_layer"]], strict=True))
            assert row["ratio_to_own_layer"] == pytest.approx(own)

        if "kernel_ms" in row:
            assert row["outside_ms"] == pytest.approx(median(rounds["outside"]))
            for below in ("plain", "paused"):
                ratio = median(a / b for a, b in zip(rounds["outside"], rounds[below], strict=True))
                assert row[f"ratio_outside_to_{below}"] == pytest.approx(ratio)
            assert row["kernel_gflop_per_second"] == pytest.approx(1e3 * row["kernel_gflop"] / row["kernel_ms"])


def test_the_clock_excludes_wrapped_functions(monkeypatch):
    seconds = 0

    def work(more):
        nonlocal seconds
        seconds += more

    monkeypatch.setattr(updates, "thread_time", lambda: seconds)
    clock = PausingClock()

    def nested():
        work(10)
        clock.without(work)(100)

    started = clock()
    work(1)
    clock.without(nested)()
    assert (clock() - started, seconds) == (1, 111)


def test_memory_grows_with_the_length(measured):
    rows = {(row["length"], row["model"], row["kernel"]): row for row in measured[2]["rows"]}
    for model in MODELS:
        for kernel in ("auto", "vectorized"):
            short, long = (rows[length, model, kernel]["saved_bytes_per_sequence"] for length in (11, 22))
            assert long > short
    # at least the outputs h(1) ... h(T) are saved, each with 4 units of 4 bytes
    assert rows[22, "fastweights", "vectorized"]["saved_bytes_per_sequence"] > 22 * 4 * 4


def test_bytes_are_counted_once_and_without_parameters():
    linear = torch.nn.Linear(3, 5)
    x, scale = torch.randn(7, 3), torch.randn(7, 5)

    def loss():
        y = linear(x)
        return (y * scale + y[1:].exp().sum()).sum()

    # saved: x, the factor `scale` of y, and the result of exp, for 6 of the 7 rows
    assert saved_bytes(linear, loss) == 4 * (7 * 3 + 7 * 5 + 6 * 5)


def counted(run):
    """The number of operations in the matrix products that torch executes in a forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        run().sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU, ALSTM])
def test_operations_of_recurrent_products(kind):
    """T steps from a nonzero state cost as much as T + 1 steps from 0: the first one needs no recurrent product."""
    core = kind(2, hidden_size=4)
    for length in (1, 2, 5):
        size = core.project(torch.randn(2)).shape[0]
        inputs, state = torch.randn(1, length, size), core.initial_state(1)
        h = (state[0] if isinstance(state, tuple) else state).requires_grad_()
        state = type(state)(h, *state[1:]) if isinstance(state, tuple) else h
        assert core.flops(length + 1) == counted(lambda i=inputs, s=state: core.scan(i, s)[0])
    assert core.flops(1) == 0


def literal_fast_weights(core, length, chunk):
    """Compute one sequence in the attention form, product by product, omitting products with 0."""
    states, before = [], None
    for k in range(length):
        if k and k % chunk == 0:
            past_kH = torch.cat(states[-chunk:][:-1] if before is None else states[-chunk - 1 : -1])
            written_HH = past_kH.t().clone() @ past_kH
            before = written_HH if before is None else before + written_HH
        start = max(k // chunk * chunk - 1, 0)  # the last state of the chunk before is not in `before` yet
        z_1H = torch.randn(1, core.hidden_size, requires_grad=True)
        if k:
            z_1H = z_1H + states[-1] @ core.recurrent.weight.t()
        h_1H = z_1H.tanh()
        for _ in range(core.num_inner_steps):
            a_1H = z_1H
            if states[start:]:
                past_kH = torch.cat(states[start:])
                a_1H = a_1H + (h_1H @ past_kH.t()) @ past_kH
            if before is not None:
                a_1H = a_1H + h_1H @ before
            h_1H = a_1H.tanh()
        states.append(h_1H)
    return torch.cat(states)


@pytest.mark.parametrize(("inner_steps", "length"), [(0, 4), (1, 1), (1, 2), (1, 6), (3, 5), (1, 64), (2, 150)])
def test_operations_of_fast_weights(inner_steps, length):
    core = FastWeights(2, hidden_size=3, num_inner_steps=inner_steps)
    assert core.flops(length) == counted(lambda: literal_fast_weights(core, length, 64))


@pytest.mark.parametrize("rule", ["hebbian", "delta"])
@pytest.mark.parametrize("memory_size", [None, 4])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_operations_of_fast_weights_with_learned_keys(inner_steps, memory_size, rule):
    settings = {"num_inner_steps": inner_steps, "association": "hetero", "memory_size": memory_size, "rule": rule}
    core = FastWeights(2, hidden_size=8, kernel="reference", **settings)
    state = map_state(lambda tensor: torch.randn_like(tensor).requires_grad_(), core.initial_state(1))

    def of_scan(length):
        return counted(lambda: core.scan(torch.randn(1, length, 8, requires_grad=True), state)[0])

    outer_product = 2 * 3 * core.recurrent_association.size**2  # which torch does not count
    assert core.flops(6) - core.flops(5) == of_scan(6) - of_scan(5) + outer_product


@pytest.mark.parametrize("units", [3, 70])
def test_chunks_are_those_of_the_model(units, monkeypatch):
    """The chunk length of the kernel is the one assumed when counting operations."""
    lengths = []
    split = Inputs.split
    monkeypatch.setattr(Inputs, "split", lambda self, num_steps: lengths.append(num_steps) or split(self, num_steps))
    core = FastWeights(2, hidden_size=units)
    if not calls.available(torch.empty(0)):
        pytest.skip("no compiler")
    core(torch.randn(1, 2, units))
    assert lengths == [max(64, units)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "transformer"], "--models"),
        (["--kernels", "fast"], "--kernels"),
        (["--hidden-sizes", "0"], "--hidden-sizes 0: must be at least 1"),
        (["--lengths", "eleven"], "--lengths"),
        (["--seconds", "-1"], "above 0"),
        (["--json", "missing/folder/all.json"], "missing/folder"),
        (["--no-such-thing"], "--no-such-thing"),
        (["--recurrence", "--models", "gru"], "--models gru: no linear recurrence to measure; legal: linear_attention"),
        (["--recurrence", "--models", "deltanet", "--lengths", "3"], "--lengths: must be 4 or more with --recurrence"),
        (["--recurrence", "--figure", "f.png"], "--figure: shows nn.LSTM"),
        (["--recurrence", "--threads", "1"], "--threads: has no effect with --recurrence"),
        (["--recurrence", "--kernels", "auto"], "--kernels: has no effect with --recurrence"),
        (["--recurrence", "--features", "1"], "--features: has no effect with --recurrence"),
        (["--recurrence", "--rank", "1"], "--rank: has no effect with --recurrence"),
        (["--catch", "--rank", "1"], "--rank: has no effect without --text"),
        (["--text", "--chunk-size", "8"], "--chunk-size: has no effect without --recurrence"),
    ],
)
def test_mistakes_give_one_line(arguments, said):
    status, out, error = run(*arguments)
    assert (status, out) == (1, "")
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_size_that_a_model_refuses_gives_one_line_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(benchmark, "measure", lambda *_, **__: pytest.fail("something is measured"))
    status, _, _ = run("--models", "rnn", "alstm", "--hidden-sizes", 6, 7)
    assert status == "error: hidden_size=7: must be even, for real and imaginary parts"


def test_help_explains_options_and_columns():
    status, out, _ = run("--help")
    assert status == 0
    assert all(word in out for word in ("--quick", "seconds", "saved_tensors_hooks", "sgemm"))


def test_quick_keeps_given_options(monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--quick", "--hidden-sizes", "7"])
    arguments = benchmark.parse()
    assert arguments.hidden_size == [7]
    assert arguments.model == benchmark.QUICK["model"]


def test_catch_is_compared_with_the_plain_loop(tmp_path):
    how = "--lengths", 3, "--hidden-sizes", 4, "--batch-size", 4, "--seconds", 0.02, "--rounds", 2
    status, table, error = run("--catch", "--models", "rnn", *how, "--json", tmp_path / "catch.json")
    assert (status, error) == (0, "")
    assert "Updates of 4 episodes" in table
    (row,) = json.loads((tmp_path / "catch.json").read_text())["rows"]
    ratios = [loop / update for loop, update in zip(row["rounds_ms"]["loop"], row["rounds_ms"]["update"], strict=True)]
    assert row["ratio_of_loop"] == pytest.approx(median(ratios))
    assert row["actions_per_second"] == pytest.approx(1e3 * 4 * 3 / row["update_ms"])
    assert run("--catch", "--text")[0] == 1
    assert run("--catch", "--lengths", 1)[0] == 1
