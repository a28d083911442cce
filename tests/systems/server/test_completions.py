"""Completions: plain text continued as it stands, by the bare model."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.systems.server.conftest import NEVER_STOP, Start, user

from trivet.systems import System

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def client(start: Start, tiny: System, tiny_model_folder: Path, blocks_guard: str) -> openai.OpenAI:
    def made(name: str, **values: Any) -> System:
        return System.load({"model": str(tiny_model_folder), "name": name, **values})

    decode = {"method": "best_of_n", "judge": "refusal_string_match"}
    return start(
        tiny,
        made("prompted", system_prompt="Be kind."),
        made("chooser", decode=decode),
        made("guarded", guards=[blocks_guard]),
    ).client()


def test_the_text_is_continued_as_transformers_does(client: openai.OpenAI, tiny_model_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    inputs = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        output = model.generate(
            **inputs, max_new_tokens=12, do_sample=False, suppress_tokens=[2], pad_token_id=2
        )
    expected = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    got = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=12, logit_bias=NEVER_STOP)
    assert got.choices[0].text == expected
    assert got.usage is not None and got.usage.prompt_tokens == inputs["input_ids"].shape[1]
    assert got.usage.completion_tokens == 12


def test_streams_several_prompts_and_choices(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "tiny", "prompt": [PROMPT, "Hello"], "n": 2, "temperature": 1.0, "seed": 5, "max_tokens": 8
    }  # fmt: skip
    plain = client.completions.create(**options)
    assert [choice.index for choice in plain.choices] == [0, 1, 2, 3]
    texts, reasons = dict.fromkeys(range(4), ""), {}
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert texts == {choice.index: choice.text for choice in plain.choices}
    assert set(reasons.values()) <= {"stop", "length"}
    one = [client.completions.create(model="tiny", prompt=p, max_tokens=1).usage for p in (PROMPT, "Hello")]
    assert plain.usage is not None
    assert plain.usage.prompt_tokens == sum(usage.prompt_tokens for usage in one if usage)


def test_log_probabilities(client: openai.OpenAI) -> None:
    got = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=5, logprobs=2).choices[0]
    assert got.logprobs is not None and got.logprobs.tokens is not None
    assert len(got.logprobs.tokens) == len(got.logprobs.token_logprobs or ()) == 5
    assert all(len(row) <= 2 for row in got.logprobs.top_logprobs or ())
    assert (got.logprobs.text_offset or [1])[0] == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [("prompted", "a system prompt"), ("chooser", "decoding method best_of_n"), ("guarded", "guards")],
)
def test_a_system_that_is_more_than_a_model_is_refused(client: openai.OpenAI, name: str, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        client.completions.create(model=name, prompt=PROMPT)


def test_a_model_without_a_chat_template_completes_and_does_not_chat(start: Start, tiny_model: Any) -> None:
    folder: Path = tiny_model(seed=5)
    for file in folder.glob("*.jinja"):
        file.unlink()
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text())
    values.pop("chat_template", None)
    path.write_text(json.dumps(values))
    client = start(System.load({"model": str(folder), "name": "base"})).client()
    got = client.completions.create(model="base", prompt=PROMPT, max_tokens=4, logit_bias=NEVER_STOP)
    assert got.usage is not None and got.usage.completion_tokens == 4
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="base", messages=user())


def test_a_prompt_longer_than_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context") as caught:
        client.completions.create(model="tiny", prompt="word " * 600)
    assert caught.value.code == "context_length_exceeded"


def test_a_system_behind_another_server_chats_and_does_not_complete(start: Start, tiny: System) -> None:
    near = start(tiny)
    far = System.load({"model": f"openai:{near.url}#tiny", "name": "far"}).open()
    probed = far.engine.description["probe"]
    assert {"top_k", "min_p", "presence_penalty"} <= set(probed["sampling"]), "the probe sees them honoured"
    assert probed["seed"] and probed["top_logprobs"] == 20
    client = start(far).client()
    with pytest.raises(openai.BadRequestError, match="takes chats, not plain text"):
        client.completions.create(model="far", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="shows no tokens"):
        client.chat.completions.create(model="far", messages=user(), logprobs=True)
    expected = tiny.answer_sync(user(), max_tokens=24).text
    stream = client.chat.completions.create(model="far", messages=user(), max_tokens=24, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected
    near.settle()
