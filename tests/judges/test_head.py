"""Heads on hidden states: fitted on pairs, reproducible, three-valued, honest about other weights."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivet.errors import JudgeError
from trivet.judges import resolve
from trivet.judges.artifact import SHIPPED
from trivet.judges.cards import head_card
from trivet.judges.head import HeadJudge, HeadWarning, write_head
from trivet.judges.head_fit import FitConfig, FittedHead, fit_head, prompts_of
from trivet.judges.hidden_states import StateCache, answer_states
from trivet.judges.material import preference_pairs
from trivet.models.engines import close_engines, get_engine
from trivet.models.operations import Chat


def chat(prompt: str, answer: str) -> Chat:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def pairs(count: int) -> list[dict[str, Any]]:
    """Pairs whose chosen answer ends in "yes" and whose rejected one ends in "no no no"."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Question number {n}?"}],
            "chosen": [{"role": "assistant", "content": f"The trivet says {n} yes yes yes"}],
            "rejected": [{"role": "assistant", "content": f"The trivet says {n} no no no"}],
        }
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def fitted(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedHead:
    config = FitConfig(model=str(tiny_model_folder), layer=1, objective="agreement")
    rows = pairs(60)
    return fit_head(rows[:40], config, test=rows[40:], cache=tmp_path_factory.mktemp("states"))


@pytest.fixture(scope="module")
def head(fitted: FittedHead, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "agreement.safetensors"
    card = head_card(fitted, training=[], test=None)
    write_head(path, fitted, population="made pairs", card=card)
    return path


def test_a_head_learns_what_separates_the_pairs(fitted: FittedHead) -> None:
    assert fitted.held_out is not None and fitted.held_out.value == 1.0
    assert fitted.pairs == 40 and fitted.left_out == 0
    assert fitted.training_prompts == frozenset().union(*(prompts_of(pair) for pair in pairs(40)))


def test_its_scores_are_those_of_its_weights(head: Path, fitted: FittedHead, tiny_model_folder: Path) -> None:
    judge = resolve(head)
    chats = [chat("Is it?", "yes yes yes"), chat("Is it?", "no no no")]
    first, second = judge.score(chats)
    assert first.value is not None and second.value is not None and first.value > second.value
    states = answer_states(get_engine(str(tiny_model_folder)), chats, layer=1, max_tokens=128)
    assert not isinstance(states[0], str)
    assert first.value == pytest.approx(float(states[0] @ fitted.weights) + fitted.bias, abs=1e-4)
    assert judge.objective == "agreement" and judge.quality["accuracy"]["value"] == 1.0
    assert judge.training_prompts == fitted.training_prompts


def test_hidden_states_are_those_of_transformers(tiny_model_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    messages = chat("What is the capital of France?", "The capital of France is Paris.")
    (state,) = answer_states(get_engine(str(tiny_model_folder)), [messages], layer=1, max_tokens=4)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    text = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    answer = tokenizer(str(messages[1]["content"]), add_special_tokens=False).input_ids[:4]
    with torch.no_grad():
        hidden = model(torch.tensor([prompt + answer]), output_hidden_states=True).hidden_states[1][0]
    np.testing.assert_allclose(state, hidden[len(prompt) :].mean(0).numpy(), atol=1e-4)


def test_system_messages_are_not_read(head: Path) -> None:
    plain = chat("Is it?", "yes it is")
    told = [{"role": "system", "content": "Be a pirate."}, *plain]
    first, second = resolve(head).score([plain, told])
    assert first.value == pytest.approx(second.value, abs=1e-5)


def test_what_cannot_be_scored_says_why_and_does_not_stop_the_rest(head: Path) -> None:
    chats: list[Chat] = [chat("Is it?", ""), [], chat("long " * 2000, "yes"), chat("Is it?", "yes")]
    verdicts = resolve(head).score(chats)
    assert [verdict.value is None for verdict in verdicts] == [True, True, True, False]
    assert "empty" in str(verdicts[0].reason) and "context" in str(verdicts[2].reason)


def test_a_refit_on_the_same_states_gives_equal_bytes(fitted: FittedHead, head: Path, tmp_path: Path) -> None:
    first, again = (
        fit_head(pairs(60)[:40], fitted.config, test=pairs(60)[40:], cache=tmp_path) for _ in range(2)
    )
    for place, one in enumerate((first, again)):
        write_head(tmp_path / f"{place}.safetensors", one, population="made pairs", card="")
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()
    # States computed anew stand in other batches, which moves their last digits.
    np.testing.assert_allclose(first.weights, fitted.weights, rtol=1e-4, atol=1e-5)


def test_pairs_that_share_a_prompt_with_the_test_are_not_fitted_on(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    config = FitConfig(model=str(tiny_model_folder), layer=1)
    found = fit_head(pairs(40), config, test=pairs(10), cache=tmp_path)
    assert found.pairs == 30
    with pytest.raises(JudgeError, match="too few"):
        fit_head(pairs(40), config, test=pairs(25), cache=tmp_path)


def test_the_cache_is_used_and_a_damaged_file_is_computed_again(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    engine = get_engine(str(tiny_model_folder))
    chats = [chat(f"Question {n}?", "An answer" if n else "") for n in range(5)]
    cache = StateCache(tmp_path, engine, layer=1, max_tokens=8, block=2)
    first = cache.states(chats)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 3 and first[0] == "the answer is empty"
    files[0].write_bytes(files[0].read_bytes()[:40])
    second = cache.states(chats)
    for one, two in zip(first, second):
        assert one == two if isinstance(one, str) else np.allclose(one, two, atol=1e-5)


def test_other_weights_give_a_warning(head: Path, tiny_model: Any) -> None:
    other = tiny_model("llama", seed=7)
    with pytest.warns(HeadWarning, match="other weights"):
        HeadJudge(head, model=str(other)).score([chat("Is it?", "yes")])
    wide = tiny_model("llama", hidden_size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadWarning)
        with pytest.raises(JudgeError, match="32 weights"):
            HeadJudge(head, model=str(wide)).score([chat("Is it?", "yes")])


@pytest.mark.model
def test_the_shipped_head_is_above_chance_on_pairs_it_never_saw(embedded_model: str, real_data: Path) -> None:
    judge = resolve("harmlessness_head")
    assert judge.quality["accuracy"]["low"] > 0.5
    assert (SHIPPED / "harmlessness_head.safetensors").stat().st_size < 10_000
    rows = preference_pairs(f"hh_single_turn/test:{real_data / 'hh-single-turn'}").rows
    fresh = [row for row in rows if not prompts_of(row) & judge.training_prompts][-40:]
    chats = [[*row["prompt"], *row[side]] for row in fresh for side in ("chosen", "rejected")]
    values = [verdict.value for verdict in judge.score(chats)]
    wins = [a > b for a, b in zip(values[::2], values[1::2]) if a is not None and b is not None]
    # 40 pairs at an accuracy of 0.65 have 26 wins in the mean; 18 is three standard errors below that.
    assert len(wins) == 40 and sum(wins) >= 18


@pytest.mark.model
@pytest.mark.slow
def test_the_same_command_fits_a_helpfulness_head(
    embedded_model: str, real_data: Path, tmp_path: Path
) -> None:
    rows = preference_pairs(f"preference_pairs:{real_data / 'preference-pairs-en'}").rows
    config = FitConfig(objective="helpfulness", limit=40, max_tokens=48, layer=12)
    found = fit_head(rows, config, cache=tmp_path)
    assert found.pairs + found.left_out == 40 and found.pairs >= 20
    assert 0 <= found.cross_validated <= 1 and np.isfinite(found.weights).all()


def test_a_head_goes_on_after_the_engines_were_closed(head: Path, fitted: FittedHead) -> None:
    judge = HeadJudge(head, model=fitted.config.model)
    first = judge.score([chat("Question?", "An answer")])
    close_engines()
    assert judge.score([chat("Question?", "An answer")])[0].value == pytest.approx(first[0].value, abs=1e-4)
