"""Emulated fine-tuning through the engine: the checks of the paper's card, batches, hooks, costs, systems."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trivet.decode.eft import Config, program
from trivet.errors import ContextLengthError, UnsupportedError
from trivet.models.engine import Completion, GateDecision, Hooks, Request
from trivet.models.names import resolve_model
from trivet.models.operations import Extend, ProgramContext, Sampling
from trivet.models.torch_engine import TorchEngine

NEVER_STOP = Sampling(logit_bias=((2, -1e9),))
PROMPTS = ("Hello", "What is the capital of France?", "x " * 40, "Say yes.")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> dict[str, Path]:
    """A large model, a base and two tuned models, all near one another, so that drafts are accepted often."""
    home = tmp_path_factory.mktemp("eft")
    found = {"base": tiny_model_folder}
    for seed, name in enumerate(("", "tuned.kind", "tuned.true")):
        model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        found[name] = Path(shutil.copytree(tiny_model_folder, home / str(seed)))
        model.save_pretrained(found[name])
    return found


def open_engine(folders: dict[str, Path], **settings: Any) -> TorchEngine:
    beside = {name: resolve_model(str(folder)) for name, folder in folders.items() if name}
    return TorchEngine(resolve_model(str(folders[""])), auxiliary=beside, **settings)


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> Iterator[TorchEngine]:
    engine = open_engine(folders)
    yield engine
    engine.close()


def config(**settings: Any) -> Config:
    return Config.model_validate({"base": "r", "tuned": {"kind": "t"}, **settings})


def submit(engine: TorchEngine, prompt: str = "Hello", eft: Config | None = None, **settings: Any) -> Any:
    chosen = eft or config()
    defaults: dict[str, Any] = {"seed": 0, "max_tokens": 24, "sampling": NEVER_STOP}
    chat = [{"role": "user", "content": prompt}]
    return engine.submit(Request(chat, lambda context: program(chosen, context), **(defaults | settings)))


def ask(engine: TorchEngine, prompt: str = "Hello", eft: Config | None = None, **settings: Any) -> Completion:
    completion: Completion = submit(engine, prompt, eft, **settings).result(120)
    return completion


def plainly(engine: TorchEngine, prompt: str, sampling: Sampling = NEVER_STOP, **settings: Any) -> Completion:
    def plain(context: ProgramContext) -> Any:
        yield Extend(context.prompt, context.max_tokens, sampling=context.sampling, commit=True)

    chat = [{"role": "user", "content": prompt}]
    values = {"seed": 0, "max_tokens": 24, **settings}
    return engine.submit(Request(chat, plain, sampling=sampling, **values)).result(60)


def reference(folders: dict[str, Path], prompt: Any, count: int, weights: dict[str, float]) -> list[int]:
    """Greedy tokens of large + Σ weight (tuned − base), from whole passes of plain transformers."""
    models = {name: AutoModelForCausalLM.from_pretrained(folder).eval() for name, folder in folders.items()}
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            rows = {name: m(torch.tensor([tokens])).logits[0, -1].double() for name, m in models.items()}
        mixed = rows[""] + sum(weight * (rows[name] - rows["base"]) for name, weight in weights.items())
        mixed[2] = -torch.inf
        tokens.append(int(mixed.argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, {"tuned.kind": 1.0}),
        ({"beta": 2.5}, {"tuned.kind": 2.5}),
        (
            {"tuned": {"kind": "t", "true": "u"}, "weights": {"kind": 0.25, "true": 0.75}},
            {"tuned.kind": 0.25, "tuned.true": 0.75},
        ),
    ],
)
def test_greedy_tokens_are_those_of_whole_passes(
    engine: TorchEngine, folders: dict[str, Path], settings: dict[str, Any], weights: dict[str, float]
) -> None:
    for draft in (0, 3):
        answer = ask(engine, eft=config(**settings, draft_tokens=draft))
        prompt = engine.render([{"role": "user", "content": "Hello"}])
        assert list(answer.continuation.tokens) == reference(folders, prompt, 24, weights)


@pytest.mark.parametrize("sampling", [NEVER_STOP, Sampling(temperature=0.8, top_p=0.95)])
def test_beta_0_is_the_large_model_and_runs_no_other(engine: TorchEngine, sampling: Sampling) -> None:
    for prompt in PROMPTS[:3]:
        ours = ask(engine, prompt, config(beta=0.0), sampling=sampling)
        assert set(ours.trace[0]["passes"]) == {"model"}
        if sampling is NEVER_STOP:
            theirs = plainly(engine, prompt)
            assert ours.continuation.tokens == theirs.continuation.tokens
            drafted = ask(engine, prompt, config(beta=0.0, draft_tokens=3))  # by the base
            assert drafted.continuation.tokens == theirs.continuation.tokens
            assert ours.text == theirs.text and ours.stop_reason == theirs.stop_reason
            np.testing.assert_allclose(ours.continuation.logprobs, theirs.continuation.logprobs, atol=1e-4)


def test_a_tuned_model_that_is_the_base_changes_nothing(folders: dict[str, Path]) -> None:
    engine = open_engine({"": folders[""], "base": folders["base"], "tuned.kind": folders["base"]})
    for prompt in PROMPTS[:2]:
        ours = ask(engine, prompt, config(beta=1.7))
        assert ours.continuation.tokens == plainly(engine, prompt).continuation.tokens
    assert ours.trace[0]["passes"] == {"model": 24} and ours.trace[0]["same"] == {"tuned.kind": "base"}
    engine.close()


def test_bases_of_the_same_weights_give_the_tuned_model_for_one_pass(folders: dict[str, Path]) -> None:
    engine = open_engine({"": folders["base"], "base": folders["base"], "tuned.kind": folders["tuned.kind"]})
    tuned = open_engine({"": folders["tuned.kind"]})
    for prompt in PROMPTS[:2]:
        ours, theirs = ask(engine, prompt), plainly(tuned, prompt)
        assert ours.continuation.tokens == theirs.continuation.tokens
        assert ours.usage.forward_tokens + ours.usage.cached_tokens == ours.usage.prompt_tokens + 23
    assert set(ours.trace[0]["passes"]) == {"tuned.kind"}
    engine.close()
    tuned.close()


@pytest.mark.parametrize(
    ("draft", "settings"), [(1, {}), (2, {"beta": 1.5}), (3, {"upscaling_top_p": 0.8}), (5, {})]
)
def test_speculation_gives_the_greedy_answer(
    engine: TorchEngine, draft: int, settings: dict[str, Any]
) -> None:
    for prompt in PROMPTS[:2]:
        plain = ask(engine, prompt, config(**settings))
        fast = ask(engine, prompt, config(**settings, draft_tokens=draft))
        assert plain.continuation.tokens == fast.continuation.tokens
        np.testing.assert_allclose(plain.continuation.logprobs, fast.continuation.logprobs, atol=1e-3)


def test_answers_do_not_depend_on_the_batch(engine: TorchEngine) -> None:
    cases = [
        (prompt, config(draft_tokens=draft), {"sampling": sampling, "seed": seed, "max_tokens": 9 + 5 * seed})
        for seed, prompt in enumerate(PROMPTS)
        for draft in (0, 3)
        for sampling in (NEVER_STOP, Sampling(temperature=1.0, top_p=0.95))
    ]
    alone = [ask(engine, prompt, eft, **settings) for prompt, eft, settings in cases]
    handles = [submit(engine, prompt, eft, **settings) for prompt, eft, settings in cases]
    others = [submit(engine, "y " * index, config(beta=2.0)) for index in range(5)]
    together = [handle.result(120) for handle in handles]
    assert [answer.continuation.tokens for answer in together] == [one.continuation.tokens for one in alone]
    assert all(other.result(120).text for other in others)


def test_nothing_is_computed_twice(folders: dict[str, Path]) -> None:
    """Plain: prompt and answer once a model. Speculation: drafts of the small model, blocks of the others."""
    for draft in (0, 3):
        engine = open_engine(folders)
        answer = ask(engine, PROMPTS[1], config(draft_tokens=draft), max_tokens=30)
        prompt, note = answer.usage.prompt_tokens, answer.trace[0]
        passes = note["passes"]
        if draft == 0:
            assert passes == dict.fromkeys(("model", "base", "tuned.kind"), 30)
            assert answer.usage.forward_tokens == 3 * (prompt + 29)
        else:
            # Each model reads the prompt, then one token a pass; a check reads its drafts as well.
            checks = 2 * (prompt - 1 + passes["model"] + note["drafted"])
            assert answer.usage.forward_tokens == prompt - 1 + passes["tuned.kind"] + checks
            assert note["proposed"] >= note["accepted"] > 0
        engine.close()


def test_the_trace_says_what_was_mixed(engine: TorchEngine) -> None:
    answer = ask(engine, eft=config(draft_tokens=3, beta=1.5), max_tokens=80)
    [note] = answer.trace
    json.dumps(note, allow_nan=False)
    assert note["weights"] == {"kind": 1.0} and note["beta"] == 1.5
    assert note["acceptance_rate"] == note["accepted"] / note["proposed"]
    assert note["tokens_per_large_pass"] == 80 / note["passes"]["model"] > 1
    assert note["mean_shift"] > 0 and len(note["steps"]) == 64
    step = note["steps"][0]
    assert set(step) == {"text", "logprob", "large", "shift", "drafted"} and set(step["shift"]) == {"kind"}


def test_transforms_see_the_mixture_and_gates_stop_it(engine: TorchEngine) -> None:
    allowed = (60, 70, 80, 90)

    class Only:
        def __call__(self, tokens: Any, prompt_length: int, logits: torch.Tensor) -> torch.Tensor:
            seen.append(float(logits.logsumexp(-1)))
            kept = torch.full_like(logits, -torch.inf)
            kept[list(allowed)] = logits[list(allowed)]
            return kept

    class Shut:
        def __call__(self, chat: Any, text: str, final: bool) -> GateDecision:
            return GateDecision(release=min(len(text), 4), stop=len(text) > 4, replacement="…")

    seen: list[float] = []
    for draft in (0, 3):
        answer = ask(engine, eft=config(draft_tokens=draft), hooks=Hooks(logits=(Only(),)))
        assert set(answer.continuation.tokens) <= set(allowed) and len(answer.continuation.tokens) == 24
        np.testing.assert_allclose(seen, 0, atol=1e-4)  # a distribution, not one model's logits
        blocked = ask(engine, eft=config(draft_tokens=draft), hooks=Hooks(gates=(Shut(),)))
        assert blocked.stop_reason == "blocked" and blocked.text.endswith("…")
        assert blocked.trace[0]["tokens"] < 24


def test_an_answer_ends_as_with_the_engines_own_sampling(engine: TorchEngine) -> None:
    whole = plainly(engine, "Hello", max_tokens=40)
    stop = whole.text[5:12]
    for draft in (0, 3):
        eft = config(beta=1e-9, draft_tokens=draft)  # the large model's distribution, with all models run
        assert ask(engine, eft=eft, max_tokens=40).text == whole.text
        cut = ask(engine, eft=eft, max_tokens=40, stop=(stop, "never"))
        assert (cut.text, cut.stop_reason) == (whole.text[: whole.text.index(stop)], "stop_string")
        ended = ask(engine, eft=eft, sampling=Sampling(logit_bias=((2, 1e9),)))
        assert (ended.text, ended.stop_reason, len(ended.continuation.logprobs)) == ("", "stop", 1)
        for most in (1, 2):
            assert len(ask(engine, eft=eft, max_tokens=most).continuation.tokens) == most
        full = ask(engine, "x " * 235, eft, max_tokens=1000)
        theirs = plainly(engine, "x " * 235, max_tokens=1000)
        assert (full.stop_reason, full.continuation.tokens) == ("context", theirs.continuation.tokens)
        pieces: list[str] = []
        shown = ask(engine, eft=eft, on_text=pieces.append, top_logprobs=3)
        assert "".join(pieces) == shown.text and len(pieces) > 3
        assert [len(row) for row in shown.continuation.top_logprobs] == [3] * 24


def test_a_small_models_shorter_context_ends_the_answer(folders: dict[str, Path], tmp_path: Path) -> None:
    short = Path(shutil.copytree(folders["base"], tmp_path / "short"))
    content = json.loads((short / "config.json").read_text()) | {"max_position_embeddings": 40}
    (short / "config.json").write_text(json.dumps(content))
    engine = open_engine({"": folders[""], "base": short, "tuned.kind": folders["tuned.kind"]})
    for draft in (0, 3):
        answer = ask(engine, eft=config(draft_tokens=draft), max_tokens=100)
        assert answer.stop_reason == "context"
        assert answer.usage.prompt_tokens + len(answer.continuation.tokens) == 41
    with pytest.raises(ContextLengthError, match="context of 40"):
        ask(engine, "x " * 60)
    engine.close()


def test_models_may_read_different_templates(engine: TorchEngine, folders: dict[str, Path]) -> None:
    template = "{% for message in messages %}Q: {{ message['content'] }}\nA:{% endfor %}"
    eft = config(templates={"base": template, "kind": template})
    ours = [ask(engine, "Hello there", eft.model_copy(update={"draft_tokens": k})) for k in (0, 3)]
    assert ours[0].continuation.tokens == ours[1].continuation.tokens
    assert ours[0].continuation.tokens != ask(engine, "Hello there").continuation.tokens
    models = {name: AutoModelForCausalLM.from_pretrained(folders[name]).eval() for name in folders}
    own = engine.render([{"role": "user", "content": "Hello there"}])
    other = engine._own.encode("Q: Hello there\nA:")
    answer: list[int] = []
    for _ in range(12):
        with torch.no_grad():
            large, base, tuned = (
                models[name](torch.tensor([[*prompt, *answer]])).logits[0, -1].double()
                for name, prompt in (("", own), ("base", other), ("tuned.kind", other))
            )
        mixed = large + tuned - base
        mixed[2] = -torch.inf
        answer.append(int(mixed.argmax()))
    assert list(ours[0].continuation.tokens[:12]) == answer


def test_models_that_are_not_loaded_are_named(engine: TorchEngine) -> None:
    with pytest.raises(UnsupportedError, match=r"no model 'tuned\.new' is loaded"):
        ask(engine, eft=config(tuned={"new": "n"}))


def test_a_system_names_its_models(folders: dict[str, Path], tmp_path: Path) -> None:
    from trivet.systems import System

    for name, folder in folders.items():
        shutil.copytree(folder, tmp_path / (name or "large"))
    (tmp_path / "system.yaml").write_text(
        "model: large\nmax_tokens: 6\n"
        "decode: {method: eft, base: base, tuned: {kind: tuned.kind}, draft_tokens: 2}\n"
    )
    system = System.load(tmp_path / "system.yaml")
    answer = system.answer_sync("Hello")
    assert answer.trace[0]["weights"] == {"kind": 1.0}
    assert str(tmp_path) not in json.dumps(system._content())
    again = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, again, ignore=shutil.ignore_patterns("elsewhere"))
    assert System.load(again / "system.yaml").hash12 == system.hash12
    shutil.rmtree(again / "tuned.kind")
    shutil.copytree(folders["tuned.true"], again / "tuned.kind")
    assert System.load(again / "system.yaml").hash12 != system.hash12
    system.engine.close()


@pytest.mark.model
def test_the_example_mixes_two_experts_of_the_embedded_model(embedded_model: str) -> None:
    """Against PEFT's own adapters in plain transformers, with whole passes."""
    peft = pytest.importorskip("peft")
    from trivet.models import embedded
    from trivet.systems import System

    examples = Path(__file__).parents[2] / "examples"
    system = System.load(examples / "systems" / "eft.yaml")
    question = "Which city is the capital of France?"
    answer = system.answer_sync(question, max_tokens=8)
    assert answer.trace[0]["passes"].keys() == {"tuned.helpful", "tuned.harmless"}
    base = AutoModelForCausalLM.from_pretrained(embedded.folder(), dtype=torch.float32)
    experts = examples / "merge" / "experts"
    model = peft.PeftModel.from_pretrained(base, experts / "helpful", adapter_name="helpful")
    model.load_adapter(experts / "harmless", adapter_name="harmless")
    tokens = list(system.engine.render(system.chat(question)))
    count = len(tokens)
    for token in answer.continuation.tokens:
        mixed = torch.zeros(())
        for name, weight in (("helpful", 0.6), ("harmless", 0.4)):
            model.set_adapter(name)
            with torch.no_grad():
                mixed = mixed + weight * model.eval()(torch.tensor([tokens])).logits[0, -1]
        best = mixed.topk(2)
        if best.values[0] - best.values[1] > 1e-3:
            assert token == int(best.indices[0])
        tokens.append(token)
    assert len(tokens) > count + 3
    system.engine.close()
