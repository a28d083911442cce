"""Speculative decoding gives the same distribution: counts of answers against the enumerated mixture."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from trivet.decode._speculation import acceptance, accepts, corrected, expected_tokens
from trivet.decode.eft import Config, program
from trivet.models.operations import Commit, Continuation, ProgramContext, Sampling, Several
from trivet.models.torch_engine.sampling import pick

VOCABULARY, LENGTH = 12, 3
PROMPTS = {"": (0,), "base": (1, 1), "tuned.a": (2,), "tuned.b": (3, 3, 3)}


class Tables:
    """Three or four models with a random distribution after each prefix of at most two tokens."""

    def __init__(self, seed: int, spread: float = 1.5) -> None:
        chance = np.random.default_rng(seed)
        self.logprobs: dict[tuple[str, tuple[int, ...]], np.ndarray[Any, Any]] = {}
        common = {
            answer: chance.normal(size=VOCABULARY) * 2
            for length in range(LENGTH + 1)
            for answer in itertools.product(range(VOCABULARY), repeat=length)
        }
        for model in PROMPTS:
            for answer, logits in common.items():
                own = logits + chance.normal(size=VOCABULARY) * spread / 2
                self.logprobs[model, answer] = own - np.log(np.exp(own).sum())

    def answer(self, operation: Any) -> Any:
        """The results of what the program asks."""
        return [[self._of(one)] for one in operation.operations]

    def _of(self, one: Any) -> Any:
        [model] = one.models
        assert not one.transformed and one.prefix[: len(PROMPTS[model])] == PROMPTS[model]
        tokens = one.prefix[len(PROMPTS[model]) :]
        lengths = range(len(tokens) - (one.last or 1) + 1, len(tokens) + 1)
        rows = [self.logprobs[model, tokens[:length]].astype(np.float32) for length in lengths]
        return rows[0] if one.last is None else np.stack(rows)


def run(tables: Tables, config: Config, sampling: Sampling, seed: int, eos: int | None = None) -> Any:
    """One answer of the program and its trace, over the tables in place of an engine."""
    context = ProgramContext(
        prompt=PROMPTS[""], chat=[], max_tokens=LENGTH, sampling=sampling, stop=(), top_logprobs=0,
        random=np.random.default_rng(seed), encode=lambda text: (), decode=lambda tokens: "",
        render=lambda chat: (), eos=frozenset() if eos is None else frozenset({eos}),
        prompt_of=lambda model, template: PROMPTS[model],
    )  # fmt: skip
    running = program(config, context)
    parts: list[Continuation] = []
    result = None
    while True:
        try:
            operation = running.send(result)
        except StopIteration:
            break
        if isinstance(operation, Commit):
            parts.append(operation.continuation)
            result = None
        else:
            assert isinstance(operation, Several)
            result = tables.answer(operation)
    tokens = tuple(token for part in parts for token in part.tokens)
    return tokens, parts[-1].stop_reason, context.trace[0]


def mixed(tables: Tables, config: Config, answer: tuple[int, ...]) -> Any:
    """The mixture's probabilities, from the paper's equation."""
    large, base = tables.logprobs["", answer], tables.logprobs["base", answer]
    small = base.copy()
    for name, share in config.shares.items():
        small += config.beta * share * (tables.logprobs[f"tuned.{name}", answer] - base)
    weight = large - base
    if config.upscaling_top_p < 1:
        p = np.exp(small) / np.exp(small).sum()
        order = np.argsort(-p)
        count = int((np.cumsum(p[order]) - p[order] < config.upscaling_top_p).sum())
        weight = np.where(np.isin(np.arange(VOCABULARY), order[:count]), weight, 0.0)
    total = np.exp(small + weight)
    return total / total.sum()


def warped(p: Any, sampling: Sampling) -> Any:
    """Temperature and nucleus filter, worked out anew."""
    scaled = p ** (1 / sampling.temperature)
    scaled /= scaled.sum()
    order = np.argsort(-scaled)
    count = int((np.cumsum(scaled[order]) - scaled[order] < sampling.top_p).sum())
    kept = np.where(np.isin(np.arange(VOCABULARY), order[:count]), scaled, 0.0)
    return kept / kept.sum()


def expected(tables: Tables, config: Config, sampling: Sampling, eos: int | None) -> dict[Any, float]:
    """The probability of every answer."""
    found: dict[tuple[int, ...], float] = {}

    def walk(answer: tuple[int, ...], chance: float) -> None:
        if chance == 0:
            return
        if len(answer) == LENGTH:
            found[answer] = chance
            return
        for token, p in enumerate(warped(mixed(tables, config, answer), sampling)):
            if token == eos:
                found[*answer, -1] = chance * p
            else:
                walk((*answer, token), chance * p)

    walk((), 1.0)
    return found


def p_value(counts: dict[Any, int], chances: dict[Any, float], samples: int) -> float:
    """Chi-square test; cells that expect fewer than five are one."""
    assert set(counts) <= {answer for answer, chance in chances.items() if chance > 0}
    large = [answer for answer, chance in chances.items() if chance * samples >= 5]
    observed = [counts.get(answer, 0) for answer in large]
    hoped = [chances[answer] * samples for answer in large]
    if len(large) < len(chances):
        observed.append(samples - sum(observed))
        hoped.append(samples - sum(hoped))
    return float(stats.chisquare(observed, hoped, sum_check=False).pvalue)


HOT = Sampling(temperature=1.0)
CASES = [
    ({}, HOT, None),
    ({"draft_tokens": 1}, HOT, None),
    ({"draft_tokens": 2}, HOT, None),
    ({"draft_tokens": 2}, HOT, 4),
    ({"draft_tokens": 2, "beta": 1.7}, Sampling(temperature=0.7, top_p=0.9), None),
    ({"draft_tokens": 2, "upscaling_top_p": 0.6}, HOT, None),
    ({"draft_tokens": 2, "tuned": {"a": "t", "b": "u"}, "weights": {"a": 0.3, "b": 0.9}}, HOT, 7),
]


def check(settings: dict[str, Any], sampling: Sampling, eos: int | None, samples: int) -> None:
    config = Config.model_validate({"base": "r", "tuned": {"a": "t"}, **settings})
    tables = Tables(3)
    counts: dict[Any, int] = {}
    proposed = 0
    for seed in range(samples):
        tokens, reason, note = run(tables, config, sampling, seed, eos)
        answer = (*tokens, -1) if reason == "stop" else tokens
        counts[answer] = counts.get(answer, 0) + 1
        proposed += note.get("proposed", 0)
    assert (proposed > 0) == (config.draft_tokens > 0)
    assert p_value(counts, expected(tables, config, sampling, eos), samples) > 0.01


@pytest.mark.parametrize(("settings", "sampling", "eos"), CASES[2::2])
def test_the_program_draws_from_the_mixture(
    settings: dict[str, Any], sampling: Sampling, eos: int | None
) -> None:
    check(settings, sampling, eos, 1000)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "sampling", "eos"), [*CASES[:2], *CASES[3:6]])
def test_the_program_draws_from_the_mixture_more_often(
    settings: dict[str, Any], sampling: Sampling, eos: int | None
) -> None:
    check(settings, sampling, eos, 4_000)


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_speculation_draws_from_the_mixture_50_000_times() -> None:
    check({"draft_tokens": 2}, HOT, None, 50_000)


def test_one_token_of_many_has_the_wanted_distribution_and_the_predicted_acceptance() -> None:
    chance = np.random.default_rng(5)
    p, q = (torch.from_numpy(chance.dirichlet(np.ones(VOCABULARY))) for _ in range(2))
    samples, kept = 50_000, 0
    counts = np.zeros(VOCABULARY)
    for token in pick(q.expand(samples, -1), list(chance.random(samples))).tolist():
        keep = accepts(p, q, token, chance.random())
        kept += keep
        counts[token if keep else corrected(p, q, chance.random())] += 1
    assert stats.chisquare(counts, p.numpy() * samples).pvalue > 0.01
    assert stats.binomtest(kept, samples, acceptance(p, q)).pvalue > 0.01


def test_a_test_that_only_compares_greedy_tokens_would_be_found_out() -> None:
    """The tables tell the mixture from what a shortcut draws: the tuned model alone."""
    config, tables = Config(base="r", tuned={"a": "t"}), Tables(3)
    wrong = {
        answer: float(
            np.exp(sum(tables.logprobs["tuned.a", answer[:at]][answer[at]] for at in range(LENGTH)))
        )
        for answer in itertools.product(range(VOCABULARY), repeat=LENGTH)
    }
    counts: dict[Any, int] = {}
    for seed in range(600):
        tokens, *_ = run(tables, config, HOT, seed)
        counts[tokens] = counts.get(tokens, 0) + 1
    assert p_value(counts, wrong, 600) < 1e-6


@pytest.mark.parametrize("draft", [1, 2])
def test_greedy_speculation_gives_the_greedy_answer(draft: int) -> None:
    for seed in range(20):
        tables = Tables(seed, spread=0.5)
        plain = run(tables, Config(base="r", tuned={"a": "t"}), Sampling(), 0)
        fast = run(tables, Config(base="r", tuned={"a": "t"}, draft_tokens=draft), Sampling(), seed)
        assert plain[0] == fast[0]


def test_expected_tokens_is_the_mean_of_the_lengths() -> None:
    for rate, count in ((0.0, 3), (0.6, 1), (0.6, 4), (1.0, 4)):
        chances = [rate**kept * (1 - rate) for kept in range(count)] + [rate**count]
        mean = sum((kept + 1) * chance for kept, chance in enumerate(chances))
        assert expected_tokens(rate, count) == pytest.approx(mean)
