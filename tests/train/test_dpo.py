"""DPO and LD-DPO: loss and gradients are TRL's; whole runs make adapters and checkpoints that load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import cpu_arguments, make_pairs
from transformers import AutoModelForCausalLM, AutoTokenizer

from trivet.errors import ConfigError, DataError, TrainingError
from trivet.train.preference_trainer import (
    Objective,
    PairCollator,
    PreferenceExample,
    PreferenceTrainer,
)
from trivet.train.reference import reference_logprobs
from trivet.train.running import train
from trivet.train.scoring import packs, score_answers
from trivet.train.tokenising import tokenise_pairs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def noisy(model: Any) -> Any:
    """The model away from its reference, so that log-ratios are not all zero."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def arguments(folder: Path, **options: Any) -> Any:
    from trl.trainer.dpo_config import DPOConfig

    return cpu_arguments(
        DPOConfig, folder, per_device_train_batch_size=8, remove_unused_columns=False, **options
    )


@pytest.mark.parametrize(
    ("alpha", "options"),
    [
        (1.0, {}),
        (0.5, {}),
        (0.0, {}),
        (0.5, {"max_length": 40}),
        (1.0, {"loss_type": "hinge", "beta": 0.5}),
    ],
)
def test_loss_and_gradients_are_those_of_trl(
    tiny_model_folder: Path, tmp_path: Path, alpha: float, options: dict[str, Any]
) -> None:
    from datasets import Dataset
    from trl import DPOTrainer

    pairs = make_pairs(8)
    reference, tokenizer = load(tiny_model_folder)
    theirs = DPOTrainer(
        model=noisy(load(tiny_model_folder)[0]),
        ref_model=reference,
        args=arguments(tmp_path, ld_alpha=None if alpha == 1 else alpha, **options),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    batch = theirs.data_collator([theirs.train_dataset[row] for row in range(8)])
    expected = theirs.compute_loss(theirs.model, batch)
    expected.backward()

    model, tokenizer = load(tiny_model_folder)
    settings = arguments(tmp_path, **options)
    examples = tokenise_pairs(pairs, tokenizer, max_length=settings.max_length).examples
    score_answers(model)
    packed = packs(model, 300)
    assert packed
    known = reference_logprobs(model, examples, identity="tiny", packed=packed, padding=0)
    ours = PreferenceTrainer(
        model=noisy(model),
        args=settings,
        data_collator=PairCollator(packed, 0),
        train_dataset=[],
        processing_class=tokenizer,
        objective=Objective(
            beta=settings.beta,
            kind=options.get("loss_type", "sigmoid"),
            alpha=alpha,
        ),
    )
    rows = [PreferenceExample(one, values) for one, values in zip(examples, known, strict=True)]
    found = ours.compute_loss(ours.model, ours.data_collator(rows))
    found.backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for (name, one), (_, two) in zip(
        ours.model.named_parameters(), theirs.model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_the_variant_that_weights_the_policy_alone_is_another_loss(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    model, tokenizer = load(tiny_model_folder)
    score_answers(model)
    examples = tokenise_pairs(make_pairs(4), tokenizer, max_length=None).examples
    known = reference_logprobs(model, examples, identity="tiny", packed=False, padding=0)
    rows = [PreferenceExample(one, values) for one, values in zip(examples, known, strict=True)]
    losses = []
    for policy_only in (False, True):
        trainer = PreferenceTrainer(
            model=model,
            args=arguments(tmp_path),
            data_collator=PairCollator(False, 0),
            train_dataset=rows,
            processing_class=tokenizer,
            objective=Objective(beta=0.1, alpha=0.5, policy_only=policy_only),
        )
        losses.append(float(trainer.compute_loss(model, trainer.data_collator(rows)).detach()))
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert abs(losses[1] - losses[0]) > 0.05


@pytest.mark.parametrize("adapter", [None, {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}])
def test_a_run_lowers_the_loss_and_loads_in_plain_transformers(
    write_settings: Callable[..., Path], tmp_path: Path, tiny_model_folder: Path, adapter: Any
) -> None:
    lines: list[str] = []
    trainer = {"max_steps": 12, "learning_rate": 1e-2 if adapter else 1e-3}
    settings = write_settings(adapter=adapter, held_out=4, trainer=trainer)
    done = train("dpo", settings, tmp_path / "out", say=lines.append)
    assert done.made
    losses = [entry["loss"] for entry in done.record["log"] if "loss" in entry]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < losses[0]
    assert done.record["metrics"]["held-out pairs"] == 4
    assert any("memory" in line for line in lines)
    assert any(line.startswith("step 12 of 12: loss") for line in lines)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "train/dpo" in card and "held-out accuracy" in card
    assert not (tmp_path / "out" / "training_args.bin").exists()
    before = load(tiny_model_folder)[0]
    if adapter is None:
        after, _ = load(tmp_path / "out")
    else:
        from peft import PeftModel

        after = PeftModel.from_pretrained(load(tiny_model_folder)[0], tmp_path / "out")
    tokens = torch.tensor([[1, 5, 9, 30]])
    assert not torch.equal(after(tokens).logits, before(tokens).logits)


def test_an_adapter_names_the_base_and_none_is_made_on_an_adapter(
    write_settings: Callable[..., Path], tmp_path: Path, tiny_model_folder: Path
) -> None:
    adapter = {"r": 2, "target_modules": ["q_proj"]}
    train("dpo", write_settings(adapter=adapter, trainer={"max_steps": 1}), tmp_path / "one")
    named = json.loads((tmp_path / "one/adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(tiny_model_folder)
    second = write_settings(model=str(tmp_path / "one"), adapter=adapter)
    with pytest.raises(ConfigError, match="is an adapter, and an adapter names one base model"):
        train("dpo", second, tmp_path / "two")
    whole = write_settings(model=str(tmp_path / "one"), trainer={"max_steps": 1})
    train("dpo", whole, tmp_path / "three")
    assert (tmp_path / "three/model.safetensors").is_file()


def test_the_finished_run_is_not_made_again(write_settings: Callable[..., Path], tmp_path: Path) -> None:
    settings = write_settings(trainer={"max_steps": 1})
    train("dpo", settings, tmp_path / "out")
    again = train("dpo", settings, tmp_path / "out")
    assert not again.made and again.record["steps"] == 1
    with pytest.raises(TrainingError, match="is not what these settings give"):
        train("dpo", write_settings(trainer={"max_steps": 2}), tmp_path / "out")
    assert not list(tmp_path.glob(".out.training*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"lerning_rate": 1}}, "did you mean 'learning_rate'"),
        ({"trainer": {"output_dir": "x"}}, "the output folder is an argument"),
        ({"trainer": {"label_smoothing": 0.1}}, "does not take up that field"),
        ({"trainer": {"loss_type": "ipo"}}, "sigmoid and hinge"),
        ({"adapter": {"rank": 4}}, "unknown field 'rank' of LoraConfig"),
        ({"adapter": {"init_lora_weights": False}}, "begins with another model"),
        ({"betta": 0.1}, "unknown key 'betta'"),
        ({"reference": "nowhere/"}, "unknown model"),
    ],
)
def test_wrong_settings_are_named(
    write_settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    from trivet.errors import TrivetError

    with pytest.raises(TrivetError, match=message):
        train("dpo", write_settings(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("alpha", [-0.1, 1.7])
def test_alpha_outside_0_to_1_is_refused(
    write_settings: Callable[..., Path], tmp_path: Path, alpha: float
) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        train("ld_dpo", write_settings(alpha=alpha), tmp_path / "out")


def test_a_reference_of_its_own(write_settings: Callable[..., Path], tmp_path: Path, tiny_model: Any) -> None:
    other = tiny_model("llama", seed=9)
    done = train("dpo", write_settings(reference=str(other), trainer={"max_steps": 1}), tmp_path / "out")
    assert done.record["log"][0]["loss"] != pytest.approx(0.6931, abs=1e-3)


def test_held_out_prompts_are_not_trained_on() -> None:
    from trivet.train.held_out import hold_out

    pairs = make_pairs(10) + make_pairs(10)
    rest, held = hold_out(pairs, 5, seed=0)
    prompts = [json.dumps(pair["prompt"]) for pair in rest]
    assert len(held) == 6 and not {json.dumps(pair["prompt"]) for pair in held} & set(prompts)
    with pytest.raises(DataError, match="none to train on"):
        hold_out(pairs, 20, seed=0)
