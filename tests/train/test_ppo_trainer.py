"""The trainer of proximal policy optimisation: its first update, its parts, resuming, bad updates."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train.conftest import cpu_arguments
from tests.train.test_checkpoints import equal, weights
from tests.train.test_dpo import load, noisy

from trivet.errors import TrainingError
from trivet.train.checkpoints import ResumableTrainer, checkpoints
from trivet.train.ppo import advantages, token_rewards
from trivet.train.ppo_trainer import PpoSettings, PpoTrainer
from trivet.train.prompts import Prompt, tokenise_prompts
from trivet.train.rloo_trainer import count_prompts
from trivet.train.rollouts import Rollout, RolloutEngine
from trivet.train.running import train
from trivet.train.sampled_answers import Answer
from trivet.train.scoring import packs, score_answers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
ANSWERS = [((5, 6, 7), (8, 2)), ((9,), (10, 11, 12, 13)), ((6, 6), (2,))]
"""Three prompts with two answers each, as token ids."""


def trainer_of(
    folder: Path,
    output: Path,
    *,
    reference: Any = None,
    packed: bool = True,
    padding: int = 0,
    **settings: Any,
) -> PpoTrainer:
    from trl.trainer.rloo_config import RLOOConfig

    model, tokenizer = load(folder)
    reference = reference or load(folder)[0]
    for one in (model, reference):
        score_answers(one)
        if packed:
            assert packs(one, 300)
    arguments = cpu_arguments(
        RLOOConfig,
        output,
        remove_unused_columns=False,
        num_generations=2,
        per_device_train_batch_size=6,
        max_completion_length=6,
    )
    chats = [[{"role": "user", "content": f"What is {word}?"}] for word in ("red", "blue", "green")]
    prompts, _ = tokenise_prompts(
        [Prompt(row, chat) for row, chat in enumerate(chats)], tokenizer, room=6, context_length=512
    )
    made = PpoTrainer(
        model=model,
        args=count_prompts(arguments, "test"),
        train_dataset=prompts,
        processing_class=tokenizer,
        reward=lambda rollouts, note: [],
        rollouts=RolloutEngine(None, count=2, max_tokens=6),  # type: ignore[arg-type]  # nothing is drawn
        settings=PpoSettings(beta=0.2, **settings),
        reference=reference,
        packed=packed,
        padding=padding,
    )
    made.model.train()
    return made


def groups(
    trainer: PpoTrainer, scores: Sequence[Sequence[float | None]]
) -> list[tuple[Rollout, Sequence[float | None]]]:
    return [
        (Rollout(prompt, tuple(Answer(tokens, "", 0.0, True) for tokens in answers)), some)
        for prompt, answers, some in zip(trainer.train_dataset, ANSWERS, scores, strict=True)
    ]


SCORES = [[1.0, -1.0], [0.5, 2.0], [0.0, -0.5]]


def test_at_the_start_there_is_no_divergence_and_every_ratio_is_1(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Card 01, check 1."""
    trainer = trainer_of(tiny_model_folder, tmp_path)
    inputs = trainer._inputs(groups(trainer, SCORES))
    made = trainer.round(trainer.model, inputs)
    assert (made.old - inputs["reference_tokens"]).abs().max() < 1e-6
    for prompts in ([0], [1, 2], [2, 0, 1]):
        _, outputs = trainer.compute_loss(trainer.model, {"round": made.part(prompts)}, return_outputs=True)
        assert (outputs["ratios"] - 1).abs().max() < 1e-4


def test_a_round_holds_rewards_on_last_tokens_and_parts_of_it_are_its_prompts(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Card 01, check 5 (the score is on the last real token), and steps 3b to 3d."""
    trainer = trainer_of(tiny_model_folder, tmp_path, reference=noisy(load(tiny_model_folder)[0]))
    torch.nn.init.normal_(trainer.value_head.weight, std=0.1)
    inputs = trainer._inputs(groups(trainer, SCORES))
    made = trainer.round(trainer.model, inputs)
    owner = inputs["owners"]
    assert owner.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 4, 5]
    rewards = token_rewards(made.old, inputs["reference_tokens"], inputs["rewards"], owner, 0.2)
    plain = -0.2 * (made.old - inputs["reference_tokens"])
    assert (rewards - plain).nonzero().flatten().tolist() == [2, 4, 5, 9, 12]  # that of 11 is 0
    found = advantages(rewards, made.values, owner, 1.0, 0.95)
    torch.testing.assert_close(made.returns, found + made.values)
    torch.testing.assert_close(made.advantages, (found - found.mean()) / found.std(correction=0))
    part = made.part([2, 0])
    torch.testing.assert_close(part.old, torch.cat([made.old[10:], made.old[:5]]))
    assert [one.row for one in part.examples] == [2, 0]


def test_padding_and_answers_that_could_not_be_scored_change_no_loss(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Card 01, check 5: what pads may be any token; packed and padded agree; NaN rewards take no part."""
    losses = []
    for number, (packed, padding) in enumerate(((True, 0), (False, 0), (False, 77))):
        trainer = trainer_of(
            tiny_model_folder,
            tmp_path / str(number),
            reference=noisy(load(tiny_model_folder)[0]),
            packed=packed,
            padding=padding,
        )
        made = trainer.round(trainer.model, trainer._inputs(groups(trainer, SCORES)))
        losses.append(float(trainer.compute_loss(trainer.model, {"round": made}).detach()))
    assert losses[1] == pytest.approx(losses[2], abs=1e-6)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    unscored = [[1.0, None], [0.5, 2.0], [None, None]]
    made = trainer.round(trainer.model, trainer._inputs(groups(trainer, unscored)))
    assert made.weights.tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    assert made.advantages[made.weights == 0].abs().max() == 0
    loss = trainer.compute_loss(trainer.model, {"round": made})
    loss.backward()
    assert torch.isfinite(loss.detach())


def test_each_pass_visits_every_prompt_once_in_an_order_of_the_step(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(tiny_model_folder, tmp_path, epochs=3, minibatches=2)
    parts = list(trainer._parts(5))
    assert parts == list(trainer._parts(5)) and len(parts) == 6
    for first in (0, 2, 4):
        assert sorted(parts[first] + parts[first + 1]) == list(range(5))
    trainer.state.global_step = 1
    assert parts != list(trainer._parts(5))


PPO: dict[str, Any] = {"algorithm": "ppo", "ppo": {"minibatches": 2, "value_learning_rate": 1e-2}}


def killed_between_updates(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The run dies like a process after the first update of the round of step ``step`` + 1."""
    plain = PpoTrainer._update

    def dying(self: PpoTrainer, model: Any) -> None:
        plain(self, model)
        if self.state.global_step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(PpoTrainer, "_update", dying)


@pytest.mark.parametrize(
    "adapter",
    [
        pytest.param(None, marks=pytest.mark.slow),
        {"r": 2, "lora_dropout": 0.1, "target_modules": ["q_proj"]},
    ],
)
def test_resumed_weights_are_equal_bit_by_bit(
    direct_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: Any
) -> None:
    """Also the value head's, which the rest of a run depends on; and it is in no finished model."""
    path = direct_settings({"num_iterations": 2}, adapter=adapter, **PPO)
    train("direct_rlhf", path, tmp_path / "whole")
    with monkeypatch.context() as patch:
        killed_between_updates(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train("direct_rlhf", path, tmp_path / "resumed")
    (left,) = checkpoints(tmp_path / ".resumed.training" / "checkpoints")
    head = load_file(left / "value_head.safetensors")
    assert left.name == "checkpoint-2" and head["weight"].abs().max() > 0
    lines: list[str] = []
    done = train("direct_rlhf", path, tmp_path / "resumed", say=lines.append)
    assert "goes on after step 2" in lines
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    assert not any("value" in name for name in weights(tmp_path / "whole"))
    assert not (tmp_path / "whole" / "value_head.safetensors").exists()
    logged = [entry for entry in done.record["log"] if "loss" in entry]
    assert len(logged) == 4 and logged[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert all(entry["ratio_difference"] < 1e-4 for entry in logged)
    assert all(entry["value_loss"] > 0 and 0 <= entry["clipped"] <= 1 for entry in logged)


@pytest.mark.slow
@pytest.mark.parametrize("update", [0, 2])
def test_a_bad_update_in_the_middle_of_a_round_leaves_the_checkpoint_before_it(
    direct_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: int
) -> None:
    """A round is 4 updates; in its middle the weights are of no step, at its start they are good."""
    plain = ResumableTrainer.check_loss

    def spoiled(self: Any, loss: torch.Tensor, rows: Any) -> None:
        bad = self.state.global_step == 3 and self._updates == update
        plain(self, loss * torch.nan if bad else loss, rows)

    path = direct_settings({"num_iterations": 2}, **PPO)
    train("direct_rlhf", path, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(ResumableTrainer, "check_loss", spoiled)
        with pytest.raises(TrainingError, match=r"the loss is nan in step 4; the batch has the rows \d+"):
            train("direct_rlhf", path, tmp_path / "bad")
    kept = checkpoints(tmp_path / ".bad.training" / "checkpoints")
    assert kept[-1].name == ("checkpoint-2" if update else "checkpoint-3")
    train("direct_rlhf", path, tmp_path / "bad")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "bad"))


@pytest.mark.slow
def test_a_bad_gradient_of_the_last_update_keeps_no_state_of_within_a_round(
    direct_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer makes that update after ``training_step``; those before it are in the weights already."""
    plain = PpoTrainer.training_step

    def spoiled(self: PpoTrainer, model: Any, *arguments: Any) -> torch.Tensor:
        loss = plain(self, model, *arguments)
        if self.state.global_step == 3:
            next(one for one in model.parameters() if one.grad is not None).grad.fill_(torch.nan)
        return loss

    path = direct_settings(adapter={"r": 2, "target_modules": ["q_proj"]}, **PPO)
    train("direct_rlhf", path, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(PpoTrainer, "training_step", spoiled)
        with pytest.raises(TrainingError, match="a gradient is not finite in step 4") as raised:
            train("direct_rlhf", path, tmp_path / "bad")
    assert "the last checkpoint is kept" in str(raised.value)
    kept = checkpoints(tmp_path / ".bad.training" / "checkpoints")
    assert [one.name for one in kept] == ["checkpoint-2"]
    train("direct_rlhf", path, tmp_path / "bad")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "bad"))
