"""The trainer on rollouts: TRL's advantages and gradients, the engine's weights, resuming bit by bit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import cpu_arguments
from tests.train.letter_judge import LetterJudge, letters
from tests.train.test_dpo import load, noisy

from trivet.errors import ConfigError, DataError
from trivet.models.names import resolve_model
from trivet.train.loading import load_trainee
from trivet.train.merged_weights import merged_weights
from trivet.train.prompts import Prompt, read_prompts, tokenise_prompts
from trivet.train.rloo_trainer import RlooSettings, RlooTrainer, count_prompts
from trivet.train.rollouts import Rollout, RolloutEngine, judged
from trivet.train.sampled_answers import DRAWN, Answer, Wanted, answer_all, generation_engine
from trivet.train.scoring import packs, score_answers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WORDS = ("red", "blue", "green", "honest")
CHATS = [[{"role": "user", "content": f"What is {word}?"}] for word in WORDS]


def arguments(folder: Path, **options: Any) -> Any:
    from trl.trainer.rloo_config import RLOOConfig

    return cpu_arguments(
        RLOOConfig,
        folder,
        remove_unused_columns=False,
        max_completion_length=6,
        num_generations=3,
        per_device_train_batch_size=12,
        beta=0.2,
        **options,
    )


def letter_reward(rollouts: Sequence[Rollout], note: Any) -> list[list[float | None]]:
    found = judged(LetterJudge(), rollouts)
    note("letters", [value for some in found for value in some if value is not None])
    return found


def trainer_of(model: Any, tokenizer: Any, reference: Any, settings: Any, rollouts: Any) -> RlooTrainer:
    for one in (model, reference):
        score_answers(one)
        assert packs(one, 300)
    prompts, _ = tokenise_prompts(
        [Prompt(row, chat) for row, chat in enumerate(CHATS)], tokenizer, room=6, context_length=512
    )
    return RlooTrainer(
        model=model,
        args=settings,
        train_dataset=prompts,
        processing_class=tokenizer,
        reward=letter_reward,
        rollouts=rollouts,
        settings=RlooSettings.of(settings),
        reference=reference,
        packed=True,
        padding=0,
    )


def test_advantages_and_gradients_are_those_of_trl(tiny_model_folder: Path, tmp_path: Path) -> None:
    """TRL generates and scores; the same answers and rewards give the same advantages and gradients here."""
    from datasets import Dataset
    from trl import RLOOTrainer

    seen: list[float] = []

    def reward(completions: list[Any], **others: Any) -> list[float]:
        seen.extend(letters(completion[0]["content"]) for completion in completions)
        return seen

    model, tokenizer = load(tiny_model_folder)
    theirs = RLOOTrainer(
        model=noisy(model),
        reward_funcs=reward,
        args=arguments(tmp_path / "theirs", disable_dropout=True),
        train_dataset=Dataset.from_list([{"prompt": chat} for chat in CHATS]),
        processing_class=tokenizer,
    )
    rows = [{"prompt": chat} for chat in CHATS for _ in range(3)]
    torch.manual_seed(1)
    batch = theirs._generate_and_score_completions(rows)
    theirs.model.zero_grad()
    theirs._compute_loss(theirs.model, batch).backward()

    settings = count_prompts(arguments(tmp_path / "ours"), "test")
    ours = trainer_of(
        noisy(load(tiny_model_folder)[0]),
        tokenizer,
        load(tiny_model_folder)[0],
        settings,
        RolloutEngine(None, count=3, max_tokens=6),  # type: ignore[arg-type]  # TRL generated
    )
    lengths = batch["completion_mask"].sum(1).tolist()
    answers = [
        Answer(tuple(row[:length].tolist()), "", 0.0, True)
        for row, length in zip(batch["completion_ids"], lengths, strict=True)
    ]
    groups = [
        (Rollout(prompt, tuple(answers[3 * row : 3 * row + 3])), seen[3 * row : 3 * row + 3])
        for row, prompt in enumerate(ours.train_dataset)
    ]
    value, outputs = ours.compute_loss(ours.model, ours._inputs(groups), return_outputs=True)
    value.backward()
    assert batch["advantages"].abs().max() > 1e-3
    torch.testing.assert_close(outputs["advantages"], batch["advantages"], rtol=0, atol=1e-5)
    for one, two in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "adapter",
    [
        {"r": 4, "target_modules": ["q_proj", "up_proj"]},
        {"r": 4, "target_modules": ["v_proj"], "use_dora": True},
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["down_proj"]},
        None,
    ],
)
def test_the_engine_gets_the_policys_weights(tiny_model_folder: Path, tmp_path: Path, adapter: Any) -> None:
    made = load_trainee(str(tiny_model_folder), base=tmp_path, adapter=adapter, seed=4, where="test")
    noisy(made.model)
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    prompts, _ = tokenise_prompts([Prompt(0, CHATS[0])], made.tokenizer, room=6, context_length=512)
    with generation_engine(resolve_model(str(tiny_model_folder)), "cpu") as engine:
        plain = answer_all(engine, [prompts[0].tokens], [Wanted(4, DRAWN)], max_tokens=6, seed=1)
        rollouts = RolloutEngine(engine, count=4, max_tokens=6)
        rollouts.load(made.model, "noisy")
        (one,) = rollouts.sample(prompts, 1)
    made.model.eval()
    for answer in one.answers:
        tokens = torch.tensor([[*one.prompt.tokens, *answer.tokens]])
        logits = made.model(tokens).logits[0, len(one.prompt.tokens) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(answer.tokens)[:, None])
        assert float(logprobs.detach().sum()) == pytest.approx(answer.logprob, abs=1e-3)
    assert [answer.logprob for answer in one.answers] != [answer.logprob for answer in plain[0]]
    after = made.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    names = {name for name, _ in merged_weights(made.model)}
    assert not any("lora" in name or "base_layer" in name for name in names)


def test_answers_are_kept_and_drawn_once(tiny_model_folder: Path, tmp_path: Path) -> None:
    tokenizer = load(tiny_model_folder)[1]
    prompts, _ = tokenise_prompts(
        [Prompt(row, chat) for row, chat in enumerate(CHATS * 5)], tokenizer, room=6, context_length=512
    )
    tokens, wanted = [one.tokens for one in prompts], [Wanted(9, DRAWN)]
    path = tmp_path / "answers.jsonl"
    with generation_engine(resolve_model(str(tiny_model_folder)), "cpu") as engine:
        whole = answer_all(engine, tokens, wanted, max_tokens=6, seed=7, path=path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])  # a process died while it wrote
        assert answer_all(engine, tokens, wanted, max_tokens=6, seed=7, path=path) == whole
        assert path.read_bytes() == content
        other = answer_all(engine, tokens, wanted, max_tokens=6, seed=8)
    assert other != whole and all(len(some) == 9 for some in whole)
    assert any(one.ended and one.tokens[-1] == 2 for some in whole + other for one in some)


def test_figures_and_shares_of_the_time_are_logged(tiny_model_folder: Path, tmp_path: Path) -> None:
    settings = count_prompts(
        arguments(tmp_path, max_steps=2, logging_steps=1, learning_rate=1e-2, save_strategy="no"), "test"
    )
    model, tokenizer = load(tiny_model_folder)
    with generation_engine(resolve_model(str(tiny_model_folder)), "cpu") as engine:
        rollouts = RolloutEngine(engine, count=3, max_tokens=6)
        trainer = trainer_of(model, tokenizer, load(tiny_model_folder)[0], settings, rollouts)
        trainer.train()
        rollouts.load(trainer.model, "now")
        drawn = rollouts.sample(trainer.train_dataset, 3)
        divergences = trainer.divergences(drawn)
    first, second = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert first["kl"] == pytest.approx(0, abs=1e-4) and second["kl"] != pytest.approx(0, abs=1e-4)
    for entry in (first, second):
        shares = [entry[f"share_{name}"] for name in ("generation", "scoring", "update")]
        assert sum(shares) == pytest.approx(1) and all(share > 0 for share in shares)
        assert entry["engine_difference"] < 1e-4
        assert 0 < entry["length"] <= 6 and entry["entropy"] > 0 and 0 <= entry["ended"] <= 1
        assert entry["letters"] == pytest.approx(entry["mean_reward"], abs=1e-6)
        assert entry["unscored"] == 0
    assert len(divergences) == 4 and all(abs(value) < 20 for value in divergences)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"prompt": "Hello"}, {"prompt": "hello!"}, {"prompt": " "}], ["Hello"]),
        ([{"prompt": [{"role": "user", "content": "Hi"}]}], ["Hi"]),
        (
            [{"chosen": "\n\nHuman: A?\n\nAssistant: b", "rejected": "\n\nHuman: A?\n\nAssistant: c"}],
            ["A?"],
        ),
        ([{"prompt": [{"role": "assistant", "content": "x"}]}, {"prompt": "Y"}], ["Y"]),
    ],
)
def test_prompts_of_rows(tmp_path: Path, rows: list[dict[str, Any]], expected: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts(str(path), base=tmp_path)
    assert [one.chat[-1]["content"] for one in found.prompts] == expected
    assert sum(found.left_out.values()) == len(rows) - len(expected)


def test_what_gives_no_prompt_is_named(tmp_path: Path, tiny_model_folder: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for row, message in (({"question": "x"}, "'prompt' is missing"), ({"prompt": 3}, "must be a text")):
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match=message):
            read_prompts(str(path), base=tmp_path)
    with pytest.raises(DataError, match="every prompt was dropped"):
        tokenise_prompts([Prompt(0, CHATS[0])], load(tiny_model_folder)[1], room=500, context_length=512)


def test_batches_hold_whole_groups(tmp_path: Path) -> None:
    assert count_prompts(arguments(tmp_path), "test").per_device_train_batch_size == 4
    settings = arguments(tmp_path)
    settings.per_device_train_batch_size = 10
    with pytest.raises(ConfigError, match="10 answers are not whole groups of num_generations = 3"):
        count_prompts(settings, "test")
