"""Reward and cost models as judges: their scores, labels, quality, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trivet.data.prompts import prompt_digest
from trivet.errors import ConfigError, JudgeError, ModelError
from trivet.judges import Judge, resolve
from trivet.judges.reward_model import Config, RewardModelJudge
from trivet.models.operations import Chat

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def chat(prompt: str, answer: str) -> Chat:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


CHATS: list[Chat] = [
    chat("Question 3?", "It is 3 yes yes"),
    chat("Question 3?", "It is 3 no no no"),
    [*chat("Question 1?", "Yes."), *chat("Are you sure?", "I am, since it was asked twice, or even thrice.")],
]


def rows() -> list[dict[str, Any]]:
    return [
        {
            "prompt": chat(f"Question {n}?", "")[:1],
            "chosen": chat("", f"It is {n} no no no")[1:],
            "rejected": chat("", f"It is {n} yes yes")[1:],
            "chosen_safe": True,
            "rejected_safe": False,
        }
        for n in range(24)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return path


def trained(method: str, model: Path, data: Path, out: Path, **settings: Any) -> Path:
    from trivet.train.running import train

    trainer = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2}
    given = {"model": str(model), "data": str(data), "held_out": 8, "trainer": trainer, **settings}
    return train(method, given, out).folder


@pytest.fixture(scope="module")
def reward(tiny_model_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "reward"
    return trained("reward_model", tiny_model_folder, data, out, objective="brevity")


@pytest.fixture(scope="module")
def cost(tiny_model_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "cost"
    adapter = {"r": 2, "target_modules": ["q_proj"]}
    return trained("cost_model", tiny_model_folder, data, out, adapter=adapter)


def by_transformers(model: Any, tokenizer: Any) -> list[float]:
    found = []
    for one in CHATS:
        tokens = torch.tensor([tokenizer.apply_chat_template(one, return_dict=False)])
        with torch.no_grad():
            found.append(float(model(tokens).logits[0, 0]))
    return found


def test_scores_are_those_of_plain_transformers(reward: Path) -> None:
    judge = resolve(str(reward))
    assert isinstance(judge, Judge) and judge is resolve({"judge": "reward_model", "model": str(reward)})
    model = AutoModelForSequenceClassification.from_pretrained(reward)
    expected = by_transformers(model, AutoTokenizer.from_pretrained(reward))
    found = [verdict.value for verdict in judge.score(CHATS)]
    assert found == pytest.approx(expected, abs=1e-5)
    alone = [judge.score([one])[0].value for one in CHATS]
    assert alone == pytest.approx(expected, abs=1e-5)
    assert all(verdict.label is None for verdict in judge.score(CHATS))


def test_an_adapter_scores_as_it_does_in_peft(cost: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(cost)
    model = AutoPeftModelForSequenceClassification.from_pretrained(cost, num_labels=1).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    verdicts = resolve({"judge": "reward_model", "model": "cost"}, base=cost.parent).score(CHATS)
    assert [verdict.value for verdict in verdicts] == pytest.approx(
        by_transformers(model, tokenizer), abs=1e-5
    )
    for verdict in verdicts:
        assert verdict.value is not None
        assert verdict.label == ("unsafe" if verdict.value > 0 else "safe")


def test_it_knows_its_objective_its_quality_and_its_prompts(reward: Path, cost: Path) -> None:
    judge = resolve(str(reward))
    assert judge.name == "reward" and judge.objective == "brevity"
    quality = judge.quality
    record = json.loads((reward / "training.json").read_text())
    assert quality["n"] == 8 and quality["accuracy"]["value"] == record["metrics"]["held-out accuracy"]
    assert quality["accuracy"]["low"] <= quality["accuracy"]["value"] <= quality["accuracy"]["high"]
    asked = {prompt_digest(f"Question {n}?") for n in range(24)}
    assert len(judge.training_prompts) == 16 and judge.training_prompts < asked
    harm = resolve(str(cost))
    assert harm.objective == "harm" and harm.identity != judge.identity
    from trivet.study.judge_quality import judge_info

    assert judge_info("cost", harm.quality).events["unsafe"].true_positive is not None


def test_scores_are_mapped_and_held_within_0_and_1(reward: Path) -> None:
    plain = [verdict.value for verdict in resolve(str(reward)).score(CHATS)]
    low, high = sorted(value for value in plain if value is not None)[:2]
    judge = resolve({"judge": "reward_model", "model": str(reward), "low": low, "high": high})
    verdicts = judge.score(CHATS)
    assert sorted(verdict.value for verdict in verdicts if verdict.value is not None) == [0.0, 1.0, 1.0]
    assert [verdict.metadata["score"] for verdict in verdicts] == pytest.approx(plain, abs=1e-5)
    assert judge.identity != resolve(str(reward)).identity
    for wrong in ({"low": 1.0}, {"low": 2.0, "high": 1.0}):
        with pytest.raises(ConfigError, match="low"):
            resolve({"judge": "reward_model", "model": str(reward), **wrong})


def test_what_cannot_be_scored_says_why_and_does_not_stop_the_rest(reward: Path) -> None:
    chats: list[Chat] = [
        CHATS[0],
        [],
        chat("Is it?", " "),
        CHATS[0][:1],
        chat("long " * 2000, "yes"),
        CHATS[1],
    ]
    verdicts = resolve(str(reward)).score(chats)
    assert [verdict.value is None for verdict in verdicts] == [False, True, True, True, True, False]
    assert "empty" in str(verdicts[2].reason) and "reads 512" in str(verdicts[4].reason)
    assert resolve(str(reward)).score([]) == []


def test_system_messages_are_not_read(reward: Path) -> None:
    told: Chat = [{"role": "system", "content": "Be a pirate."}, *CHATS[0]]
    first, second = resolve(str(reward)).score([CHATS[0], told])
    assert first.value == pytest.approx(second.value, abs=1e-6)


def test_a_model_of_texts_joins_prompt_and_answer(
    tiny_model_folder: Path, data: Path, tmp_path: Path
) -> None:
    pairs = [
        {"prompt": f"Question {n}?", "chosen": f" It is {n} no", "rejected": f" It is {n} yes"}
        for n in range(10)
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    judge = resolve(str(trained("reward_model", tiny_model_folder, path, tmp_path / "out", held_out=0)))
    assert judge.quality == {}
    verdicts = judge.score([chat("Question 3?", " It is 3 no"), CHATS[2]])
    assert "one prompt and one answer" in str(verdicts[1].reason)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("Question 3? It is 3 no<|im_end|>")["input_ids"]
    with torch.no_grad():
        expected = float(model(torch.tensor([tokens])).logits[0, 0])
    assert verdicts[0].value == pytest.approx(expected, abs=1e-5)


def test_what_is_no_reward_model_is_refused(tiny_model_folder: Path, reward: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has 2 outputs|lack"):
        RewardModelJudge(Config(model=str(tiny_model_folder))).score(CHATS)
    headless = tmp_path / "headless"
    shutil.copytree(tiny_model_folder, headless)
    config = json.loads((headless / "config.json").read_text()) | {"id2label": {"0": "LABEL_0"}}
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"the weights lack score\.weight"):
        RewardModelJudge(Config(model=str(headless))).score(CHATS)
    pickled = tmp_path / "pickled"
    shutil.copytree(reward, pickled)
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match="pickled weights"):
        resolve(str(pickled))
    with pytest.raises(ModelError, match="unknown model"):
        resolve({"judge": "reward_model", "model": "nowhere"})
    with pytest.raises(ConfigError, match="model"):
        resolve("reward_model")


def test_a_damaged_record_is_named(reward: Path, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    shutil.copytree(reward, lost)
    (lost / "training_prompts.json").unlink()
    with pytest.raises(JudgeError, match="training prompts cannot be read"):
        _ = resolve(str(lost)).training_prompts
    for name, text in {"cut": "{", "other": '{"judge": 3}', "dpo": "{}"}.items():
        shutil.copytree(reward, tmp_path / name)
        (tmp_path / name / "training.json").write_text(text)
        with pytest.raises(JudgeError, match="does not tell of a reward or cost model"):
            resolve(str(tmp_path / name))


def test_the_command_line_lists_it_and_shows_its_card(reward: Path) -> None:
    from trivet.cli.judges import command

    listed = CliRunner().invoke(command, ["list", "--json"])
    assert "reward_model" in json.loads(listed.output)
    shown = CliRunner().invoke(command, ["show", str(reward)])
    assert shown.exit_code == 0, shown.output
    assert "objective: brevity" in shown.output and "held-out accuracy" in shown.output
    as_json = json.loads(CliRunner().invoke(command, ["show", str(reward), "--json"]).output)
    assert as_json["quality"]["n"] == 8 and as_json["training_prompts"] == 16
