"""A guard of another package rides on a system: its gate decides what is shown."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from inspect_ai.model import ChatMessageUser, GenerateConfig
from tests.conftest import write_method_package

from trivet.catalogue import registry
from trivet.errors import ConfigError, UnsupportedError
from trivet.models.engines import close_engines
from trivet.systems import System
from trivet.systems.inspect_provider import TrivetAPI

GUARD = '''
from trivet._validation import Config as Base
from trivet.catalogue import method
from trivet.models.engine import GateDecision, Hooks


class Config(Base):
    """After how many characters it stops the answer."""

    after: int = 5


@method(needs=("gate",))
def guard(config: Config) -> Hooks:
    """Stop every answer."""

    def gate(chat, text, final):
        if len(text) <= config.after:
            return GateDecision(len(text))
        return GateDecision(config.after, stop=True, replacement=" [stopped]")

    return Hooks(gates=(gate,))
'''


@pytest.fixture(autouse=True)
def _plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write_method_package(tmp_path, "acme_guards", "acme", room="guard", name="stopper", source=GUARD)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.forget()
    yield
    registry.forget()
    close_engines()
    for name in [name for name in sys.modules if name.startswith("acme_guards")]:
        del sys.modules[name]
    registry._registered.pop("guard/acme/stopper", None)


def test_the_gate_decides_what_is_shown(tiny_model_folder: Path) -> None:
    shown: list[str] = []
    system = System.load({"model": str(tiny_model_folder), "guards": [{"guard": "acme/stopper", "after": 3}]})
    answer = system.answer_sync(
        "Hello", max_tokens=30, sampling={"logit_bias": {2: -100.0}}, on_text=shown.append
    )
    assert answer.stop_reason == "blocked"
    assert answer.text.endswith(" [stopped]")
    assert "".join(shown) == answer.text
    assert len(answer.text) <= 3 + len(" [stopped]")
    plain = System.load({"model": str(tiny_model_folder)})
    other = System.load({"model": str(tiny_model_folder), "guards": ["acme/stopper"]})
    assert len({plain.hash12, system.hash12, other.hash12}) == 3


def test_a_log_holds_no_trace_of_a_guarded_system(tiny_model_folder: Path) -> None:
    decode = {"method": "best_of_n", "n": 2, "judge": "refusal_string_match"}
    spec = {"model": str(tiny_model_folder), "decode": decode, "max_tokens": 8}
    for guards in ([], [{"guard": "acme/stopper", "after": 3}]):
        api = TrivetAPI("held", system=System.load({**spec, "guards": guards}))
        output = asyncio.run(api.generate([ChatMessageUser(content="Hello")], [], "none", GenerateConfig()))
        assert output.metadata is not None and bool(output.metadata["trace"]) is not bool(guards)


def test_its_settings_are_checked(tiny_model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'after'"):
        System.load(
            {"model": str(tiny_model_folder), "guards": [{"guard": "acme/stopper", "aftre": 3}]}
        ).open()


def test_log_likelihoods_are_refused_behind_a_guard(tiny_model_folder: Path) -> None:
    import anyio

    system = System.load({"model": str(tiny_model_folder), "guards": ["acme/stopper"]})
    with pytest.raises(UnsupportedError, match="guards"):
        anyio.run(system.log_likelihoods, "One two", [" three"])
