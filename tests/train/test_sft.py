"""Supervised fine-tuning: rows, loss, gradients and normalisation are TRL's; runs make models that load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import cpu_arguments, make_pairs
from transformers import AutoModelForCausalLM, AutoTokenizer

from trivet.errors import ConfigError, DataError, TrivetError
from trivet.train.running import train
from trivet.train.scoring import packs, score_answers
from trivet.train.supervised_rows import Row, read_supervised, tokenise_supervised
from trivet.train.supervised_trainer import ExampleCollator, SupervisedTrainer, token_losses

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def rows_of(form: str) -> list[dict[str, Any]]:
    """Rows of one of TRL's forms, of unequal lengths."""
    rows: list[dict[str, Any]] = []
    for pair in make_pairs(8):
        question, answer = pair["prompt"][0]["content"], pair["chosen"][0]["content"]
        rows.append(
            {
                "conversation": {"prompt": pair["prompt"], "completion": pair["chosen"]},
                "texts": {"prompt": question, "completion": f" {answer}"},
                "messages": {"messages": [*pair["prompt"], *pair["chosen"]]},
                "text": {"text": f"{question} {answer}"},
            }[form]
        )
    return rows


def read(rows: list[dict[str, Any]], folder: Path) -> list[Row]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(read_supervised(str(path), base=folder).rows)


def arguments(folder: Path, **options: Any) -> Any:
    from trl.trainer.sft_config import SFTConfig

    return cpu_arguments(
        SFTConfig, folder, save_strategy="no", **{"per_device_train_batch_size": 8, **options}
    )


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def trainers(folder: Path, tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[Any, Any]:
    """TRL's trainer and ours on the same rows."""
    from datasets import Dataset
    from trl import SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = SFTTrainer(
        model=load(folder),
        args=arguments(tmp_path / "theirs", **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    model = load(folder)
    score_answers(model)
    assert packs(model, 300)
    settings = arguments(tmp_path / "ours", remove_unused_columns=False, **options)
    examples = tokenise_supervised(
        read(rows, tmp_path),
        tokenizer,
        max_length=settings.max_length,
        completion_only=settings.completion_only_loss is not False,
    ).examples
    ours = SupervisedTrainer(
        model=model,
        args=settings,
        data_collator=ExampleCollator(True, 0),
        train_dataset=examples,
        processing_class=tokenizer,
        kind=settings.loss_type,
    )
    return theirs, ours


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("conversation", {}),
        ("texts", {}),
        ("messages", {}),
        ("text", {}),
        ("conversation", {"completion_only_loss": False}),
        ("conversation", {"max_length": 50}),
        ("messages", {"max_length": 50}),
        ("texts", {"loss_type": "dft"}),
    ],
)
def test_loss_and_gradients_are_those_of_trl(
    tiny_model_folder: Path, tmp_path: Path, form: str, options: dict[str, Any]
) -> None:
    theirs, ours = trainers(tiny_model_folder, tmp_path, rows_of(form), **options)
    count = len(theirs.train_dataset)
    assert len(ours.train_dataset) == count > 0
    batch = theirs.data_collator([theirs.train_dataset[row] for row in range(count)])
    expected = theirs.compute_loss(theirs.model, batch)
    expected.backward()
    found = ours.compute_loss(ours.model, ours.data_collator([ours.train_dataset[n] for n in range(count)]))
    found.backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for (name, one), (_, two) in zip(
        ours.model.named_parameters(), theirs.model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("form", ["conversation", "messages"])
def test_accumulated_batches_are_normalised_as_by_trl(
    tiny_model_folder: Path, tmp_path: Path, form: str
) -> None:
    """One step of plain descent over three batches of unequal lengths, the last of them short."""
    options = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 3,
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 1.0,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "seed": 4,
    }
    theirs, ours = trainers(tiny_model_folder, tmp_path, rows_of(form), **options)
    before = {name: value.clone() for name, value in ours.model.named_parameters()}
    losses = []
    for trainer in (theirs, ours):
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    after = dict(theirs.model.named_parameters())
    for name, value in ours.model.named_parameters():
        assert not torch.equal(value, before[name])
        torch.testing.assert_close(value, after[name], rtol=1e-4, atol=1e-5, msg=name)


def test_token_losses_by_hand() -> None:
    logs = torch.tensor([-1.0, -2.0], requires_grad=True)
    assert token_losses(logs, "nll").tolist() == [1.0, 2.0]
    (gradient,) = torch.autograd.grad(token_losses(logs, "dft").sum(), logs)
    torch.testing.assert_close(gradient, -logs.detach().exp())  # p in front is a constant
    with pytest.raises(ValueError, match="unknown loss"):
        token_losses(logs, "huber")  # type: ignore[arg-type]


def test_of_a_preference_pair_the_chosen_answer_is_learnt(tmp_path: Path) -> None:
    pair = make_pairs(1)[0]
    assert read([pair], tmp_path) == [{"prompt": pair["prompt"], "completion": pair["chosen"]}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "none of the forms"),
        ({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}, "mixed"),
        ({"prompt": "a", "completion": 3}, "completion: must be a text or a list of messages"),
        ({"messages": "a"}, "messages: must be a list"),
        ({"messages": [{"role": "user"}]}, "messages: must be a text or a list of messages"),
        ({"text": ""}, "the field text is empty"),
        ({"prompt": [], "completion": [{"role": "assistant", "content": "b"}]}, "the prompt is empty"),
    ],
)
def test_what_is_no_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read([row], tmp_path)


@pytest.mark.parametrize("adapter", [None, {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}])
def test_a_run_lowers_the_loss_on_rows_held_out(
    write_settings: Callable[..., Path], tmp_path: Path, adapter: Any
) -> None:
    trainer = {"max_steps": 12, "learning_rate": 2e-2 if adapter else 3e-3}
    lines: list[str] = []
    settings = write_settings(adapter=adapter, held_out=6, trainer=trainer)
    done = train("sft", settings, tmp_path / "out", say=lines.append)
    metrics = done.record["metrics"]
    assert metrics["held-out rows"] == 6
    assert metrics["held-out loss per token"] < metrics["held-out loss per token before training"]
    low, high = metrics["held-out loss per token, 95 % interval"]
    assert low < metrics["held-out loss per token"] < high
    assert any(line.startswith("step 12 of 12: loss") for line in lines)
    assert "held-out perplexity" in (tmp_path / "out" / "README.md").read_text()
    folder = tmp_path / "out"
    assert (folder / ("adapter_model.safetensors" if adapter else "model.safetensors")).is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"packing": True}}, "does not take up that field"),
        ({"trainer": {"loss_type": "huber"}}, "nll and dft"),
        ({"trainer": {"label_smoothing_factor": 0.1}}, "does not smooth"),
        ({"trainer": {"max_length": 2}}, "no row is left to train on"),
    ],
)
def test_wrong_settings_are_named(
    write_settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrivetError, match=message):
        train("sft", write_settings(**changes), tmp_path / "out")


def test_completions_alone_need_completions(write_settings: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "texts.jsonl"
    data.write_text(json.dumps({"text": "The capital of France is Paris."}) + "\n", encoding="utf-8")
    settings = write_settings(data=str(data), trainer={"completion_only_loss": True})
    with pytest.raises(ConfigError, match="which have no completion"):
        train("sft", settings, tmp_path / "out")
