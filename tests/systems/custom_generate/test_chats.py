"""The chats that judges and models beside are shown."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trivet.errors import ConfigError, UnsupportedError
from trivet.judges import Verdict
from trivet.systems.custom_generate import CustomGenerate

CHATS = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    [{"role": "user", "content": "What is the capital of France?"}],
]
BEST = {"method": "best_of_n", "n": 2, "judge": "refusal_string_match"}
OPTIONS = {"max_new_tokens": 4, "do_sample": False}


def rendered(tokenizer: Any, chats: Any = CHATS) -> dict[str, torch.Tensor]:
    return dict(
        tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
    )


class Listener:
    """A judge that keeps what it is shown."""

    name = "listener"

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def score(self, chats: Sequence[Any]) -> list[Verdict]:
        self.heard += [list(chat[:-1]) for chat in chats]
        return [Verdict(0.0) for _ in chats]


def listening(tokenizer: Any) -> tuple[CustomGenerate, Listener]:
    method, judge = CustomGenerate(BEST, tokenizer=tokenizer), Listener()
    method._decoding = replace(method._decoding, judges={"judge": judge})
    return method, judge


def test_a_judge_is_shown_the_chats_that_are_given(model: Any, tokenizer: Any) -> None:
    method, judge = listening(tokenizer)
    model.generate(**rendered(tokenizer), **OPTIONS, custom_generate=method, chats=CHATS)
    assert all(chat in judge.heard for chat in CHATS)
    assert len(judge.heard) == 4


def test_a_judge_is_shown_a_plain_prompt_as_the_users_words(model: Any, tokenizer: Any) -> None:
    method, judge = listening(tokenizer)
    inputs = tokenizer(["Hello", "Take one away"], return_tensors="pt", padding=True)
    model.generate(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **OPTIONS, custom_generate=method
    )
    assert [{"role": "user", "content": "Take one away"}] in judge.heard


@pytest.mark.parametrize(
    "settings",
    [
        BEST,
        {"method": "rain", "searches": 2},
        {"method": "deal", "objectives": [{"type": "judge", "judge": "refusal_string_match"}]},
    ],
    ids=lambda settings: settings["method"],
)
def test_a_rendered_chat_is_not_taken_for_the_users_words(settings: Any, model: Any, tokenizer: Any) -> None:
    method = CustomGenerate(settings, tokenizer=tokenizer)
    with pytest.raises(UnsupportedError, match=r"pass chats=\[chat"):
        model.generate(**rendered(tokenizer), **OPTIONS, custom_generate=method)


def test_methods_that_judge_nothing_need_no_chats(model: Any, tokenizer: Any) -> None:
    words = {"type": "length", "max_words": 3}
    for settings in ({"method": "sampling"}, {"method": "deal", "lookahead": 2, "objectives": [words]}):
        method = CustomGenerate(settings, tokenizer=tokenizer)
        model.generate(**rendered(tokenizer), **OPTIONS, custom_generate=method)


def test_chats_fit_the_batch(model: Any, tokenizer: Any) -> None:
    method = CustomGenerate(BEST, tokenizer=tokenizer)
    inputs = rendered(tokenizer)
    with pytest.raises(ConfigError, match="there are 1 for 2 prompts"):
        model.generate(**inputs, **OPTIONS, custom_generate=method, chats=CHATS[:1])
    with pytest.raises(ConfigError, match="a list with one chat"):
        model.generate(**inputs, **OPTIONS, custom_generate=method, chats=CHATS[0])


def test_a_model_beside_with_its_own_template_needs_the_chats(
    model: Any, tokenizer: Any, tiny_model: Any
) -> None:
    folder = tiny_model("llama", seed=7)
    tuned, its = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    settings = {"method": "eft", "base": "base", "tuned": {"kind": "tuned"}}
    inputs = rendered(tokenizer)

    def outcome(models: dict[str, Any], **more: Any) -> Any:
        method = CustomGenerate(settings | more.pop("settings", {}), tokenizer=tokenizer, models=models)
        return model.generate(**inputs, **OPTIONS | {"max_new_tokens": 12}, custom_generate=method, **more)

    base = AutoModelForCausalLM.from_pretrained(tiny_model("llama", seed=8))
    same = outcome({"base": base, "tuned": (tuned, its)})
    assert torch.equal(same, outcome({"base": base, "tuned": (tuned, its)}, chats=CHATS)), "one template"
    its.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    with pytest.raises(UnsupportedError, match=r"'tuned\.kind' has a chat template of its own"):
        outcome({"base": base, "tuned": (tuned, its)})
    other = outcome({"base": base, "tuned": (tuned, its)}, chats=CHATS)
    assert not torch.equal(other, same)
    given = outcome(
        {"base": base, "tuned": tuned}, chats=CHATS, settings={"templates": {"kind": its.chat_template}}
    )
    assert torch.equal(given, other), "the settings may give the template as well"
    with pytest.raises(UnsupportedError, match="pass chats"):
        outcome({"base": base, "tuned": tuned}, settings={"templates": {"kind": its.chat_template}})
