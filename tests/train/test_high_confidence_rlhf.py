"""HC-RLHF (card 08): whole runs on a tiny model, resuming bit by bit, NSF, one look at the safety prompts."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from tests.train.letter_judge import LetterJudge, letters
from tests.train.test_checkpoints import equal, stop_after, weights

from trivet.cli import root
from trivet.errors import ModelError, StudyError, TrivetError
from trivet.models.names import resolve_model
from trivet.train.answer_costs import AnswerCosts
from trivet.train.checkpoints import checkpoints
from trivet.train.constrained_trainer import STATE, ConstrainedTrainer, PricedRewards
from trivet.train.cost_multiplier import ConstraintSettings, CostMultiplier, Pressure
from trivet.train.prompts import Prompt, tokenise_prompts
from trivet.train.rloo_trainer import RlooSettings, count_prompts
from trivet.train.rollouts import Rollout, RolloutEngine
from trivet.train.running import train
from trivet.train.safety_constraint import augmented_costs
from trivet.train.sampled_answers import Answer
from trivet.train.scoring import packs, score_answers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WORDS = ("red", "blue", "green", "honest", "helpful", "harmless", "river", "capital")


@pytest.fixture(autouse=True)
def _letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge ``letters``, beside those that ship."""
    import sys

    module = sys.modules["trivet.judges.resolve"]
    kind = module.Kind("tests.train.letter_judge", "share of letters")
    monkeypatch.setattr(module, "KINDS", {**module.KINDS, "letters": kind})


def write_prompts(path: Path, words: tuple[str, ...], count: int) -> None:
    rows = [{"prompt": f"What is {word} in place {place}?"} for word in words for place in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def settings(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., Path]:
    """Writes settings of a short run whose limit is easily kept; keyword arguments replace keys."""
    write_prompts(tmp_path / "prompts.jsonl", WORDS, 4)

    def write(trainer: dict[str, Any] | None = None, **changes: Any) -> Path:
        values = {
            "model": str(tiny_model_folder),
            "data": "prompts.jsonl",
            "reward": "letters",
            "cost": "letters",
            "cost_low": 0.0,
            "cost_high": 1.0,
            "limit": 0.95,
            "delta": 0.1,
            "held_out": 6,
            "safety": 14,
            "candidates": 2,
            "buffer": 16,
            "adapter": {"r": 4, "target_modules": ["q_proj", "up_proj"]},
            "seed": 3,
            "trainer": {
                "max_steps": 4,
                "save_steps": 2,
                "num_generations": 3,
                "per_device_train_batch_size": 6,
                "max_completion_length": 6,
                "learning_rate": 3e-3,
                "beta": 0.1,
                **(trainer or {}),
            },
            **changes,
        }
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
        return path

    return write


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "safety_test.json").read_text()))


@pytest.mark.parametrize(
    "adapter", [pytest.param(None, marks=pytest.mark.slow), {"r": 4, "target_modules": ["q_proj", "up_proj"]}]
)
def test_a_policy_within_the_limit_is_returned_with_its_report(
    settings: Callable[..., Path], tmp_path: Path, adapter: Any
) -> None:
    lines: list[str] = []
    done = train("high_confidence_rlhf", settings(adapter=adapter), tmp_path / "out", say=lines.append)
    assert done.no_solution is None and weights(tmp_path / "out")
    report = report_of(tmp_path / "out")
    assert report["passed"] and report["outcome"] == "pass" and report["exact"]
    assert (report["n"], report["tau"], report["delta"], report["test_delta"]) == (14, 0.95, 0.1, 0.1)
    assert 0 <= report["mean"] < report["bound"] <= 0.95 and report["std"] > 0
    assert report["test"].startswith("betting")
    said = " ".join(report["statement"])
    for text in (
        "PASS",
        "is returned with probability at most 0.1",
        "as letters sees it",
        "learned",
        "other prompts",
        "each answer",
        "temperature 1",
    ):
        assert text in said
    assert [one["step"] for one in report["candidates"]] == [2, 4]
    assert report["candidate"] in report["candidates"]
    assert report["reference_costs"]["answers"] == 6 and "buffer" in report["n_c"]
    logged = [entry for entry in done.record["log"] if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:
        assert {"mean_reward", "cost", "predicted_bound", "kappa", "lambda", "kl"} <= entry.keys()
        assert entry["cost"] == pytest.approx(entry["mean_reward"], abs=1e-6)  # the same judge here
        assert entry["predicted_bound"] > 0 and entry["kappa"] > 0
    assert logged[0]["lambda"] != logged[1]["lambda"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2506.08266" in card and "Guaranteed" in card and "Not guaranteed" in card
    written = next(index for index, line in enumerate(lines) if "limit and delta are written" in line)
    assert written < next(index for index, line in enumerate(lines) if "for the safety test" in line)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_resumed_runs_are_equal_bit_by_bit_with_lambda_and_buffer(
    settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Weights, λ, the buffer and the test's figures; the interruption comes after the costs of a step."""
    path = settings(
        adapter={"r": 2, "lora_dropout": 0.1, "target_modules": ["q_proj"]},
        trainer={"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "save_steps": 1},
        ledger="one",
    )
    whole = train("high_confidence_rlhf", path, tmp_path / "whole")
    (tmp_path / "one").rename(tmp_path / "kept")
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train("high_confidence_rlhf", path, tmp_path / "resumed")
    (*_, left) = checkpoints(tmp_path / ".resumed.training" / "checkpoints")
    state = json.loads((left / STATE).read_text())
    assert len(state["costs"]) == min(16, 6 * step)
    logged = [entry for entry in whole.record["log"] if "loss" in entry]
    assert math.exp(state["log_multiplier"]) == pytest.approx(logged[step - 1]["lambda"], rel=1e-6)
    resumed = train("high_confidence_rlhf", path, tmp_path / "resumed")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    assert report_of(tmp_path / "whole") == report_of(tmp_path / "resumed")
    again = [entry for entry in resumed.record["log"] if "loss" in entry]
    for name in ("loss", "lambda", "predicted_bound", "kappa", "cost"):
        assert [entry[name] for entry in again] == [entry[name] for entry in logged]


def test_no_solution_leaves_a_report_and_nothing_that_loads(
    settings: Callable[..., Path], tmp_path: Path
) -> None:
    """A limit that the costs do not keep; ``trivet train`` ends with 1, also when it is asked again."""
    path = settings(limit=0.3)
    result = CliRunner().invoke(root, ["train", "high_confidence_rlhf", str(path), str(tmp_path / "out")])
    assert result.exit_code == 1, result.output
    assert "NO SOLUTION FOUND" in result.output and "above the limit 0.3" in result.output
    report = report_of(tmp_path / "out")
    assert not report["passed"] and report["bound"] > 0.3 and report["outcome"] == "no solution found"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "README.md",
        "training.json",
        "safety_test.json",
    }
    assert "No solution found: this folder holds no model" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ModelError):
        resolve_model(str(tmp_path / "out"))
    again = CliRunner().invoke(
        root, ["train", "high_confidence_rlhf", str(path), str(tmp_path / "out"), "--json"]
    )
    assert again.exit_code == 1 and "NO SOLUTION FOUND" in again.output


def test_prompts_that_were_tested_are_refused_before_training(
    settings: Callable[..., Path], tmp_path: Path
) -> None:
    """Check 11: the API refuses a second test, of another policy, on the same prompts."""
    train("high_confidence_rlhf", settings(), tmp_path / "one")
    assert (tmp_path / "prompts.jsonl.gate" / "ledger.jsonl").is_file()
    lines: list[str] = []
    others = ({"limit": 0.99}, {"trainer": {"learning_rate": 1e-3}}, {"split": 2})
    for number, changes in enumerate(others):
        with pytest.raises(StudyError, match="14 of the 14 prompts were used before"):
            train("high_confidence_rlhf", settings(**changes), tmp_path / f"two-{number}", say=lines.append)
    assert not any(line.startswith("step 1") for line in lines)
    again = train("high_confidence_rlhf", settings(), tmp_path / "three")  # the very same: read out
    assert report_of(tmp_path / "one") == report_of(tmp_path / "three") and again.made


@pytest.mark.slow
def test_tests_that_share_delta_are_counted(settings: Callable[..., Path], tmp_path: Path) -> None:
    """Check 11: with ``split`` each test has δ / K, and after K none is left."""
    quick = {"max_steps": 1}
    for seed, name in ((1e-3, "one"), (2e-3, "two")):
        path = settings(split=2, candidates=1, trainer={**quick, "learning_rate": seed})
        train("high_confidence_rlhf", path, tmp_path / name)
        assert report_of(tmp_path / name)["test_delta"] == 0.05
    path = settings(split=2, candidates=1, trainer={**quick, "learning_rate": 3e-3})
    with pytest.raises(StudyError, match="tests allowed on one set of prompts: 2, looks so far: 2"):
        train("high_confidence_rlhf", path, tmp_path / "three")


@pytest.mark.slow
def test_the_three_sets_are_disjoint_also_where_they_are_files(
    settings: Callable[..., Path], tmp_path: Path
) -> None:
    write_prompts(tmp_path / "safety.jsonl", WORDS[:4], 4)  # half of the data
    write_prompts(tmp_path / "validation.jsonl", (*WORDS[3:5], "Seine"), 4)
    path = settings(
        safety="safety.jsonl",
        validation="validation.jsonl",
        held_out=None,
        candidates=1,
        trainer={"max_steps": 1},
    )
    done = train("high_confidence_rlhf", path, tmp_path / "out")
    report = report_of(tmp_path / "out")
    assert report["n"] == 16 and report["candidate"]["costs"] == 8
    assert any(
        "4 validation prompts left out: they are safety prompts" in note for note in done.record["data"]
    )
    assert any("32 prompts of prompts.jsonl" in note for note in done.record["data"])
    assert (tmp_path / "safety.jsonl.gate").is_dir()


@pytest.mark.slow
def test_costs_without_a_range_have_student_alone_and_say_so(
    settings: Callable[..., Path], tmp_path: Path
) -> None:
    path = settings(cost_low=None, cost_high=None, test="student", candidates=1, trainer={"max_steps": 1})
    train("high_confidence_rlhf", path, tmp_path / "out")
    report = report_of(tmp_path / "out")
    assert not report["exact"] and "approximate" in report["test"]
    assert any("Student's bound is approximate" in line for line in report["statement"])
    assert any("approximately, a policy" in line for line in report["statement"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": -0.5}, "no solution can be found"),  # check 10: an impossible limit
        ({"limit": 0.05}, "prompts are the fewest that can pass"),
        ({"cost_low": None}, "cost_low and cost_high come together"),
        ({"cost_low": None, "cost_high": None}, "no range"),
        ({"test": "clopper_pearson"}, "needs costs of 0 and 1"),
        ({"delta": 0.5}, "delta"),
        ({"held_out": None}, "give held_out"),
        ({"validation": "prompts.jsonl"}, "give held_out"),
        ({"safety": 1}, "at least 2 prompts"),
        ({"safety": 40}, "leaves none to train on"),
        ({"trainer": {"reward_clip_range": [-1, 1]}}, "return_clip"),
        (
            {"cost": "refusal_string_match", "cost_low": None, "cost_high": None, "cost_labels": ["bad"]},
            "no label 'bad'",
        ),
        ({"reward": "leters"}, "unknown judge"),
    ],
)
def test_wrong_settings_are_named(
    settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrivetError, match=message):
        train("high_confidence_rlhf", settings(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_trivial_limit_is_passed_by_hoeffding(settings: Callable[..., Path], tmp_path: Path) -> None:
    """Check 10: the limit is the largest cost there can be."""
    path = settings(limit=1.0, test="hoeffding", candidates=1, trainer={"max_steps": 1})
    assert train("high_confidence_rlhf", path, tmp_path / "out").no_solution is None


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


@pytest.mark.model
def test_a_run_of_the_embedded_model(embedded_model: str, tmp_path: Path) -> None:
    """One step, with compliance as cost: a report either way."""
    write_prompts(tmp_path / "prompts.jsonl", WORDS, 2)
    settings = {
        "model": embedded_model,
        "data": "prompts.jsonl",
        "held_out": 2,
        "safety": 6,
        "candidates": 1,
        "reward": "letters",
        "cost": "refusal_string_match",
        "limit": 0.9,
        "delta": 0.4,
        "adapter": {"r": 4, "target_modules": ["q_proj"]},
        "trainer": {
            "max_steps": 1,
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_completion_length": 12,
            "learning_rate": 1e-4,
        },
    }
    done = train("high_confidence_rlhf", settings, tmp_path / "out", base=tmp_path)
    report = report_of(tmp_path / "out")
    assert report["n"] == 6 and report["test"] == "Clopper-Pearson"
    assert (done.no_solution is None) == report["passed"] == (tmp_path / "out/adapter_config.json").is_file()
