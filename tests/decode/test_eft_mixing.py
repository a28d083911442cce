"""The mixture's mathematics: the numbered checks of the paper's card that need no model."""

import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from trivet import catalogue
from trivet._validation import validate
from trivet.decode._mixing import coefficients, combined, conservative
from trivet.decode.eft import Config
from trivet.errors import ConfigError

seeds = st.integers(0, 2**32 - 1)


def logits(seed: int, count: int, size: int = 50) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) * 3 for _ in range(count)]


def mixture(large: Any, base: Any, tuned: list[Any], shares: list[float], beta: float = 1.0) -> Any:
    target, _ = coefficients("large", "base", {f"t{i}": share for i, share in enumerate(shares)}, beta)
    known = {"large": large, "base": base} | {f"t{i}": values for i, values in enumerate(tuned)}
    return combined([known[name] for name in target], list(target.values()))


@given(seeds, st.floats(0, 5))
def test_it_is_the_equation_of_the_paper_and_sums_to_one(seed: int, beta: float) -> None:
    large, base, tuned = (values.log_softmax(-1) for values in logits(seed, 3))
    ours = mixture(large, base, [tuned], [1.0], beta)
    direct = (large.double() + beta * (tuned.double() - base.double())).softmax(-1)
    torch.testing.assert_close(ours.double().exp(), direct, atol=1e-6, rtol=1e-4)
    assert float(ours.double().exp().sum()) == pytest.approx(1, abs=1e-5)  # check 8


@given(seeds)
def test_log_probabilities_and_raw_logits_mix_alike(seed: int) -> None:
    """Checks 7 and 8: constants added to a model's logits change nothing."""
    large, base, tuned = logits(seed, 3)
    raw = mixture(large, base, [tuned], [1.0])
    normalised = mixture(large.log_softmax(-1), base.log_softmax(-1), [tuned.log_softmax(-1)], [1.0])
    moved = mixture(large + 7, base - 3, [tuned + 0.5], [1.0])
    torch.testing.assert_close(raw.exp(), normalised.exp(), atol=1e-6, rtol=0)
    assert raw.argmax() == moved.argmax()


@given(seeds, st.floats(0.1, 5))
def test_what_cancels_leaves_nothing_behind(seed: int, beta: float) -> None:
    """Checks 1 and 2, bit by bit, whether the engine knows that two models are one or not."""
    large, base = (values.log_softmax(-1) for values in logits(seed, 2))
    assert torch.equal(mixture(large, base, [logits(seed + 1, 1)[0]], [1.0], beta=0.0), large)
    same = mixture(large, base, [base.clone()], [1.0], beta)
    torch.testing.assert_close(same, large, atol=1e-6, rtol=0)
    assert same.argmax() == large.argmax()
    assert coefficients("large", "base", {"base": 1.0}, beta) == ({"large": 1.0}, {"base": 1.0})


@given(seeds)
def test_a_base_of_the_same_size_gives_the_tuned_model(seed: int) -> None:
    """Check 3; where the engine knows that the bases are one, the tuned model is all that is run."""
    base, tuned = (values.log_softmax(-1) for values in logits(seed, 2))
    torch.testing.assert_close(mixture(base, base.clone(), [tuned], [1.0]), tuned, atol=1e-5, rtol=0)
    assert coefficients("base", "base", {"tuned": 1.0}, 1.0) == ({"tuned": 1.0}, {"tuned": 1.0})


@given(seeds)
def test_weights_are_a_slider_between_behaviours(seed: int) -> None:
    """Check 6: the ends are the single behaviours, and log-odds are affine in the weight."""
    large, base, first, second = (values.log_softmax(-1) for values in logits(seed, 4))
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    rows = [mixture(large, base, [first, second], [weight, 1 - weight]) for weight in grid]
    torch.testing.assert_close(rows[-1], mixture(large, base, [first], [1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows[0], mixture(large, base, [second], [1.0]), atol=1e-6, rtol=0)
    odds = torch.stack([row - row[0] for row in rows]).double()
    line = odds[:1] + torch.tensor(grid)[:, None].double() * (odds[-1:] - odds[:1])
    assert float((odds - line).abs().max()) < 3e-5  # log-odds of up to 60 in float32
    equal = [mixture(large, base, [first, first], [weight, 1 - weight]) for weight in grid]
    torch.testing.assert_close(torch.stack(equal), equal[0].expand(len(grid), -1), atol=2e-6, rtol=0)


def test_the_small_models_own_mixture() -> None:
    assert coefficients("L", "R", {"T": 1.0}, 1.0) == ({"L": 1.0, "R": -1.0, "T": 1.0}, {"T": 1.0})
    assert coefficients("L", "R", {"T": 1.0}, 2.0)[1] == {"R": -1.0, "T": 2.0}
    thirds = dict.fromkeys("abc", 1 / 3)
    assert "R" not in coefficients("L", "R", thirds, 1.0)[1]
    tenths = dict(zip("abc", (0.1, 0.2, 0.7)))  # whose sum is not quite 1
    assert "R" not in coefficients("L", "R", tenths, 1.0)[1]


def test_tokens_that_a_model_lacks_are_impossible() -> None:
    large, base, tuned = logits(0, 3)
    base[3], tuned[3], tuned[4] = -torch.inf, -torch.inf, -torch.inf
    for beta in (0.5, 1.0, 2.0):
        ours = mixture(large, base, [tuned], [1.0], beta)
        assert ours[3] == ours[4] == -torch.inf
        assert float(ours.exp().sum()) == pytest.approx(1)
        assert not ours.isnan().any()


@given(seeds, st.floats(0.05, 0.95))
def test_conservative_up_scaling_leaves_the_tail_to_the_small_models(seed: int, top_p: float) -> None:
    large, base, small = (values.log_softmax(-1) for values in logits(seed, 3))
    ours = conservative(small, large, base, top_p)
    order = small.argsort(descending=True)
    mass = small[order].exp().cumsum(0)
    inside = order[: int((mass - small[order].exp() < top_p).sum())]
    outside = order[len(inside) :]
    assert float(small[inside].exp().sum()) >= top_p - 1e-5
    shift = ours - small  # outside: the logarithm of the normalising sum alone
    torch.testing.assert_close(shift[outside], shift[outside][:1].expand(len(outside)), atol=1e-4, rtol=0)
    lifted = shift[inside] - shift[outside][:1]
    torch.testing.assert_close(lifted, (large - base)[inside], atol=1e-4, rtol=0)
    everywhere = combined([small, large, base], [1.0, 1.0, -1.0])
    torch.testing.assert_close(conservative(small, large, base, 1.0), everywhere, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beta": -0.5}, "emulated disalignment"),
        ({"beta": math.nan}, "beta"),
        ({"weights": {"kind": -1.0}}, "emulated disalignment"),
        ({"weights": {"knd": 1.0}}, "did you mean 'kind'"),
        ({"tuned": {"kind": "m", "true": "n"}, "weights": {"kind": 1.0}}, "one for every behaviour"),
        ({"tuned": {}}, "tuned"),
        ({"tuned": {"a.b": "m"}}, "behaviour's name"),
        ({"tuned": {"base": "m"}}, "behaviour's name"),
        ({"templates": {"kin": "x"}}, "did you mean 'kind'"),
        ({"upscaling_top_p": 0}, "upscaling_top_p"),
        ({"draft_tokens": -1}, "draft_tokens"),
        ({"draft_token": 3}, "did you mean 'draft_tokens'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    entry = catalogue.find("decode/eft")
    with pytest.raises(ConfigError, match=said) as caught:
        validate(entry.config, {"base": "m", "tuned": {"kind": "m"}, **settings}, where="decode")
    assert "alue error" not in str(caught.value) and "decode: value" not in str(caught.value)


def test_equal_shares_by_default_and_paths_are_not_content() -> None:
    config = Config(base="/home/someone/m", tuned={"kind": "/home/someone/n", "true": "o"})
    assert config.shares == {"kind": 0.5, "true": 0.5}
    assert config.model_names == {
        "base": "/home/someone/m",
        "tuned.kind": "/home/someone/n",
        "tuned.true": "o",
    }
    assert "someone" not in str(config.content())
    assert config.content()["weights"] == config.shares
