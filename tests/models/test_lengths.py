"""Sequences of several lengths in one batch: padding changes nothing.

Shapes: B sequences, T time steps, X input features, H hidden units.
"""

import pytest
import torch
from torch.testing import assert_close

from src.models.base import last_step
from src.models.sequence import SequenceModel
from src.specs import InputSpec, OutputSpec
from tests.models.cores import MODELS, H, X

LENGTHS = torch.tensor([3, 7, 1, 6, 7])
B, T = len(LENGTHS), 7
TOKENS, VECTORS = InputSpec("tokens", 5), InputSpec("vectors", X)

each_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.name)
each_kernel = pytest.mark.parametrize("kernel", ["auto", "reference"])


def network(make, input_spec, every_step=False, **settings):
    output_spec = OutputSpec("class", 2, every_step)
    return SequenceModel(input_spec, output_spec, lambda size: make(size, **settings), embedding_size=X)


def random_inputs(input_spec):
    """Random inputs; the padding after the end of a sequence is as large as the rest."""
    return torch.randint(5, (B, T)) if input_spec.kind == "tokens" else torch.randn(B, T, X)


@each_model
@each_kernel
@pytest.mark.parametrize(
    ("return_sequence", "input_spec"),
    [
        pytest.param(False, TOKENS, id="tokens"),
        pytest.param(True, VECTORS, id="vectors-all"),
        pytest.param(False, VECTORS, id="vectors", marks=pytest.mark.slow),
        pytest.param(True, TOKENS, id="tokens-all", marks=pytest.mark.slow),
    ],
)
def test_every_row_is_as_it_is_alone_with_the_same_gradients(make, kernel, return_sequence, input_spec):
    model, inputs = network(make, input_spec, kernel=kernel), random_inputs(input_spec)
    model.return_sequence = return_sequence
    padded = model(inputs, lengths=LENGTHS, return_state=False)
    model.core.kernel = "reference"
    alone = [model(inputs[row : row + 1, :length], return_state=False) for row, length in enumerate(LENGTHS.tolist())]
    prediction = torch.cat([output.prediction for output in alone])
    assert_close(padded.prediction, prediction, rtol=1e-10, atol=1e-10)

    assert padded.hidden_BTH.shape == (
        (B, T, model.core.output_size) if return_sequence else (B, model.core.output_size)
    )
    for row, (length, output) in enumerate(zip(LENGTHS.tolist(), alone, strict=True)):
        hidden = padded.hidden_BTH[row, :length] if return_sequence else padded.hidden_BTH[row]
        assert_close(hidden, output.hidden_BTH[0], rtol=1e-10, atol=1e-10)

    weights = torch.randn_like(prediction)
    gradients = [
        torch.autograd.grad((answer * weights).sum(), list(model.parameters()))
        for answer in (padded.prediction, prediction)
    ]
    assert all(gradient.any() for gradient in gradients[0])
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


@each_model
@pytest.mark.parametrize("input_spec", [TOKENS, VECTORS], ids=["tokens", "vectors"])
def test_the_padding_is_never_seen(make, input_spec):
    model, inputs = network(make, input_spec), random_inputs(input_spec)
    before = model(inputs, lengths=LENGTHS, return_state=False).prediction
    after_the_end = torch.arange(T) >= LENGTHS[:, None]
    other = inputs.clone()
    other[after_the_end] = (inputs[after_the_end] + 1) % 5
    after = model(other, lengths=LENGTHS, return_state=False).prediction
    assert_close(after, before, rtol=0, atol=1e-12)


@each_model
def test_asked_at_every_step_lengths_change_nothing(make):
    model, inputs = network(make, TOKENS, every_step=True), random_inputs(TOKENS)
    padded, whole = (model(inputs, lengths=lengths, return_state=False) for lengths in (LENGTHS, None))
    assert padded.prediction.shape == (B, T, 2)
    assert torch.equal(padded.prediction, whole.prediction)


@each_model
def test_lengths_of_the_whole_batch_are_no_lengths(make):
    core = make()
    p = core.project(torch.randn(B, T, X))
    whole = torch.full((B,), T)
    for return_sequence in (False, True):
        settings = {"return_state": False, "return_sequence": return_sequence}
        assert_close(core(p, lengths=whole, **settings)[0], core(p, **settings)[0], rtol=0, atol=1e-12)


@each_model
def test_there_is_no_state_after_several_lengths(make):
    core = make()
    p = core.project(torch.randn(B, T, X))
    for return_sequence in (False, True):
        with pytest.raises(ValueError, match="return_state"):
            core(p, lengths=LENGTHS, return_sequence=return_sequence)
        assert core(p, lengths=LENGTHS, return_state=False, return_sequence=return_sequence)[1] is None
    with pytest.raises(ValueError, match="return_state"):
        network(make, TOKENS)(random_inputs(TOKENS), lengths=LENGTHS)


def test_the_last_step_is_at_the_length_of_each_sequence():
    y_BTH = torch.randn(B, T, H)
    assert torch.equal(last_step(y_BTH), y_BTH[:, -1])
    expected = torch.stack([y_BTH[row, length - 1] for row, length in enumerate(LENGTHS.tolist())])
    assert torch.equal(last_step(y_BTH, LENGTHS), expected)
    assert torch.equal(last_step(expected, LENGTHS), expected)
