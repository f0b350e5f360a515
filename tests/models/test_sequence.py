import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.models.rnn import RNN
from src.models.sequence import SequenceModel
from src.ops.inputs import Inputs
from src.specs import InputSpec, OutputSpec

B, T = 3, 7
TOKENS, VECTORS = InputSpec("tokens", 5), InputSpec("vectors", 4)


def make(input_spec=TOKENS, every_step=False, **settings):
    output_spec = OutputSpec("class", 2, every_step)
    return SequenceModel(input_spec, output_spec, lambda size: RNN(size, hidden_size=6), **settings)


def projected_shapes(model):
    """Record the shapes of the inputs of the core's projection."""
    shapes = []
    model.core.input.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    return shapes


def test_tokens_are_embedded_expanded_read_by_the_core_and_answered_by_the_head():
    model = make(embedding_size=8, expansion_size=9, head_size=7)
    tokens_BT = torch.randint(5, (B, T))
    x_BTX = torch.relu(model.expansion(model.embedding(tokens_BT)))
    hidden_BTH, state_BH = model.core(model.core.project(x_BTX))
    first, _, second = model.head
    expected = second(torch.relu(first(hidden_BTH[:, -1])))
    output = model(tokens_BT)
    assert_close(output.prediction, expected, rtol=0, atol=1e-12)
    assert_close(output.hidden_BTH, hidden_BTH[:, -1], rtol=0, atol=1e-12)
    assert_close(output.state, state_BH, rtol=0, atol=1e-12)
    model.return_sequence = True
    assert_close(model(tokens_BT).hidden_BTH, hidden_BTH, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"expansion_size": 9}])
def test_vectors_may_come_as_a_table_of_which_each_is_encoded_once(settings):
    model = make(VECTORS, every_step=True, **settings)
    table_VX, ids_BT = torch.randn(2, 4), torch.randint(2, (B, T))
    whole = model(table_VX[ids_BT])
    shapes = projected_shapes(model)
    output = model(Inputs(table_VX, ids_BT))
    assert shapes == [(2, settings.get("expansion_size", 4))]
    assert_close(output.prediction, whole.prediction, rtol=0, atol=1e-12)
    assert_close(output.state, whole.state, rtol=0, atol=1e-12)


def test_with_dropout_every_position_of_a_table_has_a_mask_of_its_own():
    model = make(VECTORS, every_step=True, input_dropout=0.5)
    inputs = Inputs(torch.ones(1, 4), torch.zeros(B, T, dtype=torch.int64))
    model(inputs)  # the first call may build a kernel
    shapes = projected_shapes(model)
    prediction_BTO = model(inputs).prediction
    assert shapes == [(B, T, 4)]
    assert len(prediction_BTO[:, 0].unique(dim=0)) > 1


def test_without_a_head_the_outputs_of_the_core_are_the_answer():
    output_spec = OutputSpec("value", 6)
    model = SequenceModel(VECTORS, output_spec, lambda size: RNN(size, hidden_size=6), head=False, head_size=7)
    output = model(torch.randn(B, T, 4))
    assert output.prediction is output.hidden_BTH
    assert model.num_parameters == sum(parameter.numel() for parameter in model.core.parameters())
    with pytest.raises(ValueError, match=r"^hidden_size=6: must give 2 outputs with network.head=false$"):
        make(VECTORS, head=False)


def test_vectors_enter_as_they_are():
    model = make(VECTORS)
    inputs = torch.randn(B, T, 4)
    expected = model.head(model.core(model.core.project(inputs))[0][:, -1])
    assert_close(model(inputs).prediction, expected, rtol=0, atol=0)
    assert model.embedding is None


def test_expansion_nonlinearity_is_the_one_asked_for_and_is_pickled_with_the_model():
    model = pickle.loads(pickle.dumps(make(VECTORS, expansion_size=9, expansion_nonlinearity="linear")))
    inputs = torch.randn(B, T, 4)
    assert_close(model.project(inputs).vectors, model.core.project(model.expansion(inputs)), rtol=0, atol=0)


def test_asked_at_every_step_it_answers_at_every_step():
    model = make(every_step=True)
    output = model(torch.randint(5, (B, T)))
    assert output.prediction.shape == (B, T, 2)
    assert_close(output.prediction, model.head(output.hidden_BTH), rtol=0, atol=0)


def test_a_given_state_is_where_it_starts():
    model = make(every_step=True)
    tokens_BT = torch.randint(5, (B, T))
    first = model(tokens_BT[:, :3])
    second = model(tokens_BT[:, 3:], first.state)
    pieces = torch.cat([first.prediction, second.prediction], dim=1)
    assert_close(pieces, model(tokens_BT).prediction, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("batch_size", "expected"), [(B, (5, 8)), (1, (1, 4, 8))])
def test_the_table_is_projected_once_where_the_batch_holds_more_tokens_than_symbols(batch_size, expected):
    model = make(embedding_size=8)
    model(torch.randint(5, (batch_size, 4)))  # the first call builds the kernel
    shapes = projected_shapes(model)
    model(torch.randint(5, (batch_size, 4)))
    assert shapes == [expected]


def test_dropout_draws_for_every_token_while_training_and_not_in_evaluation():
    model = make(embedding_size=8, input_dropout=0.5)
    shapes = projected_shapes(model)
    tokens_BT = torch.zeros(B, T, dtype=torch.int64)
    dropped_BTP = model.project(tokens_BT).vectors
    assert shapes == [(B, T, 8)]
    assert len(dropped_BTP.flatten(0, 1).unique(dim=0)) > 1
    model.eval()
    assert len(model.project(tokens_BT).vectors.flatten(0, 1).unique(dim=0)) == 1
    assert_close(model.project(tokens_BT).vectors, model.core.project(model.embedding(tokens_BT)), rtol=0, atol=1e-12)


def test_weights_start_uniform_by_outgoing_connections_the_embedding_normal_and_biases_zero():
    model = make(InputSpec("tokens", 200), embedding_size=100, expansion_size=25, head_size=16)
    assert model.embedding.weight.std().item() == pytest.approx(1.0, rel=0.02)
    for layer, outgoing in [(model.expansion, 25), (model.head[0], 16), (model.head[2], 2)]:
        assert 0.9 * outgoing**-0.5 < layer.weight.abs().max() <= outgoing**-0.5
        assert not layer.bias.any()


def test_the_output_can_start_from_a_normal_distribution():
    spec = InputSpec("tokens", 200)
    torch.manual_seed(3)
    usual = make(spec, head_size=500)
    torch.manual_seed(3)
    model = make(spec, head_size=500, head_std=0.001)
    assert model.head[2].weight.std().item() == pytest.approx(0.001, rel=0.1)
    for name, weight in model.state_dict().items():
        assert (name == "head.2.weight") != torch.equal(weight, usual.state_dict()[name])
    assert make(spec, head_std=0.5).head.weight.std().item() == pytest.approx(0.5, rel=0.3)


def test_number_of_parameters_counts_what_is_trained():
    model = make(embedding_size=8, expansion_size=9, head_size=7)
    core = 6 * (6 + 9 + 1)
    assert model.num_parameters == 5 * 8 + (8 + 1) * 9 + core + (6 + 1) * 7 + (7 + 1) * 2
    model.embedding.weight.requires_grad_(False)
    assert model.num_parameters == (8 + 1) * 9 + core + (6 + 1) * 7 + (7 + 1) * 2
    assert isinstance(make().head, nn.Linear)


@pytest.mark.parametrize("input_spec", [TOKENS, VECTORS], ids=str)
def test_a_mask_of_a_sequence_is_the_same_at_every_step_and_of_a_step_another(input_spec):
    inputs = torch.randint(5, (1, 1)) if input_spec is TOKENS else torch.randn(1, 1, 4)
    inputs = inputs.repeat(B, 200, *[1] * (inputs.ndim - 2))
    for mask, same in (("step", False), ("sequence", True)):
        model = make(input_spec, embedding_size=4, input_dropout=0.5, dropout_mask=mask)
        entered = []
        note = lambda _, given, entered=entered: entered.append(given[0])  # noqa: E731
        with model.core.input.register_forward_pre_hook(note):
            model(inputs)
        kept_BTX = entered[0] != 0
        assert bool((kept_BTX == kept_BTX[:, :1]).all()) == same
        assert 0 < kept_BTX[0, 0].sum() + kept_BTX[1, 0].sum() + kept_BTX[2, 0].sum() < 12
        assert kept_BTX[:, 0].any(0).sum() > kept_BTX[:, 0].all(0).sum()  # sequences have masks of their own
        expected = model.eval()(inputs).prediction
        assert_close(expected, make_like(model, input_spec)(inputs).prediction, rtol=0, atol=0)


def make_like(model, input_spec):
    """The same network without dropout."""
    other = make(input_spec, embedding_size=4)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("mask", ["step", "sequence"])
@pytest.mark.parametrize("every_step", [False, True])
def test_dropout_of_outputs_keeps_their_mean_and_acts_while_training_only(mask, every_step):
    model = make(VECTORS, every_step=every_step, output_dropout=0.5, dropout_mask=mask)
    inputs = torch.randn(1, T, 4).repeat(20_000, 1, 1)
    entered = []
    model.head.register_forward_pre_hook(lambda _, given: entered.append(given[0].detach()))
    hidden = model(inputs).hidden_BTH
    (dropped,) = entered
    assert set((dropped / hidden)[0].flatten().round(decimals=3).tolist()) <= {0.0, 2.0}
    assert_close(dropped.mean(0), hidden[0].expand_as(dropped[0]), rtol=0, atol=0.04)
    kept = dropped != 0
    if every_step:
        assert bool((kept == kept[:, :1]).all()) == (mask == "sequence")
    model.eval()(inputs[:3])
    assert_close(entered[1], hidden[:3], rtol=0, atol=1e-6)


def test_only_answers_that_count_are_computed():
    model = make(every_step=True)
    tokens_BT, mask_BT = torch.randint(5, (B, T)), torch.rand(B, T) < 0.5
    weights_BTO = torch.randn(B, T, 2)
    rows = []
    model.head.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].numel() // inputs[0].shape[-1]))

    def of(mask_BT):
        prediction_BTO = model(tokens_BT, mask=mask_BT).prediction
        counted = torch.where(mask_BT1, prediction_BTO, 0)
        return prediction_BTO, counted, *torch.autograd.grad((counted * weights_BTO).sum(), [*model.parameters()])

    mask_BT1 = mask_BT[..., None]
    _, *expected = of(None)
    prediction_BTO, *found = of(mask_BT)
    assert rows == [B * T, int(mask_BT.sum())]
    assert (prediction_BTO[~mask_BT] == 0).all()
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=0, atol=1e-12)


def test_resets_of_the_inputs_hold_with_dropout_as_well():
    torch.manual_seed(0)
    rnn = SequenceModel(InputSpec("vectors", 4), OutputSpec("class", 3, True), lambda n: RNN(n, hidden_size=5))
    rnn.input_dropout = 1e-9
    x, resets = torch.randn(2, 6, 4), torch.zeros(2, 6, dtype=torch.bool)
    resets[:, 3] = True
    expected = rnn.eval()(x, resets=resets).prediction
    assert_close(rnn.train()(Inputs(x, resets=resets)).prediction, expected)
