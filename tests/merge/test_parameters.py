"""Filters, gradients and precedence, as recipes of mergekit mean them."""

import pytest

from trivet.errors import ConfigError
from trivet.merge.parameters import evaluate, resolve


@pytest.mark.parametrize(
    ("setting", "depth", "expected"),
    [
        (0.5, 0.3, 0.5),
        (True, 0.3, True),
        ("1e-3", 0.0, 0.001),  # YAML reads this as text
        ([0.0, 1.0], 0.25, 0.25),
        ([0.0, 1.0, 0.0], 0.75, 0.5),
        ([0.2], 0.9, 0.2),
        ([0, 1], 1.0, 1.0),
        ([True, False], 0.6, True),
        (["a", "b", "c"], 0.5, "b"),
        ({"value": 3}, 0.0, 3),
        ([{"filter": "mlp", "value": 1}, {"value": 2}], 0.0, 1),
        ([{"filter": "attn", "value": 1}, {"filter": "*", "value": [4, 8]}], 0.5, 6.0),
        ([{"filter": "attn", "value": 1}], 0.0, None),
    ],
)
def test_values(setting, depth, expected):
    assert evaluate("weight", setting, "model.layers.0.mlp.up_proj.weight", depth) == expected


@pytest.mark.parametrize("setting", [None, [], {}, [1, {"value": 2}], [{"filter": "mlp"}], object()])
def test_what_is_no_value_is_refused(setting):
    with pytest.raises(ConfigError, match=r"weight: .* is no value"):
        evaluate("weight", setting, "x", 0.0)


def test_the_nearest_setting_wins_and_a_filter_that_does_not_match_lets_the_next_speak():
    scopes = [None, {"density": [{"filter": "attn", "value": 0.1}]}, {"weight": 1}, {"density": 0.7}]
    assert resolve("density", scopes, "mlp.weight", 0.0) == 0.7
    assert resolve("density", scopes, "attn.weight", 0.0) == 0.1
    assert resolve("gamma", scopes, "mlp.weight", 0.0) is None
