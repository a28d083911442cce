"""The provider ``trivet/…``, driven as Inspect drives it, under asyncio and trio."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    ContentAudio,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.tool import ToolCall, ToolFunction, ToolInfo, ToolParam, ToolParams

from trivet.errors import ConfigError, UnsupportedError
from trivet.models import engines
from trivet.systems import System
from trivet.systems.inspect_messages import to_chat, to_schemas
from trivet.systems.inspect_provider import TrivetAPI, request_seed
from trivet.systems.spec import ReasoningSpec

TOOLS_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool['function']['name'] }} "
    "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}{{ call['function']['arguments']['x'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ADD = ToolInfo(
    name="add",
    description="Adds.",
    parameters=ToolParams(properties={"x": ToolParam(type="integer")}, required=["x"]),
)
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    engines.close_engines()


@pytest.fixture(scope="module")
def yaml_path(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("systems") / "tiny.yaml"
    path.write_text(f"model: {tiny_model_folder}\nmax_tokens: 10\n", encoding="utf-8")
    return path


def ask(model: Model, backend: str = "asyncio", **config: Any) -> ModelOutput:
    async def main() -> ModelOutput:
        if backend == "asyncio":
            return await model.generate("Hello", config=GenerateConfig(**config))
        # Inspect keeps its connection limits for the process, bound to the first event loop's kind.
        message = ChatMessageUser(content="Hello")
        return cast(ModelOutput, await model.api.generate([message], [], "auto", GenerateConfig(**config)))

    return anyio.run(main, backend=backend)


@BACKENDS
def test_a_yaml_path_answers(yaml_path: Path, backend: str) -> None:
    system = System.load(yaml_path)
    output = ask(get_model(f"trivet/{yaml_path}", memoize=False), backend, temperature=1.0, seed=1)
    assert output.model == system.identity == output.message.model
    assert output.stop_reason in {"stop", "max_tokens"}
    assert output.usage is not None
    assert output.usage.output_tokens <= 10
    assert output.usage.total_tokens == (
        output.usage.input_tokens + (output.usage.input_tokens_cache_read or 0) + output.usage.output_tokens
    )
    assert output.metadata is not None
    assert output.metadata["system"] == system.identity
    assert output.metadata["costs"]["forward_tokens"] > 0
    json.dumps(output.metadata)


def test_the_constructor_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "resolve_model", lambda name: pytest.fail("a model was looked for"))
    get_model(f"trivet/{tmp_path}/there/is/none.yaml", memoize=False)
    get_model("trivet/no-such-model", memoize=False)


def test_other_forms_of_a_system(yaml_path: Path, tiny_model_folder: Path) -> None:
    system = System.load(yaml_path, name="opened")
    by_object = ask(get_model("trivet/opened", memoize=False, system=system))
    assert by_object.model == system.identity
    mapping = {"model": str(tiny_model_folder), "max_tokens": 10}
    by_mapping = ask(get_model("trivet/from mapping", memoize=False, system=mapping))
    assert by_mapping.model == f"from-mapping@{system.hash12}"
    by_name = ask(get_model(f"trivet/{tiny_model_folder}", memoize=False), max_tokens=3)
    assert by_name.model.startswith(tiny_model_folder.name)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'device'"):
        get_model("trivet/x", memoize=False, devise="cpu")
    with pytest.raises(ConfigError, match="base URL"):
        get_model("trivet/x", memoize=False, base_url="http://localhost")
    with pytest.raises(ConfigError, match="no such file"):
        ask(get_model("trivet/none.yaml", memoize=False))


def test_the_seed_depends_on_task_sample_epoch_and_call() -> None:
    seeds = {
        request_seed(seed, task, sample, epoch, call)
        for seed in (0, 1)
        for task in ("a", "b")
        for sample in ("1", "2")
        for epoch in (1, 2)
        for call in (0, 1)
    }
    assert len(seeds) == 32
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert request_seed(1, "a", "1", 1, 0) == request_seed(1, "a", "1", 1, 0)


def test_calls_one_after_the_other_differ_and_a_fresh_model_repeats_them(yaml_path: Path) -> None:
    def two() -> list[str]:
        model = get_model(f"trivet/{yaml_path}", memoize=False)
        return [ask(model, temperature=1.0, seed=1).completion for _ in range(2)]

    first = two()
    assert first[0] != first[1]
    assert two() == first


def test_a_call_that_is_replayed_is_counted(yaml_path: Path) -> None:
    model = get_model(f"trivet/{yaml_path}", memoize=False)
    whole = [ask(model, temperature=1.0).completion for _ in range(3)]
    resumed = get_model(f"trivet/{yaml_path}", memoize=False)
    assert isinstance(resumed.api, TrivetAPI)
    resumed.api.count_call()
    resumed.api.count_call()
    assert ask(resumed, temperature=1.0).completion == whole[2]


def test_choices_and_logprobs(yaml_path: Path) -> None:
    model = get_model(f"trivet/{yaml_path}", memoize=False)
    output = ask(model, temperature=1.0, num_choices=3, logprobs=True, top_logprobs=2, logit_bias={2: -100.0})
    assert len({choice.message.text for choice in output.choices}) == 3
    for choice in output.choices:
        assert choice.logprobs is not None
        assert len(choice.logprobs.content) == 10
        entry = choice.logprobs.content[0]
        assert entry.logprob < 0
        assert entry.top_logprobs is not None
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
    assert output.usage is not None and output.usage.output_tokens == 30


def test_stop_reasons(yaml_path: Path, tiny_model_folder: Path) -> None:
    model = get_model(f"trivet/{yaml_path}", memoize=False)
    assert ask(model, max_tokens=3, logit_bias={2: -100.0}).stop_reason == "max_tokens"
    assert ask(model, logit_bias={2: 100.0}).stop_reason == "stop"
    text = ask(model, logit_bias={2: -100.0}).completion
    stopped = ask(model, logit_bias={2: -100.0}, stop_seqs=[text[2:4]])
    assert stopped.stop_reason == "stop"
    assert stopped.completion == text[: text.index(text[2:4])]
    nearly_full = "a " * 230
    config = GenerateConfig(max_tokens=400, logit_bias={2: -100.0})
    assert anyio.run(lambda: model.generate(nearly_full, config=config)).stop_reason == "model_length"


def test_a_field_that_cannot_be_honoured_fails_the_request(yaml_path: Path) -> None:
    model = get_model(f"trivet/{yaml_path}", memoize=False)
    with pytest.raises(UnsupportedError, match="reasoning_effort"):
        ask(model, reasoning_effort="high")


def test_what_an_engine_cannot_honour_is_refused_by_name() -> None:
    endpoint = get_model("trivet/inspect:mockllm/model", memoize=False)
    with pytest.raises(UnsupportedError, match=r"GenerateConfig\.seed"):
        ask(endpoint, seed=3)
    with pytest.raises(UnsupportedError, match=r"GenerateConfig\.logprobs"):
        ask(endpoint, logprobs=True)


def test_log_likelihoods_are_offered(yaml_path: Path) -> None:
    api = get_model(f"trivet/{yaml_path}", memoize=False).api
    assert isinstance(api, TrivetAPI)
    values = anyio.run(api.log_likelihoods, "One two", [" three", " four five"])
    assert all(value < 0 for value in values) and len(values) == 2


class TestMessages:
    """Inspect's messages become a chat."""

    def test_reasoning_in_the_history_goes_between_its_markers(self) -> None:
        message = ChatMessageAssistant(content=[ContentReasoning(reasoning="hm"), ContentText(text="Paris")])
        own = ReasoningSpec(start="[T]", end="[/T]")
        assert to_chat([message], own) == [{"role": "assistant", "content": "[T]hm[/T]Paris"}]

    def test_tool_results_and_errors(self) -> None:
        from inspect_ai.tool import ToolCallError

        failed = ChatMessageTool(
            content="", function="add", tool_call_id="1", error=ToolCallError("timeout", "took too long")
        )
        assert to_chat([failed], None)[0]["content"] == "Error: took too long"

    def test_images_are_passed_on_and_refused_by_the_engine(self, yaml_path: Path) -> None:
        image = ContentImage(image="data:image/png;base64,iVBORw0KGgo=")
        message = ChatMessageUser(content=[ContentText(text="What is this?"), image])
        model = get_model(f"trivet/{yaml_path}", memoize=False)
        with pytest.raises(UnsupportedError, match="images"):
            anyio.run(model.generate, [message])

    def test_audio_is_refused_by_name(self) -> None:
        message = ChatMessageUser(content=[ContentAudio(audio="a.wav", format="wav")])
        with pytest.raises(UnsupportedError, match="audio"):
            to_chat([message], None)


CALL = '<tool_call>{"name": "add", "arguments": {"x": 1}}</tool_call>'
LEARNT = {"Add 1": CALL, "Twice": CALL + CALL, "Break it": "Well. <tool_call>{x}</tool_call>"}


@pytest.fixture(scope="module")
def caller(tiny_model: Any) -> Model:
    """A tiny model that has learnt to call the tool by heart, with a chat template that shows tools."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model()
    for file in folder.glob("*.jinja"):
        file.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = TOOLS_TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = []
    for prompt, answer in LEARNT.items():
        chat = [{"role": "user", "content": prompt}]
        begin = tokenizer.apply_chat_template(
            chat, tools=to_schemas([ADD]), add_generation_prompt=True, return_dict=False
        )
        rows.append((begin, [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        for begin, answer in rows:
            labels = torch.tensor([[-100] * len(begin) + answer])
            model(input_ids=torch.tensor([begin + answer]), labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return get_model("trivet/caller", memoize=False, system={"model": str(folder), "max_tokens": 100})


def call(model: Model, chat: Any, **config: Any) -> ModelOutput:
    async def main() -> ModelOutput:
        return await model.generate(chat, tools=[ADD], config=GenerateConfig(**config))

    return anyio.run(main)


class TestTools:
    """Tools are rendered by the chat template and come back parsed."""

    def test_the_round_trip(self, caller: Model) -> None:
        output = call(caller, "Add 1")
        calls = output.message.tool_calls
        assert output.stop_reason == "tool_calls"
        assert output.completion == ""
        assert calls is not None
        assert [(one.function, one.arguments, one.parse_error) for one in calls] == [("add", {"x": 1}, None)]
        result = ChatMessageTool(content="2", function="add", tool_call_id=calls[0].id)
        again = call(caller, [ChatMessageUser(content="Add 1"), output.message, result], max_tokens=4)
        assert again.usage is not None and 0 < again.usage.output_tokens <= 4

    def test_a_call_that_cannot_be_read_is_a_parse_error(self, caller: Model) -> None:
        output = call(caller, "Break it")
        assert output.completion == "Well."
        assert output.message.tool_calls is not None
        assert "not valid JSON" in (output.message.tool_calls[0].parse_error or "")
        assert "{x}" in (output.message.tool_calls[0].parse_error or "")

    def test_one_call_at_most_where_parallel_calls_are_off(self, caller: Model) -> None:
        both = call(caller, "Twice").message.tool_calls or []
        assert len(both) == 2
        assert both[0].id != both[1].id
        assert len(call(caller, "Twice", parallel_tool_calls=False).message.tool_calls or []) == 1

    def test_without_tools_the_text_stays_text(self, caller: Model) -> None:
        output = ask(caller, max_tokens=4)
        assert output.message.tool_calls is None

    @pytest.mark.parametrize("choice", ["any", ToolFunction("add")])
    def test_a_forced_call_is_refused(self, caller: Model, choice: Any) -> None:
        with pytest.raises(UnsupportedError, match="cannot force"):
            anyio.run(lambda: caller.generate("Add", tools=[ADD], tool_choice=choice))

    def test_the_template_sees_tools_and_earlier_calls(self, caller: Model) -> None:
        def length(output: ModelOutput) -> int:
            return int((output.metadata or {})["costs"]["prompt_tokens"])

        assert length(call(caller, "Hello", max_tokens=1)) > length(ask(caller, max_tokens=1))

        def history(x: int) -> list[Any]:
            return [
                ChatMessageUser(content="Add"),
                ChatMessageAssistant(content="", tool_calls=[ToolCall("c", "add", {"x": x})]),
                ChatMessageTool(content="ok", function="add", tool_call_id="c"),
            ]

        lengths = [length(call(caller, history(x), max_tokens=1)) for x in (1, 12345)]
        assert lengths[1] > lengths[0]
