"""What the training room takes for granted of TRL, and that weights of rewards act from the next step.

Parity with the MODPO shift is in test_modpo.py, that with length desensitisation in test_dpo.py.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.train.letter_judge import LetterJudge, letters
from tests.train.test_dpo import load
from tests.train.test_morlhf import ShortJudge
from tests.train.test_rloo_trainer import CHATS, arguments, trainer_of
from transformers import TrainerCallback

from trivet.models.names import resolve_model
from trivet.train.morlhf import WeightedReward
from trivet.train.rloo_trainer import count_prompts
from trivet.train.rollouts import RolloutEngine
from trivet.train.sampled_answers import generation_engine

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FACTOR = 1.1


def test_trl_has_the_trainers_that_stand_beside_ours_and_no_ppo() -> None:
    import trl

    for name in ("DPO", "RLOO", "GRPO", "Reward", "SFT", "KTO"):
        assert isinstance(getattr(trl, f"{name}Trainer"), type)
    assert not hasattr(trl, "PPOTrainer")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("DPOConfig", {"ld_alpha", "precompute_ref_log_probs", "loss_weights"}),
        ("RLOOConfig", {"reward_weights", "normalize_advantages", "reward_clip_range"}),
        ("GRPOConfig", {"multi_objective_aggregation", "scale_rewards"}),
    ],
)
def test_trls_arguments_have_the_fields_that_are_named_here(name: str, fields: set[str]) -> None:
    import trl

    assert fields <= {field.name for field in dataclasses.fields(getattr(trl, name))}


def three_steps(folder: Path, **options: Any) -> Any:
    """Arguments of three logged steps."""
    return arguments(folder, max_steps=3, logging_steps=1, save_strategy="no", learning_rate=1e-3, **options)


def test_a_weight_that_a_callback_changes_acts_in_trls_next_step(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import RLOOTrainer

    def share(completions: list[Any], **others: Any) -> list[float]:
        return [letters(one[0]["content"]) for one in completions]

    def short(completions: list[Any], **others: Any) -> list[float]:
        return [-len(one[0]["content"]) / 10 for one in completions]

    class Raise(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *some: Any, **others: Any) -> None:
            trainer.reward_weights[1] *= FACTOR

    trainer = RLOOTrainer(
        model=load(tiny_model_folder)[0],
        reward_funcs=[share, short],
        args=three_steps(tmp_path, reward_weights=[1.0, 1.0], disable_dropout=True),
        train_dataset=Dataset.from_list([{"prompt": chat} for chat in CHATS]),
        processing_class=load(tiny_model_folder)[1],
        callbacks=[Raise()],
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(logged) == 3
    for step, entry in enumerate(logged):
        expected = entry["rewards/share/mean"] + FACTOR**step * entry["rewards/short/mean"]
        assert entry["reward"] == pytest.approx(expected, abs=1e-4)


def test_a_weight_that_a_callback_changes_acts_in_our_next_step(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    class NeverEmpty(ShortJudge):
        def score(self, chats: Any) -> Any:
            return super().score(
                [[{"role": "assistant", "content": f"{chat[-1]['content']} "}] for chat in chats]
            )

    weights = {"letters": 1.0, "short": 1.0}

    class Raise(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *some: Any, **others: Any) -> None:
            weights["short"] *= FACTOR

    model, tokenizer = load(tiny_model_folder)
    settings = count_prompts(three_steps(tmp_path), "test")
    with generation_engine(resolve_model(str(tiny_model_folder)), "cpu") as engine:
        rollouts = RolloutEngine(engine, count=3, max_tokens=6)
        trainer = trainer_of(model, tokenizer, load(tiny_model_folder)[0], settings, rollouts)
        trainer.reward = WeightedReward({"letters": LetterJudge(), "short": NeverEmpty()}, weights)
        trainer.add_callback(Raise())
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3
    for step, entry in enumerate(logged):
        expected = entry["rewards/letters"] + FACTOR**step * entry["rewards/short"]
        assert entry["mean_reward"] == pytest.approx(expected, abs=1e-4)
