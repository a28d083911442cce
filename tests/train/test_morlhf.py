"""MORLHF: TRL's weighted totals, the closed-form optimum, fronts that are their runs apart, resuming."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.train.conftest import SHORT_REINFORCEMENT
from tests.train.letter_judge import LetterJudge, letters
from tests.train.test_checkpoints import equal, stop_after, weights
from tests.train.test_dpo import load, noisy
from tests.train.test_modpo import stop_in_point
from tests.train.test_rloo_trainer import CHATS, arguments

from trivet.errors import TrainingError, TrivetError
from trivet.judges import Verdict
from trivet.judges.weighted_sum import WeightedSumJudge
from trivet.models.operations import Chat
from trivet.train.morlhf import WeightedReward, weighted_sum
from trivet.train.prompts import Prompt
from trivet.train.rloo import leave_one_out_advantages, loss, returns
from trivet.train.rloo_method import prepared, rloo_arguments, rloo_trainer
from trivet.train.rollouts import Rollout, judged
from trivet.train.running import TrainingContext, train
from trivet.train.sampled_answers import Answer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WORDS = ("red", "blue", "green", "honest", "helpful", "harmless", "river", "capital")
LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}


class ShortJudge(LetterJudge):
    """Short answers are better; an empty one cannot be scored."""

    name = "short"

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        texts = [str(chat[-1]["content"]) for chat in chats]
        return [Verdict(-len(text) / 10) if text else Verdict(None, reason="empty") for text in texts]


class SilentJudge(LetterJudge):
    """Nothing can be scored but by chance, every ``period``-th call."""

    name, period, calls = "silent", 0, 0

    def score(self, chats: Sequence[Chat]) -> list[Verdict]:
        self.calls += 1
        if self.period and self.calls % self.period == 0:
            return [Verdict(letters(str(chat[-1]["content"]))) for chat in chats]
        return [Verdict(None, reason="silent") for _ in chats]


def build_short(config: Any) -> ShortJudge:
    return ShortJudge()


@pytest.fixture(autouse=True)
def _judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judges ``letters`` and ``short``, beside those that ship."""
    import sys
    import types

    from tests.train import letter_judge

    short = types.ModuleType("short_judge_of_a_test")
    short.Config, short.build = letter_judge.Config, build_short  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, short.__name__, short)
    module = sys.modules["trivet.judges.resolve"]
    kinds = {
        "letters": module.Kind("tests.train.letter_judge", "share of letters"),
        "short": module.Kind(short.__name__, "length"),
    }
    monkeypatch.setattr(module, "KINDS", {**module.KINDS, **kinds})


@pytest.fixture
def settings(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., Path]:
    """Writes settings of a short run; keyword arguments replace keys."""
    rows = [{"prompt": f"What is {word}?"} for word in WORDS]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(name: str = "settings", trainer: dict[str, Any] | None = None, **changes: Any) -> Path:
        values = {
            "model": str(tiny_model_folder),
            "data": "prompts.jsonl",
            "rewards": {"letters": "letters", "short": "short"},
            "adapter": LORA,
            "seed": 3,
            "trainer": {**SHORT_REINFORCEMENT, **(trainer or {})},
            **changes,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def rollout(*texts: str) -> Rollout:
    return Rollout(Prompt(0, CHATS[0], (1,)), tuple(Answer((5,), text, 0.0, True) for text in texts))


def test_totals_are_those_of_trls_reward_weights(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Check 11: two functions with weights in TRL, one made by hand, and ours on the same answers."""
    from datasets import Dataset
    from trl import RLOOTrainer

    vector, texts, table = (0.3, 1.7), [], []

    def first(completions: list[Any], **others: Any) -> list[float]:
        texts[:] = [one[0]["content"] for one in completions]
        return [letters(text) for text in texts]

    def second(completions: list[Any], **others: Any) -> list[float]:
        return [-len(one[0]["content"]) / 10 for one in completions]

    def by_hand(completions: list[Any], **others: Any) -> list[float]:
        return [0.3 * letters(one[0]["content"]) - 0.17 * len(one[0]["content"]) for one in completions]

    advantages = []
    for functions, given in (([first, second], list(vector)), ([by_hand], None)):
        trainer = RLOOTrainer(
            model=noisy(load(tiny_model_folder)[0]),
            reward_funcs=functions,
            args=arguments(tmp_path, disable_dropout=True, reward_weights=given),
            train_dataset=Dataset.from_list([{"prompt": chat} for chat in CHATS]),
            processing_class=load(tiny_model_folder)[1],
        )
        plain = trainer._calculate_rewards
        trainer._calculate_rewards = lambda *some, plain=plain: table.append(plain(*some)) or table[-1]
        torch.manual_seed(1)
        batch = trainer._generate_and_score_completions(
            [{"prompt": chat} for chat in CHATS for _ in range(3)]
        )
        advantages.append(batch["advantages"])
        totals = (table[-1] * trainer.reward_weights.unsqueeze(0)).nansum(dim=1)  # as TRL adds them up
        table[-1] = totals
    assert len(set(texts)) > 4
    judges = {"letters": LetterJudge(), "short": ShortJudge()}
    noted: dict[str, list[float]] = {}
    reward = WeightedReward(judges, dict(zip(judges, vector, strict=True)))
    answers = [rollout(*texts[start : start + 3]) for start in range(0, 12, 3)]
    ours = [value for some in reward(answers, lambda *one: noted.update([one])) for value in some]
    known = [place for place, value in enumerate(ours) if value is not None]
    assert len(known) > 4
    assert all((ours[place] is None) == (texts[place] == "") for place in range(12))
    for place in known:
        assert ours[place] == pytest.approx(float(table[0][place]), abs=1e-6)
        assert ours[place] == pytest.approx(float(table[1][place]), abs=1e-6)
    torch.testing.assert_close(advantages[0], advantages[1], rtol=0, atol=1e-5)
    assert noted["rewards/letters"] == [letters(text) for text in texts]
    assert noted["rewards/short"] == [-len(text) / 10 for text in texts if text]
    # The judge that best-of-n selects by has the same total.
    one = WeightedSumJudge(
        {name: (judge, weight) for (name, judge), weight in zip(judges.items(), vector, strict=True)}
    )
    assert judged(one, answers) == reward(answers, lambda *one: None)


def test_an_objective_without_a_score_matters_where_it_has_a_weight() -> None:
    scores = {"a": 2.0, "b": None}
    assert weighted_sum(scores, {"a": 0.5, "b": 0.0}) == 1.0
    assert weighted_sum(scores, {"a": 0.5, "b": 0.1}) is None


def test_sampled_steps_reach_the_optimum_of_each_weight() -> None:
    """On a softmax over six answers: π_ref exp(w r / β) for three objectives, and E[r_1 − r_2] rises with
    the weight of the first (card checks 6 and 7)."""
    numbers = np.random.default_rng(5)
    rewards = {name: numbers.normal(size=6) for name in ("one", "two", "three")}
    base = torch.tensor(numbers.dirichlet(np.full(6, 3.0))).log()
    beta, differences = 0.8, []
    for vector in ((0.1, 0.9, 0.0), (0.5, 0.3, 0.2), (0.9, 0.1, 0.0)):
        weights = dict(zip(rewards, vector, strict=True))
        totals = [weighted_sum({name: float(r[y]) for name, r in rewards.items()}, weights) for y in range(6)]
        total = torch.tensor(totals, dtype=torch.float64)
        optimum = (base + total / beta).softmax(-1)
        logits = base.clone().requires_grad_()
        optimizer = torch.optim.SGD([logits], lr=2.0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(250):
            policy = logits.log_softmax(-1)
            drawn = torch.multinomial(policy.exp().detach(), 4096, replacement=True, generator=generator)
            earned = returns(total[drawn], policy[drawn], base[drawn], beta)
            optimizer.zero_grad()
            loss(policy[drawn], leave_one_out_advantages(earned, 4)).backward()
            optimizer.step()
        reached = logits.detach().softmax(-1)
        assert float((reached - optimum).abs().sum() / 2) < 0.02
        gap = torch.tensor(rewards["one"] - rewards["two"])
        differences.append(float((reached * gap).sum()))
    assert differences == sorted(differences)


@pytest.mark.slow
def test_a_single_weight_is_plain_rloo_on_that_reward(settings: Callable[..., Path], tmp_path: Path) -> None:
    from trivet._validation import read_yaml, validate
    from trivet.train.morlhf import Config

    path = settings(weights={"letters": 1, "short": 0})
    done = train("morlhf", path, tmp_path / "out")
    config = validate(Config, read_yaml(path), where="test")
    (tmp_path / "plain").mkdir()
    context = TrainingContext(tmp_path / "plain", tmp_path / "plain", tmp_path, "test")
    with prepared(config, context, rloo_arguments(config, context)) as made:
        trainer = rloo_trainer(made, lambda rollouts, note: judged(LetterJudge(), rollouts), made.prompts)
        context.fit(trainer)
        trainer.save_model(str(tmp_path / "plain"))
    assert equal(weights(tmp_path / "out"), weights(tmp_path / "plain"))
    logged = [entry for entry in done.record["log"] if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:
        assert entry["rewards/letters"] == pytest.approx(entry["mean_reward"], abs=1e-6)
        assert entry["rewards/short"] <= 0 and "kl" in entry and "length" in entry


FRONT = {"weights": [[0.2, 0.8], {"short": 0.5, "letters": 0.5}], "held_out": 3}


@pytest.mark.slow
def test_a_front_has_the_adapters_of_its_runs_apart(settings: Callable[..., Path], tmp_path: Path) -> None:
    few = {"max_steps": 2, "save_steps": 10}
    done = train("morlhf", settings(**FRONT, trainer=few), tmp_path / "front")
    front = json.loads((tmp_path / "front" / "front.json").read_text())
    assert [point["name"] for point in front["points"]] == ["w_0.2_0.8", "w_0.5_0.5"]
    assert front["objectives"] == ["letters", "short"]
    assert {"weighted sum, w_0.2_0.8", "short, by short, which trained it, w_0.5_0.5"} <= set(
        done.record["metrics"]
    )
    single = settings("single", weights={"letters": 0.5, "short": 0.5}, held_out=3, trainer=few)
    apart = train("morlhf", single, tmp_path / "single")
    folder = tmp_path / "front" / "w_0.5_0.5"
    assert equal(weights(folder), weights(tmp_path / "single"))
    record = json.loads((folder / "training.json").read_text())
    assert record["address"] == apart.record["address"] and record["metrics"] == apart.record["metrics"]
    metrics = record["metrics"]
    parts = [metrics[f"{name}, by {name}, which trained it"] for name in ("letters", "short")]
    if "weighted sum: prompts left out" not in metrics:
        assert metrics["weighted sum"] == pytest.approx(sum(parts) / 2, abs=0.05)
    assert "2310.03708" in (folder / "README.md").read_text()
    assert not list((tmp_path / "front").glob("**/checkpoint*"))


@pytest.mark.slow
def test_an_interrupted_front_ends_with_the_same_adapters(
    settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings(**{**FRONT, "held_out": 0}, adapter={**LORA, "lora_dropout": 0.1})
    train("morlhf", path, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in_point(patch, "w_0.5_0.5", 3)
        with pytest.raises(KeyboardInterrupt):
            train("morlhf", path, tmp_path / "resumed")
    lines: list[str] = []
    train("morlhf", path, tmp_path / "resumed", say=lines.append)
    assert "goes on after step 2" in lines
    assert sum(line.startswith("step ") for line in lines) == 2
    for name in ("w_0.2_0.8", "w_0.5_0.5"):
        assert equal(*(weights(tmp_path / folder / name) for folder in ("whole", "resumed")))


@pytest.mark.slow
def test_full_weights_resume_bit_by_bit(
    settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings(weights=[0.4, 0.6], adapter=None)
    train("morlhf", path, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train("morlhf", path, tmp_path / "resumed")
    train("morlhf", path, tmp_path / "resumed")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [-0.1, 1.1]}, "not negative"),
        ({"weights": [0, 0]}, "all are 0"),
        ({"weights": [0.5]}, "must have 2 numbers, those of letters, short"),
        ({"weights": {"letters": 1, "shrt": 0}}, "did you mean 'short'"),
        ({"weights": {"letters": 1}}, "that of 'short' is missing"),
        ({"weights": [[0.5, 0.5]], "adapter": None}, "a front is a set of adapters"),
        ({"rewards": {}}, "rewards"),
        ({"rewards": {"letters": "leters", "short": "short"}}, "unknown judge 'leters'"),
        ({"trainer": {"beta": 0.0}}, "beta: must be positive"),
        ({"trainer": {"reward_weights": [1.0, 2.0]}}, "reward_weights: this method does not take up"),
        ({"trainer": {"normalize_advantages": True}}, "normalize_advantages: this method does not take up"),
        ({"data": "nothing.jsonl"}, "no such file"),
    ],
)
def test_wrong_settings_are_named(
    settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrivetError, match=message):
        train("morlhf", settings(**{"weights": [0.5, 0.5], **changes}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("steps", "stopped"), [(3, 3), (30, 8)])
def test_a_run_in_which_nothing_was_ever_scored_is_an_error(
    settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, stopped: int
) -> None:
    monkeypatch.setattr("tests.train.letter_judge.LetterJudge.score", SilentJudge().score)
    path = settings(rewards={"letters": "letters"}, weights=[1.0], trainer={"max_steps": steps})
    with pytest.raises(TrainingError, match=f"up to step {stopped} no prompt had 2 answers"):
        train("morlhf", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_steps_without_scores_are_no_error_and_log_no_nan(
    settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = SilentJudge()
    judge.period = 2
    monkeypatch.setattr("tests.train.letter_judge.LetterJudge.score", lambda self, chats: judge.score(chats))
    path = settings(rewards={"letters": "letters"}, weights=[1.0], trainer={"max_steps": 3})
    log = [one for one in train("morlhf", path, tmp_path / "out").record["log"] if "loss" in one]
    assert [("mean_reward" in one, "rewards/letters" in one) for one in log] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    assert not any(isinstance(value, float) and np.isnan(value) for one in log for value in one.values())
