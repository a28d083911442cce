"""Chat completions with the ``openai`` client: the answers are the system's own, plain and streamed."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.systems.server.conftest import NEVER_STOP, Running, Start, user

from trivet.systems import System

TOOLS_TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool['function']['name'] }} {% endfor %}{% endif %}"
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}


@pytest.fixture(scope="module")
def kind(tiny_model_folder: Path) -> System:
    return System.load({"model": str(tiny_model_folder), "name": "kind", "system_prompt": "Be kind."})


@pytest.fixture(scope="module")
def chooser(tiny_model_folder: Path) -> System:
    decode = {"method": "best_of_n", "n": 3, "judge": "refusal_string_match"}
    return System.load(
        {"model": str(tiny_model_folder), "name": "chooser", "decode": decode, "max_tokens": 8}
    )


@pytest.fixture(scope="module")
def running(start: Start, tiny: System, kind: System, chooser: System) -> Running:
    return start(tiny, kind, chooser)


@pytest.fixture(scope="module")
def client(running: Running) -> openai.OpenAI:
    return running.client()


def joined(stream: Any) -> dict[int, str]:
    """The text of each choice of a stream."""
    texts: dict[int, str] = {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


def test_models_are_the_systems_by_name(client: openai.OpenAI, tiny: System) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == ["tiny", "kind", "chooser"]
    assert models[0].model_extra["trivet"]["identity"] == tiny.identity  # type: ignore[index]
    assert client.models.retrieve("kind").id == "kind"


@pytest.mark.parametrize("name", ["tiny", "kind", "chooser"])
def test_an_answer_is_the_systems_own(client: openai.OpenAI, running: Running, name: str) -> None:
    system = next(system for system in running.systems if system.name == name)
    options = {"temperature": 1.5, "top_p": 0.9}
    expected = system.answer_sync(user(), seed=7, max_tokens=9, sampling=options)
    got = client.chat.completions.create(
        model=name, messages=user(), seed=7, max_completion_tokens=9, **options
    )
    assert got.choices[0].message.content == expected.text
    assert got.choices[0].finish_reason == "length"
    assert got.model == name and got.system_fingerprint == system.hash12
    assert got.usage is not None
    assert got.usage.prompt_tokens == expected.usage.prompt_tokens
    assert got.usage.completion_tokens == expected.usage.completion_tokens
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens


@pytest.mark.parametrize("name", ["tiny", "kind", "chooser"])
def test_a_stream_is_the_same_answer_in_pieces(client: openai.OpenAI, name: str) -> None:
    options: dict[str, Any] = {
        "model": name, "messages": user(), "seed": 3, "temperature": 1.0, "max_tokens": 20, "n": 3
    }  # fmt: skip
    plain = client.chat.completions.create(**options)
    chunks = list(
        client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    )
    texts = joined(chunks)
    assert texts == {choice.index: choice.message.content for choice in plain.choices}
    assert len(set(texts.values())) > 1, "each choice has a seed of its own"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == [] and plain.usage is not None and chunks[-1].usage is not None
    for count in ("prompt_tokens", "completion_tokens"):
        assert getattr(chunks[-1].usage, count) == getattr(plain.usage, count)
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(reasons) == sorted(choice.finish_reason for choice in plain.choices)
    if name == "tiny":
        assert len(chunks) > 12, "plain sampling streams token by token"


def test_without_a_seed_answers_differ_and_greedy_ones_do_not(client: openai.OpenAI) -> None:
    def ask(**options: Any) -> str | None:
        answer = client.chat.completions.create(model="tiny", messages=user(), **options)
        return answer.choices[0].message.content

    assert len({ask(temperature=1.0) for _ in range(5)}) > 1
    assert len({ask() for _ in range(3)}) == 1, "what is left out is the system's own: greedy"


def test_each_sampling_setting_reaches_the_engine(client: openai.OpenAI, tiny: System) -> None:
    def text(**options: Any) -> str | None:
        made = client.chat.completions.create(
            model="tiny", messages=user(), seed=1, max_tokens=12, logit_bias=NEVER_STOP, **options
        )
        return made.choices[0].message.content

    greedy = text()
    for name, strictest in (("top_k", 1), ("min_p", 1.0)):
        assert text(temperature=3.0) != greedy
        assert text(temperature=3.0, extra_body={name: strictest}) == greedy
        assert text(temperature=3.0, extra_body={name: 0}) != greedy
    assert text(temperature=3.0, top_p=1e-6) == greedy
    assert text(temperature=3.0, extra_body={"top_k": -1}) == text(temperature=3.0)
    for options in (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"extra_body": {"repetition_penalty": 5.0}},
    ):
        sampling = {**options, **options.get("extra_body", {}), "logit_bias": {2: -100.0}}  # type: ignore[dict-item]
        sampling.pop("extra_body", None)
        expected = tiny.answer_sync(user(), seed=1, max_tokens=12, sampling=sampling).text
        assert text(**options) == expected
    token = tiny.engine.render(user("Paris"))[3]
    only = client.chat.completions.create(
        model="tiny", messages=user(), max_tokens=3, logit_bias={str(token): 100.0}, logprobs=True
    )
    content = only.choices[0].logprobs.content  # type: ignore[union-attr]
    assert content is not None and len({entry.token for entry in content}) == 1


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "tiny",
        "messages": user(),
        "logit_bias": NEVER_STOP,
        "max_tokens": 20,
    }
    whole = client.chat.completions.create(**options).choices[0].message.content or ""
    stop = whole[6:9]
    cut = client.chat.completions.create(**options, stop=[stop, "never there"])
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert (
        joined(client.chat.completions.create(**options, stop=stop, stream=True))[0]
        == whole[: whole.index(stop)]
    )


def test_log_probabilities_come_with_tokens_and_alternatives(client: openai.OpenAI, tiny: System) -> None:
    options: dict[str, Any] = {
        "model": "tiny", "messages": user(), "max_tokens": 6, "logprobs": True, "top_logprobs": 3
    }  # fmt: skip
    expected = tiny.answer_sync(user(), max_tokens=6, top_logprobs=3).continuation
    plain = client.chat.completions.create(**options).choices[0].logprobs
    assert plain is not None and plain.content is not None
    count = len(expected.tokens)
    assert [entry.logprob for entry in plain.content] == pytest.approx(expected.logprobs[:count])
    for entry, row in zip(plain.content, expected.top_logprobs, strict=False):
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx([value for _, value in row])
        assert entry.top_logprobs[0].logprob == entry.logprob, "greedy takes the best"
        assert entry.bytes is None or bytes(entry.bytes).decode() == entry.token
    streamed = [
        entry
        for chunk in client.chat.completions.create(**options, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content or ()
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in plain.content]


def test_the_trace_is_returned_where_it_is_asked_for(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "chooser", "messages": user(), "seed": 1}
    without = client.chat.completions.create(**options)
    assert "trivet" not in (without.choices[0].model_extra or {})
    extra = {"trivet": {"trace": True}}
    made = client.chat.completions.create(**options, extra_body=extra).choices[0].model_extra["trivet"]  # type: ignore[index]
    assert made["trace"][0]["method"] == "best_of_n" and made["judge_calls"] == 3
    assert made["forward_tokens"] > 8
    last = list(client.chat.completions.create(**options, stream=True, extra_body=extra))[-1]
    assert last.choices[0].model_extra["trivet"]["trace"] == made["trace"]  # type: ignore[index]


def test_messages_in_all_their_forms(client: openai.OpenAI, kind: System) -> None:
    forms: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
        {"role": "assistant", "content": "Hi.", "reasoning_content": "They greet.", "refusal": None},
        {"role": "user", "content": "And now?", "name": "ann"},
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "And now?"},
    ]
    got = client.chat.completions.create(model="kind", messages=forms, max_tokens=9)
    expected = kind.answer_sync(plain, max_tokens=9)
    assert got.choices[0].message.content == expected.text
    assert got.usage is not None and got.usage.prompt_tokens == expected.usage.prompt_tokens


def test_an_answer_goes_on_from_the_assistants_message(client: openai.OpenAI, tiny: System) -> None:
    chat = [*user(), {"role": "assistant", "content": "The capital"}]
    got = client.chat.completions.create(
        model="tiny", messages=chat, max_tokens=5, extra_body={"continue_final_message": True}
    )
    expected = tiny.answer_sync(chat, max_tokens=5, continue_final_message=True)
    assert got.choices[0].message.content == expected.text
    assert got.usage is not None and got.usage.prompt_tokens == expected.usage.prompt_tokens


def with_template(folder: Path, template: str) -> Path:
    for file in folder.glob("*.jinja"):
        file.unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return folder


def test_tools_reach_the_template_where_they_may_be_called(start: Start, tiny_model: Any) -> None:
    folder = with_template(tiny_model(), TOOLS_TEMPLATE)
    system = System.load({"model": str(folder), "name": "caller", "max_tokens": 40})
    client = start(system).client()
    options: dict[str, Any] = {
        "model": "caller", "messages": user(), "tools": [TOOL], "max_tokens": 6
    }  # fmt: skip
    with_tools = client.chat.completions.create(**options)
    without = client.chat.completions.create(**{**options, "tool_choice": "none"})
    assert with_tools.usage is not None and without.usage is not None
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="cannot force a tool call"):
        client.chat.completions.create(**{**options, "tool_choice": "required"})


def test_reasoning_is_apart_from_the_content(start: Start, tiny_model: Any) -> None:
    folder = with_template(
        tiny_model(seed=3),
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '(' }}{% endif %}",
    )
    system = System.load(
        {"model": str(folder), "name": "thinker", "reasoning": {"start": "(", "end": ")"}, "max_tokens": 60}
    )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    bias = {str(tokenizer(piece)["input_ids"][0]): 100.0 for piece in "()abc"}
    client = start(system).client()
    options: dict[str, Any] = {
        "model": "thinker", "messages": user(), "temperature": 10.0, "logit_bias": bias,
        "extra_body": {"top_k": 5},
    }  # fmt: skip
    seen = 0
    for seed in range(6):
        message = client.chat.completions.create(**options, seed=seed).choices[0].message
        reasoning = message.model_extra["reasoning_content"]  # type: ignore[index]
        text, thought = "", ""
        for chunk in client.chat.completions.create(**options, seed=seed, stream=True):
            delta = chunk.choices[0].delta
            text += delta.content or ""
            thought += (delta.model_extra or {}).get("reasoning_content", "")
        assert text == message.content
        assert thought == reasoning.replace("\n", "")
        seen += bool(text)
    assert seen, "no answer had any text"
