"""The trainer of HC-RLHF against TRL, on a model (card 08)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.letter_judge import LetterJudge, letters

from trivet.train.answer_costs import AnswerCosts
from trivet.train.constrained_trainer import ConstrainedTrainer, PricedRewards
from trivet.train.cost_multiplier import ConstraintSettings, CostMultiplier, Pressure
from trivet.train.prompts import Prompt, tokenise_prompts
from trivet.train.rloo_trainer import RlooSettings, count_prompts
from trivet.train.rollouts import Rollout, RolloutEngine
from trivet.train.safety_constraint import augmented_costs
from trivet.train.sampled_answers import Answer
from trivet.train.scoring import packs, score_answers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_gradients_are_those_of_trl_with_two_rewards(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Check 4, on a model: TRL with the rewards R and C_aug of weights 1 and −λ, and the same answers."""
    from datasets import Dataset
    from tests.train.test_dpo import load, noisy
    from tests.train.test_rloo_trainer import CHATS, arguments
    from trl import RLOOTrainer

    plain = {"mean": 0.4, "deviation": 0.2, "factor": 0.6}
    multiplier = 1.7
    seen: list[float] = []

    def reward(completions: list[Any], **others: Any) -> list[float]:
        seen.extend(letters(one[0]["content"]) for one in completions)
        return [3 * value for value in seen]

    def augmented(completions: list[Any], **others: Any) -> list[float]:
        found = [letters(one[0]["content"]) ** 2 for one in completions]
        return augmented_costs(found, plain["mean"], plain["deviation"], plain["factor"]).tolist()

    model, tokenizer = load(tiny_model_folder)
    theirs = RLOOTrainer(
        model=noisy(model),
        reward_funcs=[reward, augmented],
        args=arguments(tmp_path / "theirs", disable_dropout=True, reward_weights=[1.0, -multiplier]),
        train_dataset=Dataset.from_list([{"prompt": chat} for chat in CHATS]),
        processing_class=tokenizer,
    )
    torch.manual_seed(1)
    batch = theirs._generate_and_score_completions([{"prompt": chat} for chat in CHATS for _ in range(3)])
    theirs.model.zero_grad()
    theirs._compute_loss(theirs.model, batch).backward()

    ours, reference = noisy(load(tiny_model_folder)[0]), load(tiny_model_folder)[0]
    prompts, _ = tokenise_prompts(
        [Prompt(row, chat) for row, chat in enumerate(CHATS)], tokenizer, room=6, context_length=512
    )
    for one in (ours, reference):
        score_answers(one)
        assert packs(one, 300)
    settings = count_prompts(arguments(tmp_path / "ours"), "test")
    judge = LetterJudge()
    trainer = ConstrainedTrainer(
        model=ours,
        args=settings,
        train_dataset=prompts,
        processing_class=tokenizer,
        reward_judge=judge,
        costs=AnswerCosts(judge, None),
        multiplier=CostMultiplier(ConstraintSettings(limit=0.5, delta=0.1, test_prompts=20)),
        rollouts=RolloutEngine(None, count=3, max_tokens=6),  # type: ignore[arg-type]  # TRL generated
        settings=RlooSettings.of(settings),
        reference=reference,
        packed=True,
        padding=0,
    )
    pressure = Pressure(plain["mean"], plain["deviation"], plain["factor"], 0.5, multiplier)
    groups = []
    for row, prompt in enumerate(prompts):
        place = slice(3 * row, 3 * row + 3)
        lengths = batch["completion_mask"][place].sum(1).tolist()
        ids = batch["completion_ids"][place]
        answers = tuple(
            Answer(tuple(tokens[:length].tolist()), "", 0.0, True)
            for tokens, length in zip(ids, lengths, strict=True)
        )
        costs = [value**2 for value in seen[place]]
        priced = PricedRewards([3 * value for value in seen[place]], pressure.penalties(costs))
        groups.append((Rollout(prompt, answers), priced))
    value, outputs = trainer.compute_loss(trainer.model, trainer._inputs(groups), return_outputs=True)
    value.backward()
    assert batch["advantages"].abs().max() > 1e-2
    torch.testing.assert_close(outputs["advantages"], batch["advantages"], rtol=0, atol=2e-5)
    for one, two in zip(trainer.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=2e-5)
