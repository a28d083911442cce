"""The trainer of the methods that learn from rewards of the policy's own answers.

At each step the policy answers some prompts k times through the generation engine, a reward says what the
answers are worth, and one update follows (``trivet.train.rloo``): the k answers of a prompt share it in one
forward pass, and their log-probabilities in that pass serve for the KL penalty and for the gradient alike.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.rloo_config import RLOOConfig

from trivet._files import sha256_text
from trivet.errors import ConfigError, TrainingError
from trivet.train.batches import Example, model_inputs, owners
from trivet.train.collecting_trainer import CollectingTrainer
from trivet.train.launching import need_whole_weights
from trivet.train.preference_loss import answer_sums
from trivet.train.prompts import Prompt
from trivet.train.reference import on_device
from trivet.train.rloo import leave_one_out_advantages, loss, returns
from trivet.train.rollouts import Reward, Rollout, RolloutEngine, reward_tensor

HONOURED = ("beta", "num_generations", "max_completion_length", "disable_dropout", "reward_clip_range")
"""Fields of ``trl.RLOOConfig`` beyond transformers' own that this trainer takes up.

The others are refused by name: one update follows each generation (``num_iterations``, ``epsilon``), answers
are drawn at temperature 1, from which alone the log-probabilities of the update are those of the drawing
(``temperature``, ``top_p``, …), and advantages are not normalised.
"""

UNSCORED_STEPS = 8
"""Steps from the start after which a run in which nothing could be scored is stopped."""


@dataclass(frozen=True)
class RlooSettings:
    """``beta``: weight of the KL, in reward a nat; ``clip``: bounds of the reward before it, or ``None``."""

    beta: float
    clip: tuple[float, float] | None = None

    @classmethod
    def of(cls, arguments: RLOOConfig) -> "RlooSettings":
        """Those of TRL's arguments."""
        clip = arguments.reward_clip_range
        return cls(arguments.beta, None if clip is None else (clip[0], clip[1]))


def count_prompts(arguments: RLOOConfig, where: str) -> RLOOConfig:
    """The arguments with batch sizes in prompts; TRL's count answers.

    Raises:
        ConfigError: a batch does not hold whole groups of answers, FSDP is on, or an evaluation is asked for.
    """
    need_whole_weights(arguments, "the engine that answers", where)
    if arguments.eval_strategy != "no" or arguments.eval_on_start:
        raise ConfigError(
            "eval_strategy, eval_on_start: this method does not evaluate between steps",
            where=where,
            hint="leave them out; rewards are logged at each step, and held_out measures before and after",
        )
    group, size = arguments.num_generations, arguments.per_device_train_batch_size
    if size % group:
        raise ConfigError(
            f"per_device_train_batch_size: {size} answers are not whole groups of num_generations = {group}",
            where=where,
            hint=f"make it a multiple of {group}; it counts answers, as in TRL",
        )
    arguments.per_device_train_batch_size = size // group
    return arguments


def examples_of(groups: Sequence[tuple[Rollout, Any]]) -> list[Example]:
    """The token ids of prompts and their answers; what stands beside a rollout plays no part."""
    return [
        Example(one.prompt.row, one.prompt.tokens, tuple(answer.tokens for answer in one.answers))
        for one, _ in groups
    ]


class RlooTrainer(CollectingTrainer):
    """REINFORCE with a leave-one-out baseline on rollouts of the generation engine.

    The model must score answers (``trivet.train.scoring.score_answers``). Rollouts are drawn with a seed that
    derives from the run's seed, the step and the process, so that a resumed run draws what an uninterrupted
    one does. It logs the means of

    - ``mean_reward``, ``kl`` (nats an answer, k1), ``entropy`` (nats a token, −log p of what was drawn),
      ``length`` (tokens an answer), ``ended`` (share that stopped by itself), ``unscored`` (share);
    - ``engine_difference``: largest difference between an answer's log-probability in the engine and here,
      in nats a token, which says that the engine has the policy's weights;
    - ``share_generation``, ``share_scoring`` (reward and reference), ``share_update`` of the time.

    Args:
        reward: of answers.
        rollouts: the engine that answers.
        settings: of the objective.
        reference: the model that the KL is taken to; ``None`` is the policy with its adapter disabled.
        packed, padding: see ``trivet.train.batches.model_inputs``.
    """

    least_scored = 2
    """Scored answers to a prompt from which it teaches something: one has no other to be compared with."""

    def __init__(
        self,
        *arguments: Any,
        reward: Reward,
        rollouts: RolloutEngine,
        settings: RlooSettings,
        reference: Any,
        packed: bool,
        padding: int,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, data_collator=list, **options)
        self.reward, self.rollouts, self.settings, self.reference = reward, rollouts, settings, reference
        self.packed, self.padding = packed, padding
        self.model_accepts_loss_kwargs = False  # the loss is a mean over answers
        self._teaches, self._tried = False, 0
        self._times = dict.fromkeys(("generation", "scoring", "update"), 0.0)
        self._lap: float | None = None

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Prompt]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """The prompts of one optimiser step, answered and scored; see ``transformers.Trainer``."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return [], None
        self._note_time("update")
        self.rollouts.load(self.accelerator.unwrap_model(self.model), self._name_of_step())
        prompts = [prompt for batch in batches for prompt in batch]
        answered = self.rollouts.sample(prompts, int(sha256_text(self._name_of_step())[:15], 16))
        self._note_time("generation")
        rewards = self.reward(answered, self._note)
        self._check_scored(rewards)
        groups = iter(zip(answered, rewards, strict=True))
        made = [self._inputs([next(groups) for _ in batch]) for batch in batches]
        self._note_time("scoring")
        return made, None

    def _check_scored(self, rewards: Sequence[Sequence[float | None]]) -> None:
        """Stop a run in which nothing has been learnt from the start, since nothing could be scored.

        Raises:
            TrainingError: in none of the first steps a prompt had as many scored answers as teach something.
        """
        if self._teaches:
            return
        self._tried += 1
        enough = [sum(one is not None for one in some) >= self.least_scored for some in rewards]
        before = [entry.get("unscored", 1.0) < 1.0 for entry in self.state.log_history]  # where it goes on
        seen = torch.tensor([float(any(enough) or any(before))], device=self.accelerator.device)
        self._teaches = bool(self.accelerator.gather(seen).any())
        last = self.state.global_step + 1 >= self.state.max_steps
        if not self._teaches and (last or self._tried >= UNSCORED_STEPS):
            raise TrainingError(
                f"up to step {self.state.global_step + 1} no prompt had {self.least_scored} answers that "
                "could be scored: nothing was learnt",
                hint="see what the judge says of such answers; max_completion_length may be too short for it",
            )

    def _name_of_step(self) -> str:
        return f"{self.args.seed} {self.state.global_step} {self.accelerator.process_index}"

    def _inputs(self, groups: Sequence[tuple[Rollout, Sequence[float | None]]]) -> dict[str, Any]:
        examples = examples_of(groups)
        answers = [answer for one, _ in groups for answer in one.answers]
        model = on_device(model_inputs(examples, packed=self.packed, padding=self.padding), self.model.device)
        owner = owners(examples).to(self.model.device)
        reference = self._reference_logprobs(model)
        return {
            "model": model,
            "owners": owner,
            "reference_tokens": reference,
            "reference": answer_sums(reference, owner, None),
            "rewards": reward_tensor([rewards for _, rewards in groups]),
            "drawn": torch.tensor([answer.logprob for answer in answers]),
            "ended": torch.tensor([float(answer.ended) for answer in answers]),
            "rows": [one.row for one in examples],
        }

    def divergences(self, rollouts: Sequence[Rollout]) -> list[float]:
        """The mean log-ratio of policy and reference, in nats, over each prompt's answers, which are drawn
        from the policy as it is: an unbiased estimate of the KL (k1)."""
        found = []
        for one in rollouts:
            inputs = self._inputs([(one, [None] * len(one.answers))])
            found.append(float((inputs["drawn"] - inputs["reference"].cpu()).mean()))
        return found

    @torch.no_grad()
    def _reference_logprobs(self, inputs: dict[str, Any]) -> torch.Tensor:
        if self.reference is not None:
            found: torch.Tensor = self.reference(**inputs)
            return found
        policy = self.accelerator.unwrap_model(self.model)
        training = policy.training
        policy.eval()
        with policy.disable_adapter():
            found = policy(**inputs)
        policy.train(training)
        return found

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of answered prompts; with ``return_outputs`` also the advantages [answers]."""
        owner = inputs["owners"]
        logprobs = model(**inputs["model"])
        policy = answer_sums(logprobs, owner, None)
        advantages = leave_one_out_advantages(
            self.returns(inputs["rewards"], policy.detach(), inputs["reference"]), self.rollouts.count
        )
        value = loss(policy, advantages)
        self._collect_figures(inputs, policy.detach(), torch.bincount(owner))
        self.check_loss(value, inputs["rows"])
        return (value, {"advantages": advantages}) if return_outputs else value

    def returns(self, rewards: torch.Tensor, policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """What an answer earned [answers], from rewards and log-probabilities, each [answers]."""
        return returns(rewards, policy, reference, self.settings.beta, self.settings.clip)

    def _collect_figures(self, inputs: dict[str, Any], policy: torch.Tensor, lengths: torch.Tensor) -> None:
        rewards, drawn = inputs["rewards"], inputs["drawn"]
        self._note("mean_reward", rewards[~rewards.isnan()].tolist())
        figures = {
            "kl": (policy - inputs["reference"]).mean(),
            "entropy": -policy.sum() / lengths.sum(),
            "length": lengths.float().mean(),
            "ended": inputs["ended"].mean(),
            "unscored": rewards.isnan().float().mean(),
            "engine_difference": ((policy - drawn).abs() / lengths).max(),
        }
        self.collect(True, figures)

    def _note(self, name: str, values: Sequence[float]) -> None:
        """Log the mean of figures of all processes; where there are none, nothing."""
        mine = torch.tensor([math.fsum(values), len(values)], device=self.accelerator.device)
        total, count = self.accelerator.reduce(mine, "sum")
        if count:
            self.collect(True, {name: total / count})

    def _note_time(self, what: str) -> None:
        """What has passed since the last call went into ``what``."""
        now = time.perf_counter()
        if self._lap is not None:
            self._times[what] += now - self._lap
        self._lap = now

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the shares of the time since the last entry."""
        if self._lap is not None and "loss" in logs:
            self._note_time("update")
            total = sum(self._times.values()) or 1.0
            logs = logs | {f"share_{name}": spent / total for name, spent in self._times.items()}
            self._times = dict.fromkeys(self._times, 0.0)
        super().log(logs, start_time)
