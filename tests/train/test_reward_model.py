"""Reward models: loss and gradients are TRL's; a run gives a classifier that plain transformers loads."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import cpu_arguments, make_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trivet.data.public import load_public
from trivet.errors import DataError, TrivetError
from trivet.models.classifiers import load_classifier
from trivet.models.names import resolve_model
from trivet.train.answer_scores import last_read, score_by_head, score_inputs
from trivet.train.batches import Example
from trivet.train.running import train
from trivet.train.score_loss import reward_loss
from trivet.train.score_trainer import ScoreCollator, ScoreTrainer
from trivet.train.scored_pairs import ScoredPair, boolean, from_responses, number, scored_pairs
from trivet.train.scoring import packs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def classifier(folder: Path, seed: int = 5) -> Any:
    """A classifier with a head that is not near zero."""
    model, tokenizer = load_classifier(resolve_model(str(folder)), dtype=torch.float32, new_head=True)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.score.weight.normal_(std=0.2)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def arguments(folder: Path, **options: Any) -> Any:
    from trl.trainer.reward_config import RewardConfig

    return cpu_arguments(
        RewardConfig, folder, per_device_train_batch_size=8, remove_unused_columns=False, **options
    )


def texts(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs as texts, whose answers end with the token that also pads."""
    return [
        {**pair, **{name: pair[name][0]["content"] for name in ("prompt", "chosen", "rejected")}}
        for pair in pairs
    ]


@pytest.mark.parametrize("form", ["messages", "texts"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("margin", "center"), [(False, None), (True, None), (True, 0.01)])
def test_loss_and_gradients_are_those_of_trl(
    tiny_model_folder: Path, tmp_path: Path, form: str, packed: bool, margin: bool, center: float | None
) -> None:
    from datasets import Dataset
    from trl import RewardTrainer

    pairs = make_pairs(8) if form == "messages" else texts(make_pairs(8))
    if margin:
        pairs = [{**pair, "margin": 0.3 * number} for number, pair in enumerate(pairs)]
    theirs_model, tokenizer = classifier(tiny_model_folder)
    theirs = RewardTrainer(
        model=theirs_model,
        args=arguments(tmp_path, center_rewards_coefficient=center, max_length=60),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    batch = theirs.data_collator([theirs.train_dataset[row] for row in range(len(theirs.train_dataset))])
    expected = theirs.compute_loss(theirs.model, batch)
    expected.backward()

    model, tokenizer = classifier(tiny_model_folder)
    padding = tokenizer.pad_token_id
    rows, _ = scored_pairs(pairs, tokenizer, max_length=60, padding=padding)
    assert len(rows) == len(theirs.train_dataset)
    score_by_head(model)
    if packed:
        assert packs(model, 300)
    ours = ScoreTrainer(
        model=model,
        args=arguments(tmp_path),
        data_collator=ScoreCollator(packed, padding),
        train_dataset=rows,
        processing_class=tokenizer,
        loss=lambda scores, margins, signs: reward_loss(scores, margins, center=center),
    )
    found = ours.compute_loss(ours.model, ours.data_collator(rows))
    found.backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for (name, one), (_, two) in zip(model.named_parameters(), theirs_model.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_the_loss_at_a_zero_head_is_log_2_and_knows_no_constant() -> None:
    assert float(reward_loss(torch.zeros(6))) == pytest.approx(math.log(2), abs=1e-6)
    scores = torch.randn(8, generator=torch.Generator().manual_seed(0))
    assert float(reward_loss(scores + 3)) == pytest.approx(float(reward_loss(scores)), abs=1e-6)
    assert float(reward_loss(scores + 3, center=0.1)) > float(reward_loss(scores, center=0.1))
    by_hand = [math.log1p(math.exp(-(float(won) - float(lost) - 0.5))) for won, lost in scores.view(-1, 2)]
    expected = sum(by_hand) / 4
    assert float(reward_loss(scores, torch.full((4,), 0.5))) == pytest.approx(expected, abs=1e-6)


def test_the_score_is_read_at_the_last_token_that_does_not_pad() -> None:
    assert last_read((5, 6, 2), 2) == 1 and last_read((5, 2, 6), 2) == 2 and last_read((2, 2), 2) == -1
    examples = [Example(0, (7, 8, 9), ((5, 6, 2), (4,))), Example(1, (7,), ((5, 5), (6, 6, 6)))]
    packed = score_inputs(examples, packed=True, padding=2)
    assert packed["score_index"].tolist() == [4, 6, 9, 12]
    assert packed["input_ids"][0, packed["score_index"]].tolist() == [6, 4, 5, 6]
    padded = score_inputs(examples, packed=False, padding=2)
    assert padded["input_ids"].flatten()[padded["score_index"]].tolist() == [6, 4, 5, 6]


def test_what_pads_and_what_stands_behind_it_changes_no_score(tiny_model_folder: Path) -> None:
    model, _ = classifier(tiny_model_folder)
    score_by_head(model)
    short, long = Example(0, (7, 8), ((5, 6), (4, 9))), Example(1, (9,) * 30, ((8,) * 9, (3,) * 5))
    alone = model(**score_inputs([short], packed=False, padding=2))
    beside = model(**score_inputs([short, long], packed=False, padding=2))
    torch.testing.assert_close(alone, beside[:2], rtol=0, atol=1e-5)
    assert packs(model, 300)
    together = model(**score_inputs([short, long], packed=True, padding=2))
    torch.testing.assert_close(together, beside, rtol=0, atol=1e-5)


SEPARABLE = {"max_steps": 25, "learning_rate": 1e-2, "save_steps": 100}


@pytest.fixture
def separable(tmp_path: Path) -> Path:
    """Pairs in two categories whose chosen answer says yes and whose rejected one says no."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Question {n}?"}],
            "chosen": [{"role": "assistant", "content": f"It is {n} yes yes"}],
            "rejected": [{"role": "assistant", "content": f"It is {n} no no no"}],
            "category": "even" if n % 2 == 0 else "odd",
        }
        for n in range(60)
    ]
    path = tmp_path / "separable.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("adapter", [None, {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}])
def test_a_run_learns_what_separates_the_answers_and_loads_in_plain_transformers(
    write_settings: Callable[..., Path],
    tmp_path: Path,
    separable: Path,
    tiny_model_folder: Path,
    adapter: Any,
) -> None:
    settings = write_settings(
        data=str(separable), held_out=20, adapter=adapter, objective="agreement", trainer=SEPARABLE
    )
    lines: list[str] = []
    done = train("reward_model", settings, tmp_path / "out", say=lines.append)
    metrics = done.record["metrics"]
    assert metrics["held-out accuracy"] > 0.9
    low, high = metrics["held-out accuracy, 95 % interval"]
    assert 0.5 < low <= metrics["held-out accuracy"] <= high <= 1
    assert {"held-out accuracy, even", "held-out accuracy, odd"} <= metrics.keys()
    assert metrics["held-out accuracy, even, n"] + metrics["held-out accuracy, odd, n"] == 20
    assert any(line.startswith("step 25 of 25: loss") for line in lines)
    facts = json.loads((tmp_path / "out" / "training.json").read_text())["judge"]
    assert facts["objective"] == "agreement" and facts["quality"]["accuracy"]["value"] > 0.9
    assert len(json.loads((tmp_path / "out" / "training_prompts.json").read_text())) == 40

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    if adapter is None:
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
        assert model.config.num_labels == 1
    else:
        from peft import AutoPeftModelForSequenceClassification

        model = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=1)
        model.config.pad_token_id = tokenizer.pad_token_id
    chats = [
        [{"role": "user", "content": "Question 99?"}, {"role": "assistant", "content": f"It is 99 {word}"}]
        for word in ("yes yes", "no no no")
    ]
    inputs = tokenizer.apply_chat_template(chats, padding=True, padding_side="right", return_dict=True)
    with torch.no_grad():
        scores = model(**{name: torch.tensor(value) for name, value in inputs.items()}).logits[:, 0]
    assert scores[0] > scores[1]


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_weights(
    write_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    settings = write_settings()
    train("reward_model", settings, tmp_path / "whole")
    plain = ScoreTrainer.training_step

    def dying(self: ScoreTrainer, *given: Any, **options: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return plain(self, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreTrainer, "training_step", dying)
        with pytest.raises(KeyboardInterrupt):
            train("reward_model", settings, tmp_path / "resumed")
    train("reward_model", settings, tmp_path / "resumed")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_it_starts_from_an_adapter_of_a_language_model(
    write_settings: Callable[..., Path], tmp_path: Path, tiny_model_folder: Path
) -> None:
    adapter = {"r": 2, "target_modules": ["q_proj"]}
    train("sft", write_settings(adapter=adapter, trainer={"max_steps": 3}), tmp_path / "sft")
    settings = write_settings("reward.yaml", model=str(tmp_path / "sft"), trainer={"max_steps": 1})
    done = train("reward_model", settings, tmp_path / "out")
    assert done.record["steps"] == 1
    plain, _ = load_classifier(resolve_model(str(tmp_path / "out")), dtype=torch.float32)
    assert plain.num_labels == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"beta": 0.1}}, "unknown field 'beta' of RewardConfig"),
        ({"trainer": {"pad_token": "x"}}, "does not take up that field"),
        ({"trainer": {"max_length": 3}}, "no pair is left to train on"),
        ({"centre": 1}, "unknown key 'centre'"),
    ],
)
def test_wrong_settings_are_named(
    write_settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrivetError, match=message):
        train("reward_model", write_settings(**changes), tmp_path / "out")


def test_columns_are_read_as_files_hold_them() -> None:
    assert number("0.5", "") == 0.5 and boolean("False", "") is False and boolean(1, "") is True
    for value in ("much", True, None, "nan"):
        with pytest.raises(DataError, match="must be a number"):
            number(value, "rows.csv, line 3, margin")
    with pytest.raises(DataError, match="true or false"):
        boolean("perhaps", "rows.csv, line 3")


def test_rows_of_pku_safe_rlhf_become_pairs() -> None:
    row = {
        "prompt": "Is it?",
        "response_0": "No.",
        "response_1": "Yes.",
        "better_response_id": 1,
        "safer_response_id": 0,
        "is_response_0_safe": True,
        "is_response_1_safe": False,
    }
    better = from_responses(row, "line 1", "better_response_id")
    assert better["chosen"][0]["content"] == "Yes." and better["chosen_safe"] is False
    safer = from_responses(row, "line 1", "safer_response_id")
    assert safer["chosen"][0]["content"] == "No." and safer["rejected_safe"] is False
    with pytest.raises(DataError, match="must be 0 or 1"):
        from_responses({**row, "safer_response_id": 2}, "line 1", "safer_response_id")
    with pytest.raises(DataError, match="'response_1' must be a text"):
        from_responses({**row, "response_1": None}, "line 1", "safer_response_id")


def test_a_pair_that_is_too_long_is_dropped_and_not_cut(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    kept, tokenised = scored_pairs(make_pairs(8), tokenizer, max_length=60, padding=2)
    assert 0 < len(kept) < 8 and not tokenised.cut
    assert sum(tokenised.dropped.values()) == 8 - len(kept)
    assert all(isinstance(one, ScoredPair) for one in kept)


@pytest.mark.full
@pytest.mark.model
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:Could not find a config file")  # PEFT asks the hub, which tests do not
def test_on_real_pairs_it_prefers_the_right_answer_more_often_than_chance(
    embedded_model: str, tmp_path: Path, real_data: Path
) -> None:
    """Accuracy on held-out short pairs, and the whole of its interval above one half."""
    pairs = load_public("hh_single_turn", real_data / "hh-single-turn", split="train_w2s").rows
    short = [
        {side: pair[side] for side in ("prompt", "chosen", "rejected")}
        for pair in pairs
        if max(len(pair[side][-1]["content"]) for side in ("prompt", "chosen", "rejected")) < 200
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in short))
    settings = {
        "model": embedded_model,
        "data": str(tmp_path / "pairs.jsonl"),
        "held_out": 200,
        "adapter": {"r": 8, "lora_alpha": 16},
        "seed": 1,
        "trainer": {
            "learning_rate": 5e-4,
            "lr_scheduler_type": "cosine",
            "max_steps": 40,
            "per_device_train_batch_size": 8,
        },
    }
    metrics = train("reward_model", settings, tmp_path / "reward", say=print).record["metrics"]
    print(metrics)
    low, high = metrics["held-out accuracy, 95 % interval"]
    assert 0.5 < low < metrics["held-out accuracy"] < high
