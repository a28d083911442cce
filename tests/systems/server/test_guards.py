"""A stream shows what the gates have released, and nothing before."""

from pathlib import Path
from typing import Any

import openai
import pytest
from tests.systems.server.conftest import NEVER_STOP, Start, user

from trivet.systems import System


@pytest.fixture(scope="module")
def systems(tiny_model_folder: Path, blocks_guard: str) -> list[System]:
    def made(name: str, **settings: Any) -> System:
        guard = {"guard": blocks_guard, "size": 8, **settings}
        return System.load(
            {"model": str(tiny_model_folder), "name": name, "guards": [guard], "max_tokens": 40}
        )

    return [made("held"), made("stopped", blocks=2)]


@pytest.fixture(scope="module")
def client(start: Start, systems: list[System]) -> openai.OpenAI:
    return start(*systems).client()


def test_text_comes_in_the_blocks_that_the_gate_releases(
    client: openai.OpenAI, systems: list[System]
) -> None:
    options: dict[str, Any] = {"model": "held", "messages": user(), "logit_bias": NEVER_STOP}
    shown, ends = "", []
    for chunk in client.chat.completions.create(**options, stream=True):
        shown += chunk.choices[0].delta.content or ""
        ends.append(len(shown))
    assert len(set(ends)) > 3 and all(end % 8 == 0 or end == len(shown) for end in ends)
    expected = systems[0].answer_sync(user(), sampling={"logit_bias": {2: -100.0}})
    assert shown == expected.text
    assert client.chat.completions.create(**options).choices[0].message.content == expected.text


def test_a_blocked_answer_shows_its_replacement_and_no_tokens(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "stopped", "messages": user(), "logit_bias": NEVER_STOP, "logprobs": True, "top_logprobs": 2
    }  # fmt: skip
    plain = client.chat.completions.create(**options).choices[0]
    assert plain.finish_reason == "content_filter"
    assert (plain.message.content or "").endswith("[stopped]")
    assert len(plain.message.content or "") == 16 + len("[stopped]")
    assert plain.logprobs is not None and plain.logprobs.content == []
    shown, reasons = "", set()
    for chunk in client.chat.completions.create(**options, stream=True):
        shown += chunk.choices[0].delta.content or ""
        reasons.add(chunk.choices[0].finish_reason)
        assert not (chunk.choices[0].logprobs and chunk.choices[0].logprobs.content)
    assert shown == plain.message.content and reasons == {None, "content_filter"}


def test_a_trace_could_show_what_is_kept_back(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="guards keep back"):
        client.chat.completions.create(model="held", messages=user(), extra_body={"trivet": {"trace": True}})
