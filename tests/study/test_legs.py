import pytest

from trivet.errors import ConfigError
from trivet.study.legs import missing_parts, resolve_legs
from trivet.study.spec import EvaluationEntry

SHIPPED = {
    "helpful": ["instructions", "questions"],
    "honest": ["answerable", "unanswerable"],
    "harmless": ["harmless"],
    "over_refusal": ["over_refusal"],
    "capability": ["capability"],
    "capability_ll": ["capability_ll"],
}


def _weights(terms):
    return {(term.evaluation, term.component): pytest.approx(term.weight) for term in terms}


def test_the_legs_of_the_design():
    legs = resolve_legs(SHIPPED)
    assert _weights(legs["helpful"]) == {
        ("helpful", "instructions"): 1 / 3,
        ("helpful", "questions"): 1 / 3,
        ("over_refusal", "over_refusal"): 1 / 3,
    }
    assert [(t.component, t.kind, t.weight) for t in legs["honest"]] == [
        ("unanswerable", "unanswerable", 0.5),
        ("answerable", "known", 0.5),
    ]
    assert _weights(legs["harmless"]) == {("harmless", "harmless"): 1}
    assert _weights(legs["capability"]) == {("capability", "capability"): 1}
    assert list(legs) == ["helpful", "honest", "harmless", "capability"]


def test_a_leg_that_is_not_measured_is_left_out_and_a_missing_part_is_named():
    legs = resolve_legs({"helpful": ["instructions", "questions"]})
    assert list(legs) == ["helpful"]
    assert missing_parts("helpful", legs["helpful"], None) == ["1 - over-refusal"]
    assert missing_parts("helpful", legs["helpful"], {"helpful": []}) == []


def test_a_renamed_evaluation_keeps_its_leg():
    entries = [EvaluationEntry(task="harmless", name="jailbreaks")]
    legs = resolve_legs({"jailbreaks": ["harmless"]}, entries)
    assert _weights(legs["harmless"]) == {("jailbreaks", "harmless"): 1}


def test_two_sets_of_one_kind_share_its_weight():
    entries = [EvaluationEntry(task="helpful"), EvaluationEntry(task="over_refusal")]
    entries.append(EvaluationEntry(task="over_refusal", name="xstest", args={"dataset": "x.jsonl"}))
    components = {
        "helpful": ["instructions", "questions"],
        "over_refusal": ["over_refusal"],
        "xstest": ["over_refusal"],
    }
    weights = [round(term.weight, 6) for term in resolve_legs(components, entries)["helpful"]]
    assert weights == [round(x, 6) for x in (1 / 3, 1 / 3, 1 / 6, 1 / 6)]


def test_a_task_of_the_user_s_is_one_more_part():
    entries = [
        EvaluationEntry(task="harmless"),
        EvaluationEntry(task="my.py@toxicity", leg="harmless", higher_is_better=False),
        EvaluationEntry(task="my.py@plain"),
    ]
    components = {"harmless": ["harmless"], "toxicity": ["a", "b"], "plain": ["plain"]}
    terms = resolve_legs(components, entries)["harmless"]
    assert _weights(terms) == {
        ("harmless", "harmless"): 0.5,
        ("toxicity", "a"): 0.25,
        ("toxicity", "b"): 0.25,
    }
    assert [term.higher_is_better for term in terms] == [True, False, False]


def test_legs_override():
    overrides = {
        "helpful": ["helpful/questions", {"evaluation": "capability", "weight": 3}],
        "harmless": [{"evaluation": "over_refusal", "component": "over_refusal", "higher_is_better": False}],
        "honest": ["honest"],
        "capability": None,
    }
    legs = resolve_legs(SHIPPED, None, overrides)
    assert _weights(legs["helpful"]) == {("helpful", "questions"): 0.25, ("capability", "capability"): 0.75}
    assert not legs["harmless"][0].higher_is_better
    assert {term.kind for term in legs["honest"]} == {"unanswerable", "known"}
    assert "capability" not in legs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"helpfull": []}, "did you mean 'helpful'"),
        ({"helpful": "helpful"}, "must be a list"),
        ({"helpful": [3]}, "`evaluation/component`"),
        ({"helpful": ["helpfull"]}, "did you mean 'helpful'"),
        ({"helpful": ["helpful/instruction"]}, "did you mean 'instructions'"),
        ({"helpful": [{"evaluation": "helpful", "wieght": 1}]}, "did you mean 'weight'"),
        ({"helpful": [{"evaluation": "helpful", "weight": 0}]}, "greater than 0"),
    ],
)
def test_a_wrong_override_names_the_key_and_the_next_step(overrides, message):
    with pytest.raises(ConfigError) as error:
        resolve_legs(SHIPPED, None, overrides)
    assert message in str(error.value) and "legs" in str(error.value)


def test_overrides_can_be_checked_before_anything_is_measured():
    entries = [EvaluationEntry(task="helpful"), EvaluationEntry(task="my.py@mine")]
    resolve_legs({}, entries, {"helpful": ["helpful/questions", "mine"]})
    with pytest.raises(ConfigError, match="there is no evaluation 'yours'"):
        resolve_legs({}, entries, {"helpful": ["yours"]})


def test_an_evaluation_that_failed_stays_a_part():
    entries = [EvaluationEntry(task="helpful"), EvaluationEntry(task="my.py@mine")]
    terms = resolve_legs({"helpful": ["questions"]}, entries, {"helpful": ["helpful", "mine"]})["helpful"]
    assert ("mine", "mine") in _weights(terms)
