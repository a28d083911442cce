"""MODPO on a tiny model: TRL's losses and gradients, margins of every kind, fronts that lose nothing."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.train.conftest import make_pairs
from tests.train.test_checkpoints import command, equal, losses_of, weights
from tests.train.test_dpo import arguments, load, noisy

from trivet._validation import validate
from trivet.errors import ConfigError, DataError, TrivetError
from trivet.models.names import is_adapter, resolve_model
from trivet.train.loading import load_trainee
from trivet.train.margins import _active, _loads_beside
from trivet.train.modpo import Config, modpo_terms
from trivet.train.preference_trainer import (
    Objective,
    PairCollator,
    PreferenceExample,
    PreferenceTrainer,
)
from trivet.train.reference import reference_logprobs
from trivet.train.running import train
from trivet.train.scoring import score_answers
from trivet.train.tokenising import tokenise_pairs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
FEW = {"max_steps": 2, "save_steps": 10}
SHORT = {"short": {"length": "tokens", "scale": 0.1}}


@pytest.mark.parametrize("vector", [(1.0, 0.0), (0.25, 0.75)])
def test_loss_and_gradients_are_those_of_trl_with_a_shifted_reference(
    tiny_model_folder: Path, tmp_path: Path, vector: tuple[float, float]
) -> None:
    """Checks 1 and 2: DPO with beta / w_k and log π_ref + w_−k r_−k / beta in the reference."""
    from datasets import Dataset
    from trl import DPOTrainer

    beta, pairs = 0.1, make_pairs(8)
    rewards = torch.randn(16, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scaled, margins = modpo_terms(rewards, vector, beta)
    reference, tokenizer = load(tiny_model_folder)
    theirs = DPOTrainer(
        model=reference,
        args=arguments(tmp_path, beta=scaled, precompute_ref_log_probs=True),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    shift = (vector[1] * rewards[:, 0] / beta).view(8, 2)
    shifted = theirs.train_dataset.map(
        lambda row, place: {
            "ref_chosen_logps": row["ref_chosen_logps"] + float(shift[place, 0]),
            "ref_rejected_logps": row["ref_rejected_logps"] + float(shift[place, 1]),
        },
        with_indices=True,
    )
    noisy(theirs.model)
    batch = theirs.data_collator([shifted[row] for row in range(8)])
    expected = theirs.compute_loss(theirs.model, batch)
    expected.backward()

    model, tokenizer = load(tiny_model_folder)
    score_answers(model)
    examples = tokenise_pairs(pairs, tokenizer, max_length=None).examples
    known = reference_logprobs(model, examples, identity="tiny", packed=False, padding=0)
    ours = PreferenceTrainer(
        model=noisy(model),
        args=arguments(tmp_path),
        data_collator=PairCollator(False, 0),
        train_dataset=[],
        processing_class=tokenizer,
        objective=Objective(scaled),
    )
    rows = [
        PreferenceExample(one, values, margins=(both[0], both[1]))
        for one, values, both in zip(examples, known, margins.view(8, 2).tolist(), strict=True)
    ]
    found = ours.compute_loss(ours.model, ours.data_collator(rows))
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for (name, one), (_, two) in zip(
        ours.model.named_parameters(), theirs.model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5, msg=name)


def zero_adapter(base: Path, folder: Path) -> Path:
    """A LoRA adapter that changes nothing."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load(base)[0], LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    model.save_pretrained(folder)
    return folder


def test_a_margin_that_is_the_reference_leaves_dpo_with_another_beta(
    write_settings: Callable[..., Path], tmp_path: Path, tiny_model_folder: Path
) -> None:
    """Check 8: the implicit reward of an adapter that changes nothing is exactly 0."""
    margin = {"nothing": {"model": str(zero_adapter(tiny_model_folder, tmp_path / "zero")), "beta": 0.1}}
    settings = write_settings(adapter=LORA, margins=margin, weights=[0.25, 0.75], trainer=FEW)
    train("modpo", settings, tmp_path / "modpo")
    other = write_settings("dpo.yaml", adapter=LORA, trainer={**FEW, "beta": 0.4})
    train("dpo", other, tmp_path / "dpo")
    assert equal(weights(tmp_path / "modpo"), weights(tmp_path / "dpo"))
    assert losses_of(tmp_path / "modpo") == losses_of(tmp_path / "dpo")


def test_weight_1_is_dpo_and_needs_no_margin(write_settings: Callable[..., Path], tmp_path: Path) -> None:
    """Check 1, as a run; a reward without a weight is not computed."""
    margin = {"other": {"function": "json:loads"}}  # would raise
    train("modpo", write_settings(margins=margin, weights=[1, 0], trainer=FEW), tmp_path / "modpo")
    train("dpo", write_settings("dpo.yaml", trainer=FEW), tmp_path / "dpo")
    assert equal(weights(tmp_path / "modpo"), weights(tmp_path / "dpo"))


@pytest.mark.slow
def test_an_adapter_that_dpo_made_is_a_margin(
    write_settings: Callable[..., Path], tmp_path: Path, tiny_model_folder: Path
) -> None:
    """Its reward is the same where it is loaded beside the trained adapter and where it is a model apart."""
    made = write_settings("dpo.yaml", adapter=LORA, trainer={**FEW, "learning_rate": 1e-2, "beta": 0.3})
    train("dpo", made, tmp_path / "helpful")
    trainee = load_trainee(str(tiny_model_folder), base=tmp_path, adapter=LORA, seed=0, where="test")
    assert _loads_beside(resolve_model(str(tmp_path / "helpful")), trainee)
    before = {name: value.clone() for name, value in trainee.model.state_dict().items()}
    with _active(trainee.model, tmp_path / "helpful"):
        assert trainee.model.active_adapter == "margin"
    after = trainee.model.state_dict()
    assert equal(before, after)
    assert all(
        parameter.requires_grad == (".default." in name)
        for name, parameter in trainee.model.named_parameters()
    )

    losses = []
    for number, adapter in enumerate((LORA, None)):  # beside the adapter; a model apart
        settings = write_settings(
            f"{number}.yaml",
            adapter=adapter,
            margins={"helpful": {"model": "helpful"}},
            weights={"preference": 0.5, "helpful": 0.5},
            trainer={"max_steps": 1},
        )
        train("modpo", settings, tmp_path / f"out{number}")
        losses += losses_of(tmp_path / f"out{number}")
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert abs(losses[0] - 0.6931) > 1e-2


def test_margins_by_length_judge_and_function(write_settings: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "rewards_of_a_test.py").write_text(
        "def words(chats):\n"
        "    return [None if 'number 3.' in chat[-1]['content'] else len(chat[-1]['content'].split())"
        " for chat in chats]\n"
    )
    margins = {
        **SHORT,
        "refusal": {"judge": "refusal_string_match"},
        "words": {"function": "rewards_of_a_test:words", "scale": 0.01},
    }
    lines: list[str] = []
    settings = write_settings(
        objective="honest",
        adapter=LORA,
        margins=margins,
        weights=[0.4, 0.2, 0.2, 0.2],
        held_out=4,
        trainer={"max_steps": 1, "per_device_train_batch_size": 24},
    )
    done = train("modpo", settings, tmp_path / "out", say=lines.append)
    assert any("margin words: " in line and "have no score" in line for line in lines)
    assert done.record["metrics"]["held-out pairs"] <= 4
    assert any("have no score" in note for note in done.record["data"])
    assert str(tmp_path) not in sys.path
    kept = list((tmp_path / "cache" / "margins").glob("*.json"))
    assert kept and all(value == 0 for value, _ in json.loads(kept[0].read_text()))


def test_the_first_loss_is_that_of_the_margins(
    write_settings: Callable[..., Path], tmp_path: Path, tiny_model_folder: Path
) -> None:
    """Check 5 as a run: a policy that is the reference; the longer of two answers has the smaller reward."""
    settings = write_settings(
        adapter=LORA,
        margins=SHORT,
        weights={"short": 0.8, "preference": 0.2},
        trainer={"max_steps": 1, "per_device_train_batch_size": 24},
    )
    train("modpo", settings, tmp_path / "out")
    examples = tokenise_pairs(make_pairs(24), load(tiny_model_folder)[1], max_length=None).examples
    longer = torch.tensor([len(one.answers[0]) - len(one.answers[1]) for one in examples])
    expected = -torch.nn.functional.logsigmoid(4 * 0.1 * longer).mean()
    assert losses_of(tmp_path / "out") == [pytest.approx(float(expected), abs=1e-4)]


FRONT = {"adapter": LORA, "margins": SHORT, "weights": [[0.2, 0.8], {"short": 0.5, "preference": 0.5}]}


@pytest.mark.slow
def test_a_front_has_the_adapters_of_its_runs_apart(
    write_settings: Callable[..., Path], tmp_path: Path, tiny_model_folder: Path
) -> None:
    from peft import PeftModel

    lines: list[str] = []
    done = train(
        "modpo", write_settings(**FRONT, held_out=4, trainer=FEW), tmp_path / "front", say=lines.append
    )
    front = json.loads((tmp_path / "front" / "front.json").read_text())
    assert [point["name"] for point in front["points"]] == ["w_0.2_0.8", "w_0.5_0.5"]
    assert front["points"][1]["weights"] == {"preference": 0.5, "short": 0.5}
    assert front["objectives"] == ["preference", "short"]
    assert "held-out loss, w_0.2_0.8" in done.record["metrics"]
    assert not list((tmp_path / "front").glob("**/checkpoint*"))
    for vector, name in (([0.5, 0.5], "w_0.5_0.5"),):
        folder = tmp_path / "front" / name
        card = (folder / "README.md").read_text()
        assert "2310.03708" in card and "held-out loss" in card and is_adapter(folder)
        PeftModel.from_pretrained(load(tiny_model_folder)[0], folder)
        record = json.loads((folder / "training.json").read_text())
        names = dict(zip(("preference", "short"), vector, strict=True))
        assert record["config"]["weights"] == names
        validate(Config, record["config"], where="the settings that the card tells")
        single = write_settings(f"{name}.yaml", **{**FRONT, "weights": names}, held_out=4, trainer=FEW)
        apart = train("modpo", single, tmp_path / name)
        assert equal(weights(folder), weights(tmp_path / name))
        assert apart.record["address"] == record["address"]
        assert apart.record["metrics"] == record["metrics"]


@pytest.mark.parametrize(
    ("warm", "second"),
    [
        (True, True),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in ((False, False), (True, False), (False, True))
        ),
    ],
)
def test_an_interrupted_front_ends_with_the_same_adapters(
    write_settings: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warm: bool,
    second: bool,
) -> None:
    """Stopped in the first weight or in the second one; no finished weight is made twice."""
    settings = write_settings(**FRONT, warm_start=warm, trainer={"max_steps": 4})
    train("modpo", settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in_point(patch, "w_0.5_0.5" if second else "w_0.2_0.8", 3)
        with pytest.raises(KeyboardInterrupt):
            train("modpo", settings, tmp_path / "killed")
    finished = tmp_path / ".killed.training" / "finished"
    stamps = {file: file.stat().st_mtime_ns for file in finished.glob("w_*/adapter_model.safetensors")}
    assert len(stamps) == second
    lines: list[str] = []
    done = train("modpo", settings, tmp_path / "killed", say=lines.append)
    assert any("goes on after step 2" in line for line in lines)
    steps = sum(line.startswith("step ") for line in lines)
    assert steps == (2 if second else 6)
    for name in ("w_0.2_0.8", "w_0.5_0.5"):
        assert equal(*(weights(tmp_path / folder / name) for folder in ("whole", "killed")))
    assert [point["warm start from"] for point in done.record["front"]] == [
        None,
        "w_0.2_0.8" if warm else None,
    ]
    card = (tmp_path / "killed" / "w_0.5_0.5" / "README.md").read_text()
    assert ("started from w\\_0.2\\_0.8" in card) == warm
    assert not list(tmp_path.glob(".killed.training*"))


def stop_in_point(patch: pytest.MonkeyPatch, name: str, step: int) -> None:
    """The run dies in the middle of a step of one point."""
    from trivet.train.checkpoints import ResumableTrainer

    plain = ResumableTrainer.training_step

    def dying(self: ResumableTrainer, *arguments: Any, **options: Any) -> Any:
        if name in str(self.args.output_dir) and self.state.global_step == step:
            raise KeyboardInterrupt
        return plain(self, *arguments, **options)

    patch.setattr(ResumableTrainer, "training_step", dying)


@pytest.mark.full
def test_a_front_that_is_killed_ends_with_the_same_adapters(
    write_settings: Callable[..., Path], tmp_path: Path
) -> None:
    settings = write_settings(**FRONT, trainer={"max_steps": 12, "save_steps": 2})
    started = time.monotonic()
    subprocess.run(command(settings, tmp_path / "whole", "modpo"), check=True, capture_output=True)
    whole = time.monotonic() - started
    for share in (0.6, 0.8):
        process = subprocess.Popen(
            command(settings, tmp_path / "killed", "modpo"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=share * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(settings, tmp_path / "killed", "modpo"), check=True, capture_output=True)
    for name in ("w_0.2_0.8", "w_0.5_0.5"):
        assert equal(*(weights(tmp_path / folder / name) for folder in ("whole", "killed")))


def test_top_layers_alone_have_the_adapter(write_settings: Callable[..., Path], tmp_path: Path) -> None:
    settings = write_settings(**{**FRONT, "weights": [[0.2, 0.8]]}, top_layers=1, trainer={"max_steps": 1})
    done = train("modpo", settings, tmp_path / "out")
    names = weights(tmp_path / "out" / "w_0.2_0.8")
    assert names and all(".layers.1." in name for name in names)
    assert done.record["config"]["top_layers"] == 1
    with pytest.raises(ConfigError, match="the model has 2 layers"):
        train("modpo", write_settings(**FRONT, top_layers=3), tmp_path / "more")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [0, 1]}, "use the model that DPO makes of the other objective"),
        ({"weights": [-0.1, 1.1]}, "not negative"),
        ({"weights": [0.5]}, "must have 2 numbers, those of preference, short"),
        ({"weights": {"preference": 1, "shrt": 0}}, "did you mean 'short'"),
        ({"weights": {"preference": 1}}, "that of 'short' is missing"),
        ({"weights": [[0.5, 0.5], [0.5, 0.5]]}, "two vectors are w_0.5_0.5"),
        ({"weights": [[0.5, 0.5]], "adapter": None}, "a front is a set of adapters"),
        ({"objective": "short"}, "also the name of another one"),
        ({"margins": {}}, "margins"),
        ({"margins": {"short": {}}}, "one of model, length, judge and function"),
        ({"margins": {"short": {"length": "tokens", "beta": 1}}}, "beta: is that of a model"),
        ({"margins": {"short": {"function": "no_such_module:f"}}}, "cannot be imported"),
        ({"margins": {"short": {"function": "json:nothing"}}}, "has no function 'nothing'"),
        ({"margins": {"short": {"function": "builtins:len"}}}, "something else than numbers"),
        ({"margins": {"short": {"judge": "refusl"}}}, "unknown judge"),
        ({"margins": {"short": {"model": "nowhere/"}}}, "unknown model"),
        ({"warm_start": True}, "is for a list of weight vectors"),
        ({"top_layers": 1, "adapter": None}, "top_layers: is about an adapter"),
    ],
)
def test_wrong_settings_are_named(
    write_settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    values = {"adapter": LORA, "margins": SHORT, "weights": [0.5, 0.5], **changes}
    with pytest.raises(TrivetError, match=message):
        train("modpo", write_settings(**values), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_margin_without_a_known_beta_is_refused(
    write_settings: Callable[..., Path], tmp_path: Path, tiny_model_folder: Path
) -> None:
    zero_adapter(tiny_model_folder, tmp_path / "zero")
    with pytest.raises(ConfigError, match="its beta is not known"):
        train(
            "modpo",
            write_settings(margins={"other": {"model": "zero"}}, weights=[0.5, 0.5]),
            tmp_path / "out",
        )


def test_no_scored_pair_is_an_error(write_settings: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "nothing_of_a_test.py").write_text("def f(chats):\n    return [None] * len(chats)\n")
    settings = write_settings(margins={"none": {"function": "nothing_of_a_test:f"}}, weights=[0.5, 0.5])
    with pytest.raises(DataError, match="no pair has both its answers scored"):
        train("modpo", settings, tmp_path / "out")


def test_what_is_no_plain_adapter_is_a_model_apart(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Answers are scored with the output layer as it is; some kinds of adapters change the base itself."""
    folder = zero_adapter(tiny_model_folder, tmp_path / "zero")
    trainee = load_trainee(str(tiny_model_folder), base=tmp_path, adapter=LORA, seed=0, where="test")
    assert _loads_beside(resolve_model(str(folder)), trainee)
    settings, file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    plain = settings.read_text()
    for change in ({"init_lora_weights": "pissa"}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}):
        settings.write_text(json.dumps({**json.loads(plain), **change}))
        assert not _loads_beside(resolve_model(str(folder)), trainee)
    settings.write_text(plain)
    tensors = {
        name.replace("model.layers.0.self_attn.q_proj", "lm_head"): value
        for name, value in load_file(file).items()
    }
    save_file(tensors, file)
    assert not _loads_beside(resolve_model(str(folder)), trainee)
