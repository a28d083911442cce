"""Sampling against transformers' own processors and against the distribution it must draw from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trivet.models.operations import Sampling
from trivet.models.torch_engine.sampling import Draw, draw, filtered, penalised


def _row(sampling: Sampling, seed: int = 0, **state: object) -> Draw:
    return Draw(sampling, np.random.default_rng(seed), **state)  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 3, 20, 1000]),
    st.sampled_from([1.0, 0.9, 0.5, 0.05]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.integers(5, 900),
)
def test_filters_keep_what_transformers_keeps(
    seed: int, top_k: int, top_p: float, min_p: float, vocabulary: int
) -> None:
    logits = torch.randn(2, vocabulary, generator=torch.Generator().manual_seed(seed)) * 2
    expected = logits.clone()
    ids = torch.zeros(2, 1, dtype=torch.long)
    if top_k:
        expected = TopKLogitsWarper(top_k)(ids, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(ids, expected)
    if min_p:
        expected = MinPLogitsWarper(min_p)(ids, expected)
    ours = filtered(logits.clone(), top_k=[top_k] * 2, top_p=[top_p] * 2, min_p=[min_p] * 2)
    assert torch.equal(torch.isfinite(ours), torch.isfinite(expected))
    assert torch.equal(ours[torch.isfinite(ours)], expected[torch.isfinite(expected)])


def test_repetition_penalty_is_that_of_transformers() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1))
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[3, 4, 9]]), logits[None].clone())[0]
    ours = penalised(logits.clone(), _row(Sampling(repetition_penalty=1.7), prompt=(3, 4), answer=(9,)))
    assert torch.equal(ours, expected)


def test_presence_and_frequency_penalties_count_the_answer() -> None:
    row = _row(Sampling(presence_penalty=0.5, frequency_penalty=0.25), prompt=(1, 1, 1), answer=(2, 2, 3))
    ours = penalised(torch.zeros(5), row)
    assert ours.tolist() == [0, 0, -0.5 - 2 * 0.25, -0.5 - 0.25, 0]


def test_bias_moves_the_choice_and_not_the_reported_logprob() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0]])
    drawn = draw(logits, [_row(Sampling(logit_bias=((2, 100.0),)))])[0]
    assert drawn.token == 2
    assert drawn.logprob == pytest.approx(float(logits.log_softmax(-1)[0, 2]))


def test_greedy_takes_the_best_and_reports_alternatives() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    first, second = draw(logits, [_row(Sampling(), top_logprobs=2), _row(Sampling())])
    assert (first.token, second.token) == (1, 0)
    assert [token for token, _ in first.top_logprobs] == [1, 2]
    assert first.top_logprobs[0][1] == pytest.approx(first.logprob)
    assert second.top_logprobs == ()


def test_a_row_does_not_depend_on_the_others() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(3))
    settings_ = [Sampling(1.0, 0.9), Sampling(0.7, top_k=5), Sampling(), Sampling(1.3, min_p=0.1)]
    together = draw(logits, [_row(s, seed=i) for i, s in enumerate(settings_)])
    alone = [draw(logits[i : i + 1], [_row(s, seed=i)])[0] for i, s in enumerate(settings_)]
    assert [d.token for d in together] == [d.token for d in alone]


def test_draws_follow_the_distribution() -> None:
    """Chi-squared over 20,000 draws at temperature 0.5 from four tokens (3 degrees of freedom)."""
    logits = torch.tensor([[0.0, 0.5, 1.0, -torch.inf, -0.5]])
    row, count = _row(Sampling(temperature=0.5), seed=7), 20_000
    tokens = [draw(logits, [row])[0].token for _ in range(count)]
    expected = (logits[0] / 0.5).softmax(-1).numpy() * count
    observed = np.bincount(tokens, minlength=5)
    assert observed[3] == 0
    live = expected > 0
    statistic = float(((observed[live] - expected[live]) ** 2 / expected[live]).sum())
    assert statistic < 16.3  # the 99.9th percentile
