"""Loss weighting: the batches' loss is Σ w_i L_DPO(D_i); a weight of 0 leaves DPO on the other set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import make_pairs
from tests.train.test_checkpoints import equal, weights
from tests.train.test_dpo import arguments, load, noisy

from trivet.data.prompts import prompt_digest
from trivet.errors import TrivetError
from trivet.train.loss_weighting import Config, _mixture, mixed
from trivet.train.preference_trainer import (
    Objective,
    PairCollator,
    PreferenceExample,
    PreferenceTrainer,
)
from trivet.train.preferences import asked
from trivet.train.reference import reference_logprobs
from trivet.train.running import TrainingContext, train
from trivet.train.scoring import score_answers
from trivet.train.tokenising import tokenise_pairs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture
def other_file(tmp_path: Path) -> Path:
    """Eight of the pairs, with chosen and rejected exchanged."""
    path = tmp_path / "other.jsonl"
    pairs = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in make_pairs(8)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return path


def test_the_loss_is_the_weighted_sum_of_the_sets_losses(tiny_model_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load(tiny_model_folder)
    score_answers(model)
    examples = tokenise_pairs(make_pairs(8), tokenizer, max_length=None).examples
    known = reference_logprobs(model, examples, identity="tiny", packed=False, padding=0)
    rows = [PreferenceExample(one, values) for one, values in zip(examples, known, strict=True)]
    trainer = PreferenceTrainer(
        model=noisy(model),
        args=arguments(tmp_path),
        data_collator=PairCollator(False, 0),
        train_dataset=rows,
        processing_class=tokenizer,
        objective=Objective(beta=0.1),
    )

    def loss(some: list[PreferenceExample]) -> float:
        with torch.no_grad():
            return float(trainer.compute_loss(model, trainer.data_collator(some)))

    sets = {"one": rows[:5], "two": rows[5:]}
    found = loss(mixed(sets, {"one": 0.3, "two": 0.9}))
    assert found == pytest.approx(0.3 * loss(rows[:5]) + 0.9 * loss(rows[5:]), abs=1e-6)
    assert mixed(sets, {"one": 1.0, "two": 0.0}) == sets["one"]


@pytest.mark.slow
def test_a_front_on_two_sets(write_settings: Callable[..., Path], tmp_path: Path, other_file: Path) -> None:
    epoch = {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 8, "save_steps": 50}
    settings = write_settings(
        objective="harmless",
        pairs={"helpful": str(other_file)},
        weights=[[1, 0], {"helpful": 0.5, "harmless": 0.5}],
        adapter=LORA,
        trainer=epoch,
    )
    done = train("loss_weighting", settings, tmp_path / "front")
    assert done.record["front"][1]["weights"] == {"harmless": 0.5, "helpful": 0.5}
    assert [point["steps"] for point in done.record["front"]] == [3, 4]
    train("dpo", write_settings("dpo.yaml", adapter=LORA, trainer=epoch), tmp_path / "dpo")
    assert equal(weights(tmp_path / "front" / "w_1_0"), weights(tmp_path / "dpo"))
    assert not equal(weights(tmp_path / "front" / "w_0.5_0.5"), weights(tmp_path / "dpo"))


def test_no_set_trains_on_what_another_holds_out(
    write_settings: Callable[..., Path], tmp_path: Path, other_file: Path
) -> None:
    settings = write_settings(
        pairs={"helpful": str(other_file)}, weights=[0.5, 0.5], held_out=20, trainer={"max_steps": 1}
    )
    metrics = train("loss_weighting", settings, tmp_path / "out").record["metrics"]
    both = {name: metrics[f"held-out loss, {name}"] for name in ("preference", "helpful")}
    assert metrics["held-out loss"] == pytest.approx(sum(both.values()) / 2)
    assert metrics["held-out pairs, preference"] + metrics["held-out pairs, helpful"] >= 20
    config = Config(
        model="m",
        data=str(tmp_path / "other.jsonl"),
        pairs={"b": str(other_file)},
        weights=[1, 1],
        held_out=5,
    )
    trained, held_out, notes = _mixture(config, TrainingContext(tmp_path, tmp_path, tmp_path, "test"))
    assert not {asked(pair["prompt"]) for pair in trained} & {asked(pair["prompt"]) for pair in held_out}
    assert len(held_out) == 6 and "6 pairs held out" in notes[-1]
    assert prompt_digest("What is red number 0?") in config.prompts(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [0, 0]}, "all are 0"),
        ({"pairs": {"preference": "x.jsonl"}}, "also the name of another one"),
        ({"pairs": {"helpful": "nowhere.jsonl"}}, "no such file"),
        ({"trainer": {"max_steps": 1, "per_device_train_batch_size": 1}}, "is among those that are seen"),
    ],
)
def test_wrong_settings_are_named(
    write_settings: Callable[..., Path],
    tmp_path: Path,
    other_file: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    values = {"pairs": {"helpful": str(other_file)}, "weights": [0.5, 0.5], **changes}
    with pytest.raises(TrivetError, match=message):
        train("loss_weighting", write_settings(**values), tmp_path / "out")
