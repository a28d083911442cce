"""An Inspect provider as an engine, on Inspect's own scripted provider."""

import time
from concurrent.futures import CancelledError

import anyio
import pytest
from inspect_ai.model import ModelOutput, ModelUsage

from trivet.errors import ConfigError, UnsupportedError
from trivet.models.engine import Request
from trivet.models.inspect_models import InspectEngine, to_inspect_messages
from trivet.models.operations import Commit, Extend, Sampling


def scripted(answer):
    def respond(messages, tools, tool_choice, config):
        output = ModelOutput.from_content("mockllm/model", answer(messages, config))
        output.usage = ModelUsage(input_tokens=7, output_tokens=3, total_tokens=10)
        return output

    return {"custom_outputs": respond}


@pytest.fixture
def engine():
    made = []

    def build(answer):
        made.append(InspectEngine("mockllm/model", arguments=scripted(answer)))
        return made[-1]

    yield build
    for one in made:
        one.close()


def plain(context):
    yield Extend(context.prompt, context.max_tokens, sampling=context.sampling, commit=True)


def make(program=plain, **settings):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]
    return Request(chat=chat, program=program, **({"seed": 0, "max_tokens": 8} | settings))


def test_the_provider_sees_the_chat_and_the_settings(engine):
    seen = {}

    def answer(messages, config):
        seen.update(roles=[message.role for message in messages], config=config)
        return "The Rhine."

    completion = engine(answer).submit(make(sampling=Sampling(temperature=0.5, top_p=0.9))).result(10)
    assert completion.text == "The Rhine."
    assert seen["roles"] == ["system", "user"]
    assert (seen["config"].max_tokens, seen["config"].temperature, seen["config"].top_p) == (8, 0.5, 0.9)
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 3)


def test_several_continuations(engine):
    def two(context):
        first, second = yield Extend(context.prompt, 4, n=2)
        yield Commit(first if first.text < second.text else second)

    answers = iter(["b", "a"])
    assert engine(lambda messages, config: next(answers)).submit(make(two)).result(10).text == "a"


def test_cancelling_does_not_wait_for_the_provider():
    async def never(messages, tools, tool_choice, config):
        await anyio.sleep(60)

    engine = InspectEngine("mockllm/model", arguments={"custom_outputs": never})
    handle = engine.submit(make())
    time.sleep(0.3)
    started = time.monotonic()
    handle.cancel()
    with pytest.raises(CancelledError):
        handle.result(10)
    engine.close()
    assert time.monotonic() - started < 5


def test_what_no_provider_promises_is_refused(engine):
    one = engine(lambda messages, config: "x")
    with pytest.raises(UnsupportedError, match="min_p"):
        one.submit(make(sampling=Sampling(min_p=0.1)))
    with pytest.raises(UnsupportedError, match="final assistant"):
        one.submit(make(continue_final_message=True))


def test_an_unknown_provider_is_a_configuration_error():
    with pytest.raises(ConfigError, match="inspect:nosuchprovider/x"):
        InspectEngine("nosuchprovider/x")


def test_tool_calls_survive_the_conversion():
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "river"}'}}
    messages = to_inspect_messages(
        [
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "name": "look", "content": "wet"},
        ]
    )
    assert messages[1].tool_calls[0].arguments == {"at": "river"}
    assert messages[2].tool_call_id == "1"
    with pytest.raises(UnsupportedError, match="narrator"):
        to_inspect_messages([{"role": "narrator", "content": "once"}])
