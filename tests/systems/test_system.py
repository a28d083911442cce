"""Systems on a tiny random model: answers, hashes, refusals, waiting under asyncio and trio."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from trivet.errors import (
    ConfigError,
    ContextLengthError,
    ModelError,
    UnsupportedError,
)
from trivet.models.engines import close_engines
from trivet.systems import System

TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_engines()


@pytest.fixture(scope="module")
def system(tiny_model_folder: Path) -> System:
    return System.load(str(tiny_model_folder), name="tiny")


def make(model: Path, **values: Any) -> System:
    return System.load({"model": str(model), **values})


def test_an_answer_names_the_system_and_its_costs(system: System) -> None:
    answer = system.answer_sync("Hello", max_tokens=6, seed=1, sampling={"temperature": 1.0})
    assert answer.system == f"tiny@{system.hash12}"
    assert len(system.hash12) == 12
    assert answer.usage.completion_tokens == len(answer.continuation.tokens) <= 6
    assert answer.usage.prompt_tokens == len(system.engine.render([{"role": "user", "content": "Hello"}]))
    assert answer.reasoning is None and answer.reasoning_tokens == 0


def test_the_seed_decides_and_nothing_else(system: System) -> None:
    def ask(seed: int) -> str:
        options = {"max_tokens": 12, "sampling": {"temperature": 1.0}}
        return system.answer_sync("Hello", seed=seed, **options).text

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(6)}) > 1


def test_the_system_prompt_comes_first_and_joins_the_chats_own(tiny_model_folder: Path) -> None:
    system = make(tiny_model_folder, system_prompt="Be kind.")
    assert system.chat("Hi") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert system.chat(own)[0]["content"] == "Be kind.\n\nBe brief."
    assert make(tiny_model_folder).chat(own) == own


class TestHash:
    """The hash is the address of what determines the answers."""

    def test_it_does_not_depend_on_name_device_or_place(self, tiny_model_folder: Path) -> None:
        plain = make(tiny_model_folder)
        assert make(tiny_model_folder, name="other").hash12 == plain.hash12
        assert make(tiny_model_folder, device="cpu").hash12 == plain.hash12
        assert make(tiny_model_folder, dtype="float32").hash12 == plain.hash12
        assert make(tiny_model_folder, decode="sampling", max_tokens=512).hash12 == plain.hash12

    def test_a_copy_of_the_weights_elsewhere_is_the_same_system(
        self, tiny_model_folder: Path, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in tiny_model_folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        one, other = make(tiny_model_folder), make(copy)
        assert one.hash12 == other.hash12
        assert one.engine is other.engine

    def test_the_prompts_text_counts_and_not_where_it_lies(
        self, tiny_model_folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "rules.txt").write_text("Be kind.", encoding="utf-8")
        (tmp_path / "a.yaml").write_text(
            f"model: {tiny_model_folder}\nsystem_prompt: {{file: rules.txt}}\n", encoding="utf-8"
        )
        filed = System.load(tmp_path / "a.yaml")
        assert filed.hash12 == make(tiny_model_folder, system_prompt="Be kind.").hash12

    @pytest.mark.parametrize(
        "change",
        [
            {"system_prompt": "Be kind."},
            {"sampling": {"temperature": 0.5}},
            {"sampling": {"logit_bias": {3: 1.0}}},
            {"max_tokens": 100},
            {"reasoning": {"start": "<t>"}},
            {"decode": {"method": "best_of_n", "judge": "refusal_string_match"}},
        ],
    )
    def test_each_key_that_determines_answers_changes_it(
        self, tiny_model_folder: Path, change: dict[str, Any]
    ) -> None:
        assert make(tiny_model_folder, **change).hash12 != make(tiny_model_folder).hash12

    def test_a_methods_settings_count_with_their_defaults(self, tiny_model_folder: Path) -> None:
        def with_n(**settings: Any) -> str:
            decode = {"method": "best_of_n", "judge": "refusal_string_match", **settings}
            return make(tiny_model_folder, decode=decode).hash12

        assert with_n() == with_n(n=4, temperature=1.0)
        assert with_n() != with_n(n=5)

    def test_weights_and_dtype_count(self, tiny_model_folder: Path, tiny_model: Any) -> None:
        plain = make(tiny_model_folder)
        assert make(tiny_model(seed=1)).hash12 != plain.hash12
        assert make(tiny_model_folder, dtype="bfloat16").hash12 != plain.hash12


class TestRefusals:
    """What cannot be done is said, with what and why."""

    def test_unknown_methods(self, tiny_model_folder: Path) -> None:
        with pytest.raises(ConfigError, match="did you mean 'decode/best_of_n'"):
            make(tiny_model_folder, decode="best_of_m").open()
        with pytest.raises(ConfigError, match="guard"):
            make(tiny_model_folder, guards=["nobody"]).open()

    def test_settings_of_a_method(self, tiny_model_folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"did you mean 'n'|unknown key 'm'"):
            make(
                tiny_model_folder,
                decode={"method": "best_of_n", "judge": "refusal_string_match", "m": 3},
            ).open()

    def test_sampling_overrides(self, system: System) -> None:
        with pytest.raises(ConfigError, match="temperature"):
            system.submit("Hi", sampling={"temperature": -1})
        with pytest.raises(ConfigError, match="did you mean 'top_k'"):
            system.submit("Hi", sampling={"topk": 3})

    def test_a_prompt_longer_than_the_context(self, tiny_model: Any) -> None:
        """One message, and not the tokenizer's own warning of indexing errors beside it."""
        said: list[logging.LogRecord] = []
        listener = logging.Handler()
        listener.emit = said.append  # type: ignore[method-assign]
        logging.getLogger("transformers").addHandler(listener)
        try:
            with pytest.raises(ContextLengthError, match="context"):
                make(tiny_model(seed=11)).submit("word " * 600)
        finally:
            logging.getLogger("transformers").removeHandler(listener)
        assert not [record for record in said if "longer" in record.getMessage()]

    def test_a_model_without_a_chat_template(self, tiny_model: Any) -> None:
        folder = tiny_model()
        for file in folder.glob("*.jinja"):
            file.unlink()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config.pop("chat_template", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="no chat template"):
            make(folder).submit("Hi")

    def test_a_model_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no such file or folder"):
            make(tmp_path / "gone").open()

    def test_images(self, system: System) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
        with pytest.raises(UnsupportedError, match="images"):
            system.submit([{"role": "user", "content": [image]}])

    def test_tools_that_the_template_would_leave_out(self, system: System) -> None:
        with pytest.raises(UnsupportedError, match="does not show tools"):
            system.submit("Hi", tools=[TOOL])
        with pytest.raises(UnsupportedError, match="cannot force"):
            system.submit("Hi", tools=[TOOL], tool_choice="required")

    def test_an_engine_that_lacks_what_a_system_needs(self) -> None:
        limited = System.load({"model": "inspect:mockllm/model", "sampling": {"top_k": 3}})
        with pytest.raises(UnsupportedError, match="does not honour 'top_k'"):
            limited.open()

    def test_log_likelihoods_of_a_system_with_a_decoding_method(self, tiny_model_folder: Path) -> None:
        chooser = make(tiny_model_folder, decode={"method": "best_of_n", "judge": "refusal_string_match"})
        with pytest.raises(UnsupportedError, match="the bare model's"):
            anyio.run(chooser.log_likelihoods, "One two", [" three"])


def test_log_likelihoods_are_the_models_own(system: System, tiny_model_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    got = anyio.run(system.log_likelihoods, "The capital of France is", [" Paris", " honest and kind"])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    prefix = tokenizer("The capital of France is")["input_ids"]
    for value, text in zip(got, [" Paris", " honest and kind"], strict=True):
        whole = tokenizer("The capital of France is" + text)["input_ids"]
        with torch.inference_mode():
            logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = sum(float(logits[i - 1, whole[i]]) for i in range(len(prefix), len(whole)))
        assert value == pytest.approx(expected, abs=1e-3)


def test_best_of_n_runs_on_the_engine_and_leaves_its_trace(tiny_model_folder: Path) -> None:
    chooser = make(
        tiny_model_folder,
        decode={"method": "best_of_n", "n": 3, "judge": "refusal_string_match"},
        max_tokens=8,
    )
    answer = chooser.answer_sync("Hello", seed=3)
    assert answer.usage.judge_calls == 3
    assert answer.trace[0]["n"] == 3
    assert [judge.name for judge in chooser.judges] == ["refusal_string_match"]
    assert answer.usage.forward_tokens > 8


def reasoning_system(tiny_model: Any, prompt_end: str = "") -> System:
    """A tiny model whose markers are the two brackets."""
    folder = tiny_model()
    template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: " + prompt_end + "' }}{% endif %}"
    )
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = template
    for file in folder.glob("*.jinja"):
        file.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return System.load({"model": str(folder), "reasoning": {"start": "(", "end": ")"}, "max_tokens": 200})


def test_reasoning_is_separated_and_counted_in_tokens(tiny_model: Any) -> None:
    system = reasoning_system(tiny_model)
    tokenizer = _tokenizer(system)
    # The answer is made of these five tokens only, so that one character is one token.
    bias = {tokenizer(piece)["input_ids"][0]: 100.0 for piece in "()abc"}
    options = {"sampling": {"temperature": 10.0, "top_k": 5, "logit_bias": bias}, "max_tokens": 60}
    for seed in range(5):
        answer = system.answer_sync("Hi", seed=seed, **options)
        text, thought, count = "", "", 0
        raw = answer.continuation.text
        inside = raw.find(")") < raw.find("(")  # a text whose first marker is an end began inside a block
        for character in raw:
            inside = inside or character == "("
            count += inside
            if inside and character not in "()":
                thought += character
            elif not inside:
                text += character
            inside = inside and character != ")"
        assert set(raw) <= set("()abc")
        assert answer.text == text
        assert answer.reasoning is not None
        assert answer.reasoning.replace("\n", "").replace("(", "") == thought
        assert answer.reasoning_tokens == count


def _tokenizer(system: System) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(system.spec.model)


def test_a_prompt_that_opens_the_block_makes_the_answer_begin_inside_it(tiny_model: Any) -> None:
    system = reasoning_system(tiny_model, prompt_end="(")
    tokenizer = _tokenizer(system)
    never = {tokenizer(piece)["input_ids"][0]: -100.0 for piece in ("(", ")")}
    answer = system.answer_sync("Hi", seed=2, max_tokens=20, sampling={"logit_bias": never})
    assert answer.text == ""
    assert answer.reasoning
    assert answer.reasoning_tokens == answer.usage.completion_tokens


BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
def test_two_hundred_requests_at_once_need_no_two_hundred_threads(system: System, backend: str) -> None:
    import threading

    answers: dict[int, str] = {}
    most = 0

    async def ask(number: int) -> None:
        nonlocal most
        answer = await system.answer(
            f"Question {number % 7}", seed=number, max_tokens=4, sampling={"temperature": 1.0}
        )
        answers[number] = answer.text
        most = max(most, threading.active_count())

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(ask, number)

    anyio.run(main, backend=backend)
    assert len(answers) == 200
    assert len(set(answers.values())) > 50
    assert most < 80
    alone = system.answer_sync("Question 3", seed=10, max_tokens=4, sampling={"temperature": 1.0})
    assert alone.text == answers[10]


@BACKENDS
def test_cancelling_frees_the_slot(system: System, backend: str) -> None:
    begun: list[str] = []

    async def main() -> None:
        never_ends = {2: -100.0}  # the end-of-sequence token
        with anyio.move_on_after(20) as scope:
            async with anyio.create_task_group() as group:
                for number in range(8):

                    async def ask(number: int = number) -> None:
                        await system.answer(
                            "Hi",
                            seed=number,
                            max_tokens=450,
                            sampling={"temperature": 1.0, "logit_bias": never_ends},
                            on_text=begun.append,
                        )

                    group.start_soon(ask)
                while len(begun) < 20:
                    await anyio.sleep(0.005)
                scope.cancel()

    anyio.run(main, backend=backend)
    count = len(begun)
    deadline = time.monotonic() + 5
    while system.engine._live and time.monotonic() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.01)
    assert system.engine._live == 0  # type: ignore[attr-defined]
    time.sleep(0.3)  # the step that was under way may still end
    settled = len(begun)
    time.sleep(0.1)
    assert len(begun) == settled, "a cancelled request still gives text"
    assert count < 8 * 450
    assert system.answer_sync("Hi", max_tokens=3).usage.completion_tokens <= 3


def test_a_cancelled_handle_raises_where_it_is_waited_for(system: System) -> None:
    from concurrent.futures import CancelledError

    pending = system.submit("Hi", max_tokens=450, sampling={"logit_bias": {2: -100.0}})
    pending.handle.cancel()
    with pytest.raises(CancelledError):
        pending.answer(timeout=5)
