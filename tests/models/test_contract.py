"""The contract of every core; each file in configs/model is picked up automatically.

Shapes: B sequences, T time steps, X input features, P projected features, H hidden units.
"""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from src.config.errors import UserError
from src.models.base import Core
from src.models.fastweights import FastWeights
from src.models.memory_core import MemoryCore
from src.models.sequence import SequenceModel
from src.ops.cpu import calls
from src.ops.generated.form import is_generated
from src.ops.inputs import Inputs, steps
from src.specs import InputSpec, OutputSpec, map_state, state_tensors
from tests.models.cores import (
    FILES,
    MODELS,
    VARIANTS,
    WITHOUT_KERNEL,
    B,
    H,
    T,
    X,
    each_with_kernels,
    example,
    keywords,
    random_state,
)

REFUSED = {type(example(make)) for make in MODELS if make.name in WITHOUT_KERNEL}

each_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.name)
each_variant = pytest.mark.parametrize("make", VARIANTS, ids=lambda make: make.name)


def of_models(make, form=None):
    """The marks of a test that by default runs only for the files as they are."""
    return [] if make.name in {model.name for model in MODELS} else [pytest.mark.slow]


def of_models_if_generated(make, form):
    """The same for a test that is slow only where a kernel has to be generated and compiled for it."""
    return of_models(make) if is_generated(form) else []


def forms(marks):
    """Every form of every variant; all cores with a memory share the code of the scan, so it is tested for one."""
    return [
        pytest.param(make, number, id=f"{make.name}-{form.kernel}", marks=marks(make, form))
        for make in VARIANTS
        for number, form in enumerate(example(make).forms())
        if form.kernel != "reference" or make.name == "deltanet" or not isinstance(example(make), MemoryCore)
    ]


def of_models_if_alone(make, form):
    """The same for kernels of one sequence at a time, which by default are generated for a few models only."""
    return [pytest.mark.slow] if is_generated(form) and make.name not in ("nested", "lstm", "srwm") else of_models(make)


each_form = pytest.mark.parametrize(("make", "number"), forms(of_models_if_generated))
each_form_of_models = pytest.mark.parametrize(("make", "number"), forms(of_models))
each_form_alone = pytest.mark.parametrize(("make", "number"), forms(of_models_if_alone))
each_of_models = pytest.mark.parametrize(
    "make", [pytest.param(make, id=make.name, marks=of_models(make)) for make in VARIANTS]
)


def sequence_model(make, num_symbols, num_classes, embedding_size, hidden_size, **settings):
    return SequenceModel(
        InputSpec("tokens", num_symbols),
        OutputSpec("class", num_classes),
        lambda input_size: make(input_size, hidden_size=hidden_size, **settings),
        embedding_size=embedding_size,
    )


def form_of(core, number, length, resets_BT=None):
    """A function that runs one of the core's forms; skips the test if this form need not serve these sequences."""
    form = tuple(core.forms())[number]
    if not form.serves(Inputs(core.project(torch.zeros(B, length, X)), resets=resets_BT)):
        lacks_settings = isinstance(core, FastWeights) and not is_generated(form)
        may_lack = form.kernel != "fused" or lacks_settings or type(core) in REFUSED
        assert may_lack or not calls.available(torch.empty(0))
        pytest.skip(f"{form.kernel} does not serve these inputs")

    def run(core, p, state=None):
        return form.compute(Inputs(p, resets=resets_BT), state, True, True)

    return run


def forward(core, p, state=None):
    return core(p, state)


def scan(core, p, state=None):
    """A whole sequence by definition: one step after another."""
    state = core.initial_state(len(state_tensors(p)[0])) if state is None else state
    outputs = []
    for p_t in steps(p):
        y_BH, state = core.step(p_t, state)
        outputs.append(y_BH)
    return torch.stack(outputs, dim=1), state


def in_pieces(run):
    """The same run in three pieces, of 4 steps, 1 step and the rest, with the state passed on."""

    def run_pieces(core, p, state=None):
        outputs = []
        for start, end in [(0, 4), (4, 5), (5, None)]:
            y_BTH, state = run(core, map_state(lambda tensor, a=start, b=end: tensor[:, a:b], p), state)
            outputs.append(y_BTH)
        return torch.cat(outputs, dim=1), state

    return run_pieces


def starting_anew(resets_BT):
    """The scan of each sequence by itself, piece by piece; every piece after a reset starts from the initial state."""

    def run_pieces(core, p, state=None):
        state = core.initial_state(B) if state is None else state
        outputs, ends = [], []
        for n, resets_T in enumerate(resets_BT):
            start, y_TH = map_state(lambda tensor, n=n: tensor[n : n + 1], state), []
            places = sorted({0, *resets_T.nonzero().flatten().tolist()})
            for a, b in zip(places, [*places[1:], len(resets_T)], strict=True):
                start = core.initial_state(1) if resets_T[a] else start
                piece = map_state(lambda tensor, n=n, a=a, b=b: tensor[n : n + 1, a:b], p)
                y_1TH, start = scan(core, piece, start)
                y_TH.append(y_1TH)
            outputs.append(torch.cat(y_TH, dim=1))
            ends.append(state_tensors(start))
        together = iter([torch.cat(tensors) for tensors in zip(*ends, strict=True)])
        return torch.cat(outputs), map_state(lambda _: next(together), state)

    return run_pieces


def is_float(tensor):
    return tensor.is_floating_point()


def everything(core, run, x_BTX, state):
    """Outputs, the final state, and all gradients of a random functional of both."""
    x_BTX = x_BTX.clone().requires_grad_()
    if state is not None:
        state = map_state(lambda tensor: tensor.clone().requires_grad_(is_float(tensor)), state)
    y_BTH, end = run(core, core.project(x_BTX), state)
    results = [y_BTH, *state_tensors(end)]
    generator = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in filter(is_float, results))
    start = [] if state is None else filter(is_float, state_tensors(state))
    sources = [x_BTX, *start, *core.parameters()]
    results += torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
    assert all(torch.isfinite(result).all() for result in results)
    return results


def assert_same(core, run_a, run_b, x_BTX, state):
    for a, b in zip(everything(core, run_a, x_BTX, state), everything(core, run_b, x_BTX, state), strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def hold_to_the_scan(make, number, length):
    core = make()
    run, x_BTX = form_of(core, number, length), torch.randn(B, length, X)
    assert_same(core, run, scan, x_BTX, None)
    assert_same(core, run, scan, x_BTX, random_state(core))


@each_form
def test_every_form_is_the_scan_of_step_with_all_gradients(make, number):
    hold_to_the_scan(make, number, T)


@each_form_of_models
@pytest.mark.parametrize("length", [1, pytest.param(2, marks=pytest.mark.slow), 11])
def test_that_holds_at_every_length(make, number, length):
    hold_to_the_scan(make, number, length)


@pytest.mark.parametrize(
    ("make", "kernel"),
    [
        pytest.param(make, kernel, id=f"{make.name}-{kernel}", marks=of_models(make))
        for make, kernel in each_with_kernels(VARIANTS)
    ],
)
def test_forward_is_the_scan_of_step_whatever_the_kernel(make, kernel):
    core, x_BTX = make(kernel=kernel), torch.randn(B, 11, X)
    assert_same(core, forward, scan, x_BTX, None)
    assert_same(core, forward, scan, x_BTX, random_state(core))


@each_form_of_models
def test_every_form_may_be_asked_for_less(make, number):
    """Without the sequence, only the last output is returned; without the state, the outputs are the same."""
    core = make()
    form_of(core, number, 11)
    form, p = tuple(core.forms())[number], core.project(torch.randn(B, 11, X))
    for state in (None, random_state(core)):
        y_BTH, end = form.compute(Inputs(p), state, True, True)
        last_BH, last_end = form.compute(Inputs(p), state, True, False)
        assert_close(form.compute(Inputs(p), state, False, True)[0], y_BTH, rtol=0, atol=1e-12)
        assert_close(form.compute(Inputs(p), state, False, False)[0], y_BTH[:, -1], rtol=0, atol=1e-12)
        assert_close(last_BH, y_BTH[:, -1], rtol=0, atol=1e-12)
        assert_close(state_tensors(last_end), state_tensors(end), rtol=0, atol=1e-12)


@each_of_models
@pytest.mark.parametrize("length", [1, 11])
def test_the_last_output_alone_is_the_last_of_all_with_its_gradients(make, length):
    core = make()
    x_BTX = torch.randn(B, length, X)

    def last_of_all(core, p, state):
        y_BTH, end = core(p, state)
        return y_BTH[:, -1], end

    def last_alone(core, p, state):
        return core(p, state, return_sequence=False)

    def without_the_state(run):
        return lambda core, p, state: (run(core, p, state), core.initial_state(B))

    for state in (None, random_state(core)):
        assert_same(core, last_of_all, last_alone, x_BTX, state)
        assert_same(
            core,
            without_the_state(lambda core, p, state: core(p, state)[0][:, -1]),
            without_the_state(lambda core, p, state: core(p, state, return_state=False, return_sequence=False)[0]),
            x_BTX,
            state,
        )


@each_form
def test_pieces_with_the_state_passed_on_are_the_whole(make, number):
    core = make()
    run, x_BTX = form_of(core, number, 11), torch.randn(B, 11, X)
    assert_same(core, run, in_pieces(run), x_BTX, None)
    assert_same(core, run, in_pieces(run), x_BTX, random_state(core))


@pytest.mark.parametrize("make", [make for make in MODELS if make.name in WITHOUT_KERNEL], ids=lambda make: make.name)
def test_a_kernel_that_cannot_be_had_is_an_error_that_says_why(make):
    core = make(kernel="fused")
    if not calls.available(torch.empty(0)):
        pytest.skip("no compiler")
    start = rf"^model\.kernel=fused: there is no kernel for the step of {type(core).__name__}: "
    with pytest.raises(UserError, match=start + f".*{WITHOUT_KERNEL[make.name]}"):
        core(core.project(torch.randn(B, T, X)))
    core.kernel = "auto"
    assert_same(core, forward, scan, torch.randn(B, T, X), None)


@each_model
def test_a_sequence_without_a_step_is_an_error(make):
    core = make()
    with pytest.raises(ValueError, match="at least one time step"):
        core(core.project(torch.randn(B, 0, X)))


class Sorted(Core):
    """A core with an operation for which there is no kernel."""

    def __init__(self, kernel):
        super().__init__(X, H, kernel)
        self.recurrent = nn.Linear(H, X)

    def initial_state(self, batch_size):
        return self.zeros(batch_size, H)

    def step(self, p, h):
        a = torch.sort(self.recurrent(h) + p, dim=1).values
        h = functional.pad(torch.tanh(a), (0, H - X))
        return h, h


def test_an_operation_without_a_kernel_is_an_error_that_names_it_with_its_line():
    if not calls.available(torch.empty(0)):
        pytest.skip("no compiler")
    core, p = Sorted("fused"), torch.randn(B, T, X)
    with pytest.raises(UserError) as raised:
        core(p)
    line = Sorted.step.__code__.co_firstlineno + 1
    assert str(raised.value) == (
        "model.kernel=fused: there is no kernel for the step of Sorted: aten.sort.default in line "
        f"{line} of {__file__}: a = torch.sort(self.recurrent(h) + p, dim=1).values"
    )
    assert_same(Sorted("auto"), forward, scan, p, None)


@each_form
@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 11])
def test_resets_are_fresh_starts_with_all_gradients(make, number, length):
    core = make()
    resets_BT = torch.rand(B, length) < 0.25
    resets_BT[0], resets_BT[1, 0], resets_BT[2, 0], resets_BT[2, -1] = False, True, False, True
    run, x_BTX = form_of(core, number, length, resets_BT), torch.randn(B, length, X)
    assert_same(core, run, starting_anew(resets_BT), x_BTX, None)
    assert_same(core, run, starting_anew(resets_BT), x_BTX, random_state(core))


@each_of_models
def test_forward_honors_resets_whatever_serves_them(make):
    core, x_BTX, resets_BT = make(), torch.randn(B, T, X), torch.rand(B, T) < 0.3

    def forward_with_resets(core, p, state=None):
        return core(Inputs(p, resets=resets_BT), state)

    assert_same(core, forward_with_resets, starting_anew(resets_BT), x_BTX, random_state(core))


@each_form_of_models
def test_rows_of_a_batch_do_not_see_each_other(make, number):
    core = make()
    run, x_BTX = form_of(core, number, T), torch.randn(B, T, X, requires_grad=True)
    y_BTH, _ = run(core, core.project(x_BTX))
    (gradient_BTX,) = torch.autograd.grad(y_BTH[0].square().sum(), x_BTX)
    assert gradient_BTX[0].any()
    assert not gradient_BTX[1:].any()
    order = torch.tensor([2, 0, 1])
    assert_close(run(core, core.project(x_BTX[order]))[0], y_BTH[order], rtol=1e-12, atol=1e-12)


@each_form_of_models
def test_no_output_sees_the_future(make, number):
    core = make()
    run, x_BTX = form_of(core, number, T), torch.randn(B, T, X, requires_grad=True)
    y_BTH, _ = run(core, core.project(x_BTX))
    for t in range(T):
        (gradient_BTX,) = torch.autograd.grad(y_BTH[:, t].square().sum(), x_BTX, retain_graph=True)
        assert gradient_BTX[:, t].any()
        assert not gradient_BTX[:, t + 1 :].any()


@each_form_alone
def test_a_batch_of_one_is_a_row_of_a_batch(make, number):
    core = make()
    run, x_BTX = form_of(core, number, T), torch.randn(B, T, X)
    one, all_of_them = run(core, core.project(x_BTX[:1])), run(core, core.project(x_BTX))
    first = map_state(lambda tensor: tensor[:1], all_of_them)
    assert_close(state_tensors(one), state_tensors(first), rtol=1e-12, atol=1e-12)


@each_of_models
def test_a_table_with_ids_is_the_vectors_with_all_gradients(make):
    core, ids_BT = make(), torch.randint(5, (B, T))

    def by_ids(core, p, state):
        return core(Inputs(map_state(lambda tensor: tensor[0], p), ids_BT), state)

    def by_vectors(core, p, state):
        return core(map_state(lambda tensor: tensor[0][ids_BT], p), state)

    assert_same(core, by_ids, by_vectors, torch.randn(1, 5, X), None)
    assert_same(core, by_ids, by_vectors, torch.randn(1, 5, X), random_state(core))


@each_variant
def test_project_acts_position_by_position(make):
    core, x_BTX = make(), torch.randn(B, T, X)
    whole, single = steps(core.project(x_BTX)), [core.project(x_BX) for x_BX in x_BTX.unbind(1)]
    assert_close([state_tensors(p) for p in whole], [state_tensors(p) for p in single], rtol=1e-12, atol=1e-12)


@each_variant
def test_outputs_and_states_have_the_stated_sizes(make):
    core = make(kernel="reference")
    y_BTH, state = core(core.project(torch.randn(B, T, X)))
    assert y_BTH.shape == (B, T, core.output_size)
    assert core.hidden_size == H
    start = core.initial_state(B)
    assert type(state) is type(start)
    for actual, expected in zip(state_tensors(state), state_tensors(start), strict=True):
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert core.state_size * B == sum(tensor.numel() for tensor in state_tensors(state))


@each_model
def test_num_parameters_counts_embedding_core_and_head(make):
    model = sequence_model(make, num_symbols=5, num_classes=2, embedding_size=X, hidden_size=H)
    in_core = sum(parameter.numel() for parameter in make().parameters())
    assert model.num_parameters == 5 * X + in_core + 2 * (model.core.output_size + 1)


@each_variant
def test_every_parameter_receives_a_gradient(make):
    core = make(kernel="reference")
    y_BTH, _ = core(core.project(torch.randn(B, T, X)))
    (y_BTH * torch.randn_like(y_BTH)).sum().backward()
    for name, parameter in core.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@each_variant
def test_a_state_shares_no_memory_with_the_weights(make):
    """Otherwise a state that is carried to the next update would change with the weights, but not after resuming."""
    core = make()
    weights = {parameter.untyped_storage().data_ptr() for parameter in core.parameters()}
    for tensor in state_tensors(core.initial_state(B)):
        assert tensor.untyped_storage().data_ptr() not in weights


@each_of_models
@pytest.mark.parametrize("length", [1, T])
def test_attention_and_memory_are_none_or_have_their_shapes(make, length):
    core = make()
    p = core.project(torch.randn(B, length, X))
    attention_Bt, memory = core.attention(p), core.memory(p)
    assert attention_Bt is None or attention_Bt.shape == (B, length - 1)
    assert memory is None or (memory.ndim == 3 and len(memory) == B)


@each_model
def test_projecting_the_table_equals_projecting_every_token(make):
    model = sequence_model(make, num_symbols=5, num_classes=2, embedding_size=X, hidden_size=H)
    tokens_BT = torch.randint(5, (B, T))
    assert model.project(tokens_BT).ids is tokens_BT
    direct = model.head(model.core(model.core.project(model.embedding(tokens_BT)))[0][:, -1])
    through_table = model(tokens_BT).prediction
    assert_close(through_table, direct, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(direct)
    gradients = [
        torch.autograd.grad((prediction * weights).sum(), list(model.parameters()))
        for prediction in (through_table, direct)
    ]
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


@each_model
def test_one_batch_can_be_overfitted(make):
    sizes = {"num_symbols": 6, "num_classes": 3, "embedding_size": 8, "hidden_size": 18}
    model = sequence_model(make, **sizes, kernel="reference")
    tokens_BT, classes_B = torch.randint(6, (12, 5)), torch.randint(3, (12,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(500):
        loss = functional.cross_entropy(model(tokens_BT).prediction, classes_B)
        if loss < 0.05:
            return
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    pytest.fail(f"the loss is still {loss:.3f}")


@each_of_models
def test_a_model_can_be_built_without_memory_for_its_weights(make):
    with torch.device("meta"):
        core = make()
    assert all(parameter.is_meta for parameter in core.parameters())


@each_model
def test_the_same_seed_gives_the_same_weights(make):
    torch.manual_seed(0)
    first = make().state_dict()
    torch.manual_seed(0)
    assert_close(make().state_dict(), first, rtol=0, atol=0)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_file_names_every_key_with_its_default(file):
    config = OmegaConf.to_container(OmegaConf.load(file))
    del config["_target_"]
    assert config == keywords(file)
