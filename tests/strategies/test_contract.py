"""What a strategy declares is what travels, what the plan says, and what an owner's agent runs."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from umbel.errors import MessageError, PlanRefused, StrategyError
from umbel.job import StrategySpec
from umbel.strategies import Channel, Channels, LocalRule, Rule, channels_of, local_half
from umbel.strategies.channels import reach_for
from umbel.strategies.contract import checked_channels, checked_sent, told_number
from umbel.strategies.summed import SummedStrategy

EXAMPLES = Path(__file__).parents[2] / "examples" / "strategies"
SHAPES = {"a.weight": (2, 3), "b": (4,)}
OWN = "agreement:Agreement"


@pytest.fixture
def agreement(monkeypatch):
    """The example is where Python finds it, and nobody has loaded it yet."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "agreement", raising=False)
    yield StrategySpec(name=OWN, options={"margin": 0.01})
    sys.modules.pop("agreement", None)


tensors = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4), array_shapes(max_dims=2, max_side=3), max_size=3
)
names = st.text("abc-", min_size=1, max_size=6).filter(lambda name: name[0] != "-")


@given(
    tensors, st.dictionaries(names.filter(lambda n: n != "update"), tensors, max_size=3), st.data()
)
def test_channels_of_any_shape_come_back_as_they_were_sent(update, further, data):
    reaches = {name: 2.0 ** data.draw(st.integers(-20, 20)) for name in further}
    many = [Channel(name, shapes, reaches[name]) for name, shapes in further.items()]
    channels = Channels((Channel("update", update), *many), update)
    draw = np.random.default_rng(0)
    sent = {
        c.name: {n: draw.normal(size=s).astype("f4") for n, s in c.shapes.items()}
        for c in channels.all
    }
    vector = channels.vector(sent["update"], {name: sent[name] for name in further})
    assert {name: array.shape for name, array in vector.items()} == channels.shapes
    assert sum(array.size for array in vector.values()) == channels.numbers
    means = ((name, array.astype(np.float64)) for name, array in vector.items())
    found = [(channel, name, mean.tobytes()) for channel, name, mean in channels.means(means)]
    assert found == [
        (channel, name, array.astype(np.float64).tobytes())
        for channel, arrays in sent.items()
        for name, array in arrays.items()
    ]


def rule(*channels, local=LocalRule):
    kind = type("Own", (Rule,), {"local": local, "next_model": lambda self, model, mean: model})
    found = kind()
    found.channels = lambda shapes: channels
    return found


UPDATE = Channel("update", SHAPES)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ([], "first channel is not the update"),
        ([Channel("more", SHAPES), UPDATE], "first channel is not the update"),
        ([Channel("update", {"a.weight": (3, 2)})], "first channel is not the update"),
        ([Channel("update", {"other": (1,)})], "first channel is not the update"),
        ([Channel("update", {"a.weight": (2, 3)})], "no other channel for them"),
        ([Channel("update", SHAPES, 2.0)], "first channel is not the update"),
        ([UPDATE, UPDATE], "have the same name"),
        ([UPDATE, Channel("c", SHAPES), Channel("c", {})], "have the same name"),
    ],
)
def test_channels_that_no_sum_can_hold_are_refused(declared, words):
    with pytest.raises(ValueError, match=words):
        checked_channels(rule(*declared), SHAPES)


def test_a_channel_that_nobody_fills_is_refused():
    with pytest.raises(ValueError, match="no local half fills its channel votes"):
        checked_channels(rule(UPDATE, Channel("votes", SHAPES), local=None), SHAPES)


def test_a_tensor_of_the_model_that_is_named_like_one_of_a_channel_is_refused():
    shapes = {"c/a": (1,), "a": (1,)}
    with pytest.raises(ValueError, match="has the same name as a tensor of the model"):
        checked_channels(rule(Channel("update", shapes), Channel("c", {"a": (1,)})), shapes)


@pytest.mark.parametrize("reach", [0.0, -2.0, 3.0, 0.1, 2.0**21, float("inf"), float("nan")])
def test_a_scale_that_would_round_is_refused(reach):
    with pytest.raises(ValueError, match="power of two"):
        Channel("votes", SHAPES, reach)


def test_a_reach_may_be_a_whole_number_and_each_round_takes_it():
    channels = Channels((UPDATE, Channel("votes", SHAPES, 64)), SHAPES)
    same = Channels((UPDATE, Channel("votes", SHAPES, 64.0)), SHAPES)
    assert channels == channels.scaled({}) == same
    for bad in ("64", True, None):
        with pytest.raises(ValueError, match="votes: reach = .* not a number"):
            Channel("votes", SHAPES, bad)
    with pytest.raises(
        ValueError, match=r"reach 32\.0 for channel votes.*below the declared 64\.0"
    ):
        channels.scaled({"reach-votes": 32.0})


UNSOUND = [None, True, "1", float("nan"), float("inf"), -1, -0.5, [1]]


@pytest.mark.parametrize("found", UNSOUND)
@pytest.mark.parametrize("how", [{}, {"above": True}, {"whole": True}])
def test_what_is_told_is_a_number_within_its_bounds_or_refused(found, how):
    with pytest.raises(ValueError, match=r"n = .* is not a (whole )?number (of 0 or more|above 0)"):
        told_number({"n": found}, "n", **how)
    assert told_number({"n": 3}, "n", **how) == 3
    with pytest.raises(ValueError, match="n = None"):
        told_number({}, "n", **how)


def test_a_told_number_is_of_the_kind_that_is_asked_for():
    assert (told_number({"n": 0}, "n"), type(told_number({"n": 0}, "n"))) == (0.0, float)
    assert type(told_number({"n": 2**53 - 1}, "n", 1, whole=True)) is int
    for value, how in (
        (0, {"above": True}),
        (0, {"least": 1}),
        (1.0, {"whole": True}),
        (2**53, {"whole": True}),
    ):
        with pytest.raises(ValueError, match="is not a"):
            told_number({"n": value}, "n", **how)


@given(st.floats(0) | st.just(float("nan")), st.integers(-20, 20))
def test_a_reach_that_a_model_needs_is_one_that_a_channel_may_have(farthest, least):
    found = reach_for(farthest, 2.0**least)
    assert Channel("votes", SHAPES, found).reach >= 2.0**least
    fits = farthest * (1 - 2.0**-29) <= found
    assert fits or not farthest <= 2.0**20
    assert not fits or found == 2.0**least or found < 2 * farthest


@pytest.mark.parametrize("further", [
    {},
    {"votes": {}},
    {"votes": {name: np.zeros(9) for name in SHAPES}},
    {"votes": {name: np.zeros(shape) for name, shape in SHAPES.items()}, "records": {}},
])  # fmt: skip
def test_a_local_half_fills_what_is_declared_and_nothing_else(further):
    channels = Channels((UPDATE, Channel("votes", SHAPES)), SHAPES)
    update = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    with pytest.raises(ValueError, match="the local half fills"):
        channels.vector(update, further)


def test_a_rule_hears_all_of_its_channels_before_the_first_tensor_of_the_next_model(
    agreement, exchange, updates_of, a_model
):
    channels = channels_of(agreement, {name: array.shape for name, array in a_model.items()}, 1)
    half = local_half(agreement, {"margin": 0.01}, OWN, [OWN])
    [updates] = updates_of(1, weights=(1, 1, 1))
    sent = [(channels.vector(update, half.further(update)), 1) for update, _ in updates]
    own = sys.modules["agreement"].Agreement(margin=0.01)
    strategy = SummedStrategy(own, 3, OWN)
    [model] = exchange(strategy, a_model, [sent])
    for name, array in a_model.items():
        each = np.stack([update[name] for update, _ in updates]).astype(np.float64)
        votes = np.where(np.abs(each) >= np.float32(0.01), np.sign(each), 0)
        expected = array + np.abs(votes.mean(0)) * each.mean(0)
        assert model[name] == pytest.approx(expected, abs=1e-6)
    assert not own._agreed, "nothing of it is left for the checkpoint"


def test_the_code_of_another_strategy_is_loaded_only_where_its_owner_names_it(agreement):
    for accepted in ([], ["fedavg"], ["agreement"], ["agreement:Votes"]):
        with pytest.raises(PlanRefused, match=r'jobs\.strategies = \["agreement:Agreement"\]'):
            local_half(agreement, {"margin": 0.0}, OWN, accepted)
        assert not channels_of(agreement, SHAPES, 1, accepted).further
        assert "agreement" not in sys.modules
    assert type(local_half(agreement, {"margin": 0.0}, OWN, [OWN])).__name__ == "Votes"
    assert [channel.name for channel in channels_of(agreement, SHAPES, 1, [OWN]).all] == [
        "update",
        "votes",
    ]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (StrategySpec(name="fedprox"), {"proximal-mu": 0.5}),
        (StrategySpec(name=OWN), {"margin": 0.01}),
    ],
    ids=["fedprox", "own"],
)
def test_a_local_half_travels_to_the_process_that_holds_the_records(agreement, spec, told):
    half = local_half(spec, told, "", [OWN])
    there = pickle.loads(pickle.dumps(half))
    assert (type(there), vars(there)) == (type(half), vars(half))


def test_a_server_asks_for_the_jobs_own_strategy_and_no_other(agreement):
    with pytest.raises(MessageError, match="not for that of the job's"):
        local_half(agreement, {}, "os:system", ["os:system", OWN])
    with pytest.raises(MessageError, match="not for that of the job's"):
        local_half(StrategySpec(name="fedavg"), {}, OWN, [OWN])


def test_a_strategy_that_is_accepted_and_not_installed_is_said():
    spec = StrategySpec(name="not_here_at_all:Rule")
    with pytest.raises(PlanRefused, match="does not load here.*No module named"):
        local_half(spec, {}, spec.name, [spec.name])


class Hears(LocalRule):
    @classmethod
    def hears(cls, shapes):
        return {f"{name}/mean": shape for name, shape in shapes.items()}


@pytest.mark.parametrize("sent", [{}, {"a.weight/mean": (2, 3)}, dict.fromkeys(SHAPES, (1,))])
def test_a_rule_sends_beside_the_model_what_its_local_half_hears_and_nothing_else(sent):
    model = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    found = rule(UPDATE, local=Hears)
    found.sent = lambda model: {f"{n}/mean": 0.5 * w.astype("f8") for n, w in model.items()}
    right = checked_sent(found, model)
    assert {name: (a.dtype, a.shape) for name, a in right.items()} == {
        f"{name}/mean": (np.float32, shape) for name, shape in SHAPES.items()
    }
    found.sent = lambda model: {name: np.zeros(shape) for name, shape in sent.items()}
    with pytest.raises(ValueError, match="sends other arrays beside the model"):
        checked_sent(found, model)


@pytest.mark.parametrize("mu", [-1.0, float("inf"), float("nan"), "much", None])
@pytest.mark.parametrize("name", ["fedprox", "FedProx"])
def test_what_nobody_should_be_told_is_refused(name, mu):
    with pytest.raises(MessageError, match="proximal-mu"):
        local_half(StrategySpec(name=name), {"proximal-mu": mu}, "", [])


def test_options_and_channels_that_cannot_work_are_said_with_the_strategys_name(agreement):
    wrong = agreement.model_copy(update={"options": {"margin": -1.0}})
    with pytest.raises(StrategyError, match="agreement:Agreement: margin"):
        channels_of(wrong, SHAPES, 1)
