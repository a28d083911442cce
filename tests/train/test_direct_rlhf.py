"""Direct RLHF: transcripts and stops of base models, the reward, what a run says, the pairs of HH-RLHF."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import make_tiny_model
from tests.train.letter_judge import LetterJudge, letters
from tests.train.test_dpo import load
from transformers import AutoTokenizer

from trivet.errors import DataError, TrivetError
from trivet.models.names import resolve_model
from trivet.models.torch_engine.kv_tree import common_length
from trivet.train.batches import Example
from trivet.train.direct_reward import DirectReward, whitened
from trivet.train.preferences import read_preferences
from trivet.train.prompts import Prompt
from trivet.train.rollouts import Rollout, RolloutEngine
from trivet.train.running import train
from trivet.train.sampled_answers import Answer, generation_engine
from trivet.train.scoring import packs, score_answers
from trivet.train.token_probe import mass, token_mass, token_set
from trivet.train.transcripts import STOP, starting_point, write_transcripts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CHAT = [{"role": "user", "content": "What is red?"}]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without a chat template."""
    folder = make_tiny_model(tmp_path_factory.mktemp("base"), seed=1)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not AutoTokenizer.from_pretrained(folder).chat_template
    return folder


def test_a_run_from_a_base_model_asks_in_transcripts_stops_and_measures(
    direct_settings: Callable[..., Path], tmp_path: Path, base_folder: Path
) -> None:
    """The stop is a letter, which a random model writes; rewards see nothing of it and what follows."""
    lines: list[str] = []
    path = direct_settings(
        {"max_completion_length": 12},
        model=str(base_folder),
        stop=[STOP, "e", "t"],
        no_stop_penalty=10,
        held_out=2,
        evaluation_judge="refusal_string_match",
        probe=["a", "b", "no token"],
    )
    done = train("direct_rlhf", path, tmp_path / "out", say=lines.append)
    started = next(line for line in lines if "starts from" in line)
    assert started.startswith("starts from a base model") and "transcripts" in started
    assert done.record["starting_point"] == started
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2403.02513" in card and "starts from a base model" in card
    metrics = done.record["metrics"]
    for figure in ("KL, nats an answer", "gain in score by letters, which trained it"):
        low, high = metrics[f"{figure}, 95 % interval"]
        assert low <= metrics[figure] <= high
    assert "gain in score by refusal_string_match" in metrics
    assert 0 < metrics["probability of probed words, before training"] < 1
    assert metrics["share stopped, before training"] > 0.1
    assert any("1 of 3 probed words are no single token" in line for line in lines)
    logged = [entry for entry in done.record["log"] if "loss" in entry]
    assert len(logged) == 4 and logged[0]["kl"] == pytest.approx(0, abs=1e-5)
    for entry in logged:
        assert {"mean_reward", "kl", "entropy", "length", "ended"} <= entry.keys()
        # the penalty, weighted by what did not stop, is what stands between score and reward
        if entry["unscored"] == 0:
            expected = entry["score"] - 10 * (1 - entry["ended"])
            assert entry["mean_reward"] == pytest.approx(expected, abs=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == (
        "\n\nHuman: What is red?\n\nAssistant:"
    )
    assert load_file(tmp_path / "out" / "model.safetensors")


def test_a_run_from_an_instruct_model_says_that_it_is_a_stand_in(
    direct_settings: Callable[..., Path], tmp_path: Path
) -> None:
    lines: list[str] = []
    path = direct_settings({"max_steps": 1}, adapter={"r": 2, "target_modules": ["q_proj"]}, whiten=True)
    done = train("direct_rlhf", path, tmp_path / "out", say=lines.append)
    assert any(line.startswith("stand-in: starts from an instruct model") for line in lines)
    assert "stand-in: starts from an instruct model" in (tmp_path / "out" / "README.md").read_text()
    (entry, *_) = [entry for entry in done.record["log"] if "loss" in entry]
    assert entry["mean_reward"] == pytest.approx(0, abs=1e-5) != entry["score"]


def test_what_a_run_starts_from(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text('{"method": "train/sft"}')
    assert starting_point("x/Llama-3-8B", None, True, None).startswith("starts from a base model")
    for name in ("smollm2-135m-instruct", "x/gemma-2b-it", "x/Llama-2-7b-chat-hf"):
        found = starting_point(name, None, True, None)
        assert found.startswith("stand-in: starts from an instruct model") and "its name says so" in found
    assert "it has a chat template" in starting_point("x/Qwen2.5-7B", None, False, None)
    assert starting_point("x/Qwen2.5-7B", None, False, True).endswith("as the settings say")
    assert "the settings say so" in starting_point("x/base", None, True, False)
    assert starting_point("out", tmp_path, True, None) == "not direct: starts from a model after train/sft"
    (tmp_path / "training.json").write_text("not JSON")
    assert starting_point("out", tmp_path, True, None).startswith("starts from a base model")


def test_a_template_that_is_there_stays(tiny_model_folder: Path, base_folder: Path) -> None:
    tokenizer = load(tiny_model_folder)[1]
    before = tokenizer.chat_template
    assert not write_transcripts(tokenizer) and tokenizer.chat_template == before
    other = load(base_folder)[1]
    assert write_transcripts(other) and write_transcripts(other)
    dialogue = [*CHAT, {"role": "assistant", "content": "A colour."}, *CHAT]
    assert other.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True) == (
        "\n\nHuman: What is red?\n\nAssistant: A colour.\n\nHuman: What is red?\n\nAssistant:"
    )


def test_answers_end_with_the_token_that_completes_a_stop(base_folder: Path) -> None:
    """Card 01, check 5: nothing behind a stop is in what is learnt or scored."""
    model, tokenizer = load(base_folder)
    prompt = Prompt(0, CHAT, tuple(tokenizer("What is red?")["input_ids"]))
    stop = ("e", "t")
    with generation_engine(resolve_model(str(base_folder)), "cpu") as engine:
        (one,) = RolloutEngine(engine, count=24, max_tokens=10, stop=stop).sample([prompt], 5)
        (free,) = RolloutEngine(engine, count=24, max_tokens=10).sample([prompt], 5)
    assert any(answer.ended for answer in one.answers) and not all(answer.ended for answer in one.answers)
    for answer, other in zip(one.answers, free.answers, strict=True):
        whole = tokenizer.decode(answer.tokens, skip_special_tokens=True)
        assert not any(text in answer.text for text in stop)
        assert whole.startswith(answer.text) and answer.tokens == other.tokens[: len(answer.tokens)]
        if answer.ended and answer.tokens[-1] != 2:
            assert any(text in whole for text in stop)
            assert not any(
                text in tokenizer.decode(answer.tokens[:-1], skip_special_tokens=True) for text in stop
            )
        tokens = torch.tensor([[*prompt.tokens, *answer.tokens]])
        logits = model(tokens).logits[0, len(prompt.tokens) - 1 : -1]
        drawn = logits.log_softmax(-1).gather(1, torch.tensor(answer.tokens)[:, None])
        assert float(drawn.detach().sum()) == pytest.approx(answer.logprob, abs=1e-3)


def rollout(*texts: str, ended: bool = True) -> Rollout:
    return Rollout(Prompt(0, CHAT, (1,)), tuple(Answer((5,), text, 0.0, ended) for text in texts))


def test_the_reward_is_the_score_less_a_penalty_and_may_be_whitened() -> None:
    noted: dict[str, list[float]] = {}

    def note(name: str, values: Any) -> None:
        noted[name] = list(values)

    rollouts = [rollout(" ab ", "a1"), rollout("1234", "abc1", ended=False)]
    assert DirectReward(LetterJudge())(rollouts, note) == [[1.0, 0.5], [0.0, 0.75]]
    assert noted["score"] == [1.0, 0.5, 0.0, 0.75]  # white space around an answer is not judged
    assert letters(" ab ") == 0.5
    assert DirectReward(LetterJudge(), penalty=0.25)(rollouts, note) == [[1.0, 0.5], [-0.25, 0.5]]
    found = DirectReward(LetterJudge(), penalty=1, whiten=5)(rollouts, note)
    values = np.array([1.0, 0.5, 0.0, 0.75])
    expected = (values - values.mean()) / values.std() - np.array([0, 0, 1, 1])
    assert np.array(found).flatten() == pytest.approx(expected)


def test_whitened_scores_are_bounded_and_leave_out_what_has_none() -> None:
    assert whitened([[None, 1.0], [3.0]], 5) == [[None, -1.0], [1.0]]
    assert whitened([[2.0, 2.0], [None]], 5) == [[0.0, 0.0], [None]]
    assert whitened([[None]], 5) == [[None]]
    assert max(value for value in whitened([[0.0] * 99 + [1.0]], 5)[0] if value is not None) == 5


def test_the_probe_is_the_mass_of_its_tokens(tiny_model_folder: Path) -> None:
    """Card 01, step 6: (1/n) Σ_i Σ_{v ∈ B} π(v | context_i), against the plain softmax, packed or not."""
    assert mass(torch.tensor([0.25, 0.5]).log()) == pytest.approx(0.75)
    model, tokenizer = load(tiny_model_folder)
    tokens, rest = token_set(tokenizer, ["a", "Paris", "zz zz"])
    assert rest == ["zz zz"] and len(tokens) >= 2
    contexts = [(7, 8, 9), (5,), (20, 21, 22, 23)]
    expected = [
        float(model(torch.tensor([one])).logits[0, -1].softmax(-1)[tokens].sum().detach()) for one in contexts
    ]
    score_answers(model)
    sizes: list[int] = []
    model.get_input_embeddings().register_forward_hook(
        lambda layer, given, out: sizes.append(given[0].numel())
    )
    plain = token_mass(model, contexts, tokens, packed=False, padding=2)
    assert sizes == [4, 2, 5]  # not as many sequences as tokens are probed
    assert packs(model, 300)
    packed = token_mass(model, contexts, tokens, packed=True, padding=2)
    assert plain == pytest.approx(expected, abs=1e-6) and packed == pytest.approx(expected, abs=1e-6)
    with pytest.raises(DataError, match="no word is a single token"):
        token_set(tokenizer, ["zz zz"])
    assert Example(0, (1,), ((2,),)).length == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppo": {"minibatches": 2}}, "belong to `algorithm: ppo`"),
        ({"trainer": {"num_iterations": 2}}, "num_iterations: this method does not take up"),
        ({"algorithm": "ppo", "ppo": {"minibatches": 4}}, "4 parts of 3 prompts"),
        ({"algorithm": "ppo", "ppo": {"lamda": 0.9}}, "lamda"),
        ({"algorithm": "ppo", "trainer": {"gradient_accumulation_steps": 2}}, "a step of PPO is one batch"),
        ({"algorithm": "ppoo"}, "algorithm"),
        ({"judge": "leters"}, "unknown judge 'leters'"),
        ({"no_stop_penalty": -1}, "no_stop_penalty"),
        ({"stop": [""]}, "stop.0: "),
        ({"held_out": 2, "probe": ["zz zz"]}, "no word is a single token"),
        ({"data": "nothing.jsonl"}, "no such file"),
    ],
)
def test_wrong_settings_are_named(
    direct_settings: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrivetError, match=message):
        train("direct_rlhf", direct_settings(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


TURN = "\n\nAssistant:"


def test_the_pairs_of_hh_rlhf_part_where_the_card_says(real_data: Path) -> None:
    """Card 01, check 8, on the part of the real file that is here: 1,832 of its 2,312 pairs.

    The card counts on the whole file: 5 unequal prompts, 4 empty sides, means of 167 and 210 characters, the
    chosen answer longer in 1,021 of 2,307. What is read keeps the pairs that have an answer on both sides and
    no second turn in one.
    """
    path = real_data / "hh-rlhf-harmless" / "pairs.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 1832 and not any(row["chosen"] == row["rejected"] for row in rows)
    unequal = sum(
        len({row[side][: row[side].rfind(TURN)] for side in ("chosen", "rejected")}) > 1 for row in rows
    )
    cuts = [row["chosen"].rfind(TURN, 0, common_length(row["chosen"], row["rejected"])) for row in rows]
    assert unequal == 4 and min(cuts) >= 0
    answers = [
        tuple(row[side][cut + len(TURN) :].strip() for side in ("chosen", "rejected"))
        for row, cut in zip(rows, cuts, strict=True)
    ]
    assert not any(STOP in text for pair in answers for text in pair)
    whole = [pair for pair in answers if all(pair)]
    assert len(answers) - len(whole) == 4
    assert sum(len(chosen) > len(rejected) for chosen, rejected in whole) == 812
    means = [np.mean([len(pair[side]) for pair in whole]) for side in (0, 1)]
    assert means == pytest.approx([168.1, 208.7], abs=0.1)

    found = read_preferences(str(path), base=Path("/"))
    assert found.left_out == {"the turns do not alternate, or one is empty": 10}
    kept = [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in found.pairs]
    single = [pair for pair in whole if not any(re.search(r"\n\n(Human|Assistant):", text) for text in pair)]
    assert len(kept) == 1822 and set(kept) <= set(single)
