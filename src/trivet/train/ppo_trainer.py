"""The trainer of proximal policy optimisation on rollouts of the generation engine; see ``trivet.train.ppo``.

A step is one round: the policy answers a batch of prompts, and several passes over these answers follow, each
in parts with an update of the weights of its own. Checkpoints lie between rounds, so that nothing of a round
has to be kept to go on bit by bit.

The value of a state is linear in the policy's own last hidden state (one backbone for both): a second
backbone would double the memory of weights, gradients and optimiser for a head of a few hundred numbers, and
an adapter is then no longer small. The head begins at zero and is trained at a rate of its own; what it wants
of the backbone is weighted by ``value_weight``. It is kept in checkpoints and is no part of the model that is
written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trivet._files import sha256_text
from trivet.train.batches import Example, model_inputs
from trivet.train.ppo import (
    advantages,
    normalised,
    policy_loss,
    token_rewards,
    value_loss,
    weighted_mean,
)
from trivet.train.preference_loss import answer_sums
from trivet.train.reference import on_device
from trivet.train.rloo_trainer import RlooSettings, RlooTrainer, examples_of
from trivet.train.rollouts import Rollout
from trivet.train.scoring import causal_model

VALUE_HEAD = "value_head.safetensors"


@dataclass(frozen=True)
class PpoSettings(RlooSettings):
    """Of the objective, see ``trivet.train.ppo``, and of a round: ``epochs`` passes in ``minibatches`` parts.

    ``epsilon`` bounds ratios, ``value_clip`` changes of a value (in reward), ``value_weight`` is what the
    value's loss counts, ``value_learning_rate`` the head's own.
    """

    epochs: int = 1
    minibatches: int = 1
    epsilon: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    value_learning_rate: float = 1e-4


@dataclass(frozen=True)
class Round:
    """Answers with what is held fixed while they are learnt from; all but ``examples`` are [tokens]."""

    examples: Sequence[Example]
    old: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    weights: torch.Tensor

    def part(self, prompts: Sequence[int]) -> "Round":
        """That of some of the prompts."""
        sizes = [sum(map(len, one.answers)) for one in self.examples]
        spans = torch.split(torch.arange(sum(sizes), device=self.old.device), sizes)
        index = torch.cat([spans[number] for number in prompts])
        fixed = (self.old, self.values, self.advantages, self.returns, self.weights)
        return Round([self.examples[number] for number in prompts], *(one[index] for one in fixed))


class PpoTrainer(RlooTrainer):
    """PPO with a value head; see the module. It takes what ``RlooTrainer`` takes, with ``PpoSettings``.

    A batch is a round: gradients are not accumulated over several. Dropout must be off, or ratios measure it.
    Beside what ``RlooTrainer`` logs come the means over a round's updates of ``policy_loss``, ``value_loss``
    and ``clipped`` (share of tokens whose ratio is out of bounds), and ``ratio_difference``, the largest
    |ρ − 1| before its first update, which is rounding alone.
    """

    settings: PpoSettings
    least_scored = 1  # values are what it is compared with

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        width = int(causal_model(self.model).config.get_text_config().hidden_size)
        self.value_head = torch.nn.Linear(width, 1).to(self.args.device)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        self._updates = 0  # in the round under way

    def create_optimizer(self, model: Any = None) -> Any:
        """With the head among the parameters; see ``transformers.Trainer``."""
        made = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if not made:
            optimizer.add_param_group(
                {
                    "params": list(self.value_head.parameters()),
                    "lr": self.settings.value_learning_rate,
                    "weight_decay": 0.0,
                }
            )
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            head = {name: tensor.detach().cpu() for name, tensor in self.value_head.state_dict().items()}
            save_file(head, Path(output_dir) / VALUE_HEAD)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.value_head.load_state_dict(load_file(Path(checkpoint) / VALUE_HEAD))

    def _keep(self) -> bool:
        # In the middle of a round the weights are of no step; the checkpoint before it is good.
        return self._updates == 0 and super()._keep()

    def _inputs(self, groups: Sequence[tuple[Rollout, Sequence[float | None]]]) -> dict[str, Any]:
        return {**super()._inputs(groups), "examples": examples_of(groups)}

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One round but for its last update, which ``transformers.Trainer`` makes; returns the mean loss."""
        model.train()
        self._updates = 0  # not at the end: until the update after it is made, the round is under way
        inputs = self._prepare_inputs(inputs)
        made = self.round(model, inputs)
        parts = list(self._parts(len(made.examples)))
        losses = []
        self.value_head.zero_grad()
        for prompts in parts:
            loss = self.compute_loss(model, {"round": made.part(prompts)})
            self.accelerator.backward(loss)
            self._prepare_head_gradients()
            losses.append(loss.detach())
            if len(losses) < len(parts):
                self._update(model)
        return torch.stack(losses).mean()

    @torch.no_grad()
    def round(self, model: Any, inputs: dict[str, Any]) -> Round:
        """What the policy as it is says of the answers."""
        owner, settings = inputs["owners"], self.settings
        old, states = model(**inputs["model"], with_states=True)
        values = self._values(states)
        self._collect_figures(inputs, answer_sums(old, owner, None), torch.bincount(owner))
        scores = inputs["rewards"] if settings.clip is None else inputs["rewards"].clamp(*settings.clip)
        weights = (~scores.isnan()).float()[owner]
        rewards = token_rewards(
            old, inputs["reference_tokens"], scores.nan_to_num(nan=0.0), owner, settings.beta
        )
        found = advantages(rewards, values, owner, settings.gamma, settings.lam)
        scaled = normalised(found, weights, lambda sums: self.accelerator.reduce(sums, "sum"))
        return Round(inputs["examples"], old, values, scaled, found + values, weights)

    def _values(self, states: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.value_head(states.float())[:, 0]
        return values

    def _parts(self, count: int) -> Iterator[list[int]]:
        """The prompts of each update: for each pass all of them in a new order, in equal parts."""
        numbers = torch.Generator().manual_seed(int(sha256_text(f"round {self._name_of_step()}")[:15], 16))
        for _ in range(self.settings.epochs):
            order = torch.randperm(count, generator=numbers)
            for part in order.tensor_split(min(self.settings.minibatches, count)):
                yield part.tolist()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """L_π + value_weight · L_V of a ``round``; with ``return_outputs`` also the ``ratios`` [tokens]."""
        made: Round = inputs["round"]
        batch = model_inputs(made.examples, packed=self.packed, padding=self.padding)
        policy, states = model(**on_device(batch, self.model.device), with_states=True)
        values = self._values(states)
        of_policy = policy_loss(policy, made.old, made.advantages, made.weights, self.settings.epsilon)
        of_value = value_loss(values, made.values, made.returns, made.weights, self.settings.value_clip)
        ratios = (policy.detach() - made.old).exp()
        outside = ((ratios - 1).abs() > self.settings.epsilon).float()
        figures = {
            "policy_loss": of_policy,
            "value_loss": of_value,
            "clipped": weighted_mean(outside, made.weights),
        }
        if self._updates == 0:
            figures["ratio_difference"] = (ratios - 1).abs().max()
        self.collect(True, figures)
        loss = of_policy + self.settings.value_weight * of_value
        self.check_loss(loss, [one.row for one in made.examples])
        return (loss, {"ratios": ratios}) if return_outputs else loss

    def _prepare_head_gradients(self) -> None:
        """The head is outside the model, which averages over processes and is clipped by itself."""
        for parameter in self.value_head.parameters():
            parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
            if not torch.isfinite(parameter.grad).all():
                raise self.not_finite("a gradient is not finite")
        if self.args.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.value_head.parameters(), self.args.max_grad_norm)

    def _update(self, model: Any) -> None:
        """What ``transformers.Trainer`` does at the end of a step."""
        if self.args.max_grad_norm > 0:
            self._clip_grad_norm(model)
        self.callback_handler.on_pre_optimizer_step(self.args, self.state, self.control)
        self.optimizer.step()
        model.zero_grad()
        self.value_head.zero_grad()
        self._updates += 1
