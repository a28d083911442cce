"""Answers of the policy as it is now, and what they are worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trivet._files import sha256_text
from trivet.judges import Judge
from trivet.models.operations import Chat
from trivet.models.torch_engine import TorchEngine
from trivet.train.merged_weights import merged_weights
from trivet.train.prompts import Prompt
from trivet.train.sampled_answers import DRAWN, Answer, Wanted, answer_all


@dataclass(frozen=True)
class Rollout:
    """The answers that the policy gave to one prompt."""

    prompt: Prompt
    answers: tuple[Answer, ...]


class Reward(Protocol):
    """What answers are worth."""

    def __call__(
        self, rollouts: Sequence[Rollout], note: Callable[[str, Sequence[float]], None]
    ) -> Sequence[Sequence[float | None]]:
        """One number for each answer of each rollout, or ``None`` where it cannot be scored.

        ``note(name, values)`` puts the mean of figures into the log.
        """
        ...


class RolloutEngine:
    """Draws answers from a model in training, through the generation engine.

    The engine holds weights of its own, in its own layout; before a step those of the model are written over
    them, with an adapter merged.

    Args:
        engine: made with ``replaceable=True``, for the model before training.
        count: answers to each prompt.
        max_tokens: longest answer, in tokens.
        stop: strings that end an answer, beside an end-of-sequence token.
    """

    def __init__(
        self, engine: TorchEngine, *, count: int, max_tokens: int, stop: tuple[str, ...] = ()
    ) -> None:
        self.engine, self.count, self.max_tokens, self.stop = engine, count, max_tokens, stop

    def load(self, model: Any, name: str) -> None:
        """Take the model's weights over; ``name`` tells them from others."""
        self.engine.load_weights(merged_weights(model), sha256_text(name))

    def sample(self, prompts: Sequence[Prompt], seed: int) -> list[Rollout]:
        """Answers at temperature 1 to each prompt; equal weights, prompts and seed give equal answers."""
        return answered(
            self.engine,
            prompts,
            Wanted(self.count, DRAWN, self.stop),
            max_tokens=self.max_tokens,
            seed=seed,
        )


def answered(engine: TorchEngine, prompts: Sequence[Prompt], wanted: Wanted, **options: Any) -> list[Rollout]:
    """The wanted answers of the engine's model to each prompt; ``options`` as ``answer_all`` takes them."""
    answers = answer_all(engine, [one.tokens for one in prompts], [wanted], **options)
    return [Rollout(prompt, tuple(some)) for prompt, some in zip(prompts, answers, strict=True)]


def chats_of(rollouts: Sequence[Rollout]) -> list[Chat]:
    """The chat of each answer of each rollout, one after another."""
    return [
        [*one.prompt.chat, {"role": "assistant", "content": answer.text}]
        for one in rollouts
        for answer in one.answers
    ]


def judged(judge: Judge, rollouts: Sequence[Rollout]) -> list[list[float | None]]:
    """The judge's score of each answer of each rollout, in one call; ``None`` where it could not score."""
    values = iter([verdict.value for verdict in judge.score(chats_of(rollouts))])
    return [[next(values) for _ in one.answers] for one in rollouts]


def reward_tensor(rewards: Sequence[Sequence[float | None]]) -> torch.Tensor:
    """Rewards of all answers one after another, float32 [answers]; NaN where there is none."""
    return torch.tensor([float("nan") if value is None else value for some in rewards for value in some])
