"""Several models in one engine: positions, slots that are kept, equal models, vocabularies, adapters."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trivet.errors import ContextLengthError, EngineError, ModelError
from trivet.models.engine import Hooks, Request
from trivet.models.names import resolve_model
from trivet.models.operations import Extend, Next, ProgramContext, Sampling, Several
from trivet.models.torch_engine import TorchEngine

CHAT = [{"role": "user", "content": "What is the capital of France?"}]


def ask(engine: TorchEngine, steps: Callable[[ProgramContext], Any], **settings: Any) -> Any:
    """Run a generator function as a program; what it returns, and what it cost."""
    box = []

    def program(context: ProgramContext) -> Any:
        box.append((yield from steps(context)))

    usage = engine.submit(Request(CHAT, program, 0, 24, **settings)).result(60).usage
    return box[0], usage


@pytest.fixture(scope="module")
def other_folder(tiny_model: Any) -> Path:
    return Path(tiny_model("llama", seed=5))


@pytest.fixture
def engine(tiny_model_folder: Path, other_folder: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(
        resolve_model(str(tiny_model_folder)),
        auxiliary={"other": resolve_model(str(other_folder)), "twin": resolve_model(str(tiny_model_folder))},
    )
    yield engine
    engine.close()


def expected(folder: Path, tokens: Any, last: int) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, -last:].log_softmax(-1).numpy()


def test_the_last_positions_come_from_one_pass(
    engine: TorchEngine, tiny_model_folder: Path, other_folder: Path
) -> None:
    prompt = engine.render(CHAT)

    def steps(context: ProgramContext) -> Any:
        return (yield Next(prompt, ("", "other"), last=5))

    (own, aside), usage = ask(engine, steps)
    np.testing.assert_allclose(own, expected(tiny_model_folder, prompt, 5), atol=1e-3)
    np.testing.assert_allclose(aside, expected(other_folder, prompt, 5), atol=1e-3)
    assert usage.forward_tokens == 2 * len(prompt)
    with pytest.raises(EngineError, match="last must be 1 to"):
        ask(engine, lambda c: (yield Next(prompt, last=len(prompt) + 1)))
    with pytest.raises(EngineError, match="last must be 1 to"):
        ask(engine, lambda c: (yield Next(prompt, last=0)))


def test_a_long_prompt_in_stretches_gives_all_its_positions(
    engine: TorchEngine, tiny_model_folder: Path
) -> None:
    tokens = tuple(int(token) for token in np.random.default_rng(0).integers(3, 300, 500))

    def steps(context: ProgramContext) -> Any:
        return (yield Next(tokens, last=480))

    busy = engine.submit(Request(CHAT, _endless, 0, 300))
    ([found], _) = ask(engine, steps)
    np.testing.assert_allclose(found, expected(tiny_model_folder, tokens, 480), atol=2e-3)
    busy.cancel()


def _endless(context: ProgramContext) -> Any:
    yield Extend(context.prompt, context.max_tokens, sampling=Sampling(logit_bias=((2, -1e9),)))


def test_going_on_and_going_back_compute_nothing_twice(engine: TorchEngine, other_folder: Path) -> None:
    """Check 9: after a rewind the distributions are those of a fresh pass."""
    prompt = engine.render(CHAT)

    def steps(context: ProgramContext) -> Any:
        found = {}
        for tokens in ((), (5,), (5, 6), (5, 6, 7, 8), (5, 9), (5, 9, 4), (5, 6, 7, 3)):
            [found[tokens]] = yield Next((*prompt, *tokens), ("other",))
        return found

    found, usage = ask(engine, steps)
    for tokens, row in found.items():
        np.testing.assert_allclose(row, expected(other_folder, (*prompt, *tokens), 1)[0], atol=1e-3)
    # 5, 6, 7 8, 9, 4, and 3 once; what was given up for 9 was in the tree when 3 came.
    assert usage.forward_tokens == len(prompt) + 1 + 1 + 2 + 1 + 1 + 1


def test_deterministic_programs_go_on_in_their_slots(tiny_model_folder: Path) -> None:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)), deterministic=True)

    def steps(context: ProgramContext) -> Any:
        for length in range(10):
            yield Next((*context.prompt, *range(3, 3 + length)))

    _, usage = ask(engine, steps)
    assert usage.forward_tokens == usage.prompt_tokens + 9
    engine.close()


def test_branches_side_by_side_share_what_was_kept(engine: TorchEngine) -> None:
    def steps(context: ProgramContext) -> Any:
        yield Next((*context.prompt, 5, 6, 7))
        found = yield Several(tuple(Next((*context.prompt, 5, 6, 7, token)) for token in (8, 9, 10)))
        yield Extend((*context.prompt, 5, 6, 7, 9), 4, sampling=Sampling(logit_bias=((2, -1e9),)))
        return found

    _, usage = ask(engine, steps)
    assert usage.forward_tokens == usage.prompt_tokens + 3 + 3 + 4


def test_slots_are_given_back(engine: TorchEngine) -> None:
    def steps(context: ProgramContext) -> Any:
        yield Next(context.prompt, ("", "other"))
        yield Next((*context.prompt, 5), ("other",))

    for _ in range(3):
        ask(engine, steps)

    def failing(context: ProgramContext) -> Any:
        yield Next(context.prompt, ("", "other"))
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        ask(engine, failing)
    ask(engine, steps)
    for runner in engine._runners.values():
        assert all(not any(pool.used) for pool in runner.slots._pools.values())
    assert not engine._scheduler._parking._parked


def test_kept_slots_make_room_where_memory_is_short(tiny_model_folder: Path) -> None:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)))
    slot = engine._runner.slots.nbytes(60)
    object.__setattr__(engine._scheduler._limits, "slot_bytes", int(2.5 * slot))

    def program(context: ProgramContext) -> Any:
        for length in range(12):
            [row] = yield Next((*context.prompt, *range(3, 3 + length)))
            rows.append(row)

    rows: list[Any] = []
    handles = [engine.submit(Request(CHAT, program, 0, 24)) for _ in range(6)]
    assert all(handle.result(60) for handle in handles)
    assert len(rows) == 6 * 12
    engine.close()


def test_equal_models_are_loaded_and_computed_once(engine: TorchEngine) -> None:
    assert set(engine._runners) == {"", "other"}
    assert engine._models["twin"] is engine._models[""]

    def steps(context: ProgramContext) -> Any:
        found = yield Next(context.prompt, ("", "twin"))
        return found, [context.same_as(name) for name in ("", "twin", "other")]

    ((own, twin), names), _ = ask(engine, steps)
    np.testing.assert_allclose(own, twin, atol=1e-4)
    assert names == ["", "", "other"]

    class Push:
        layers = (1,)

        def __call__(self, layer: int, position: int, hidden: torch.Tensor) -> torch.Tensor:
            return hidden + torch.linspace(-1, 1, hidden.shape[1])

    ((own, twin), names), _ = ask(engine, steps, hooks=Hooks(activations=(Push(),)))
    assert np.abs(own - twin).max() > 0.1  # hidden states are edited in the engine's own model alone
    assert names == ["", "twin", "other"]


def test_transforms_are_the_programs_own_where_it_says_so(engine: TorchEngine) -> None:
    class Ban:
        def __call__(self, tokens: Any, prompt_length: int, logits: torch.Tensor) -> torch.Tensor:
            logits[tokens[-1] % 50] = -torch.inf
            return logits

    def steps(context: ProgramContext) -> Any:
        tokens = (*context.prompt, 60, 70)
        [changed] = yield Next(tokens, last=2)
        [plain] = yield Next(tokens, last=2, transformed=False)
        again = context.transform(tokens, torch.from_numpy(plain[-1]))
        return changed, plain, again.log_softmax(-1).numpy()

    (changed, plain, again), _ = ask(engine, steps, hooks=Hooks(logits=(Ban(),)))
    assert (changed[0, 10], changed[1, 20]) == (-np.inf, -np.inf)
    assert np.isfinite(plain).all()
    np.testing.assert_allclose(again, changed[1], atol=1e-5)


# vocabularies and templates


def edited(folder: Path, target: Path, rows: int, added: tuple[str, ...] = ()) -> Path:
    """A copy of a model with ``rows`` rows and further tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(target)
    return target


@pytest.mark.parametrize(("rows", "added"), [(448, ()), (404, ("<a>", "<b>"))])
def test_rows_that_are_not_shared_are_impossible(
    tiny_model_folder: Path, tmp_path: Path, rows: int, added: tuple[str, ...]
) -> None:
    wide = edited(tiny_model_folder, tmp_path / "wide", rows, added)
    tokens = AutoTokenizer.from_pretrained(tiny_model_folder).vocab_size
    for own, other in ((tiny_model_folder, wide), (wide, tiny_model_folder)):
        engine = TorchEngine(resolve_model(str(own)), auxiliary={"other": resolve_model(str(other))})
        ((mine, aside), _) = ask(engine, lambda c: (yield Next(c.prompt, ("", "other"))))
        assert len(mine) == len(aside) == (rows if own == wide else tokens)
        np.testing.assert_allclose(np.exp(aside).sum(), 1, atol=1e-4)
        assert np.isfinite(aside[:tokens]).all() and np.isinf(aside[tokens:]).all()
        np.testing.assert_allclose(
            aside[:tokens], mine[:tokens] - np.log(np.exp(mine[:tokens]).sum()), atol=1e-3
        )
        engine.close()


def test_vocabularies_that_disagree_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    swapped = Path(shutil.copytree(tiny_model_folder, tmp_path / "swapped"))
    file = swapped / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[40:42]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"another vocabulary than .* is token 41 there and 40 here"):
        TorchEngine(resolve_model(str(tiny_model_folder)), auxiliary={"x": resolve_model(str(swapped))})


def test_each_model_reads_its_own_template_and_has_its_own_context(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    short = Path(shutil.copytree(tiny_model_folder, tmp_path / "short"))
    config = json.loads((short / "config.json").read_text()) | {"max_position_embeddings": 32}
    (short / "config.json").write_text(json.dumps(config))
    (short / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    bare = Path(shutil.copytree(short, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    engine = TorchEngine(
        resolve_model(str(tiny_model_folder)),
        auxiliary={"short": resolve_model(str(short)), "bare": resolve_model(str(bare))},
    )

    def steps(context: ProgramContext) -> Any:
        with pytest.raises(ContextLengthError, match="context of 32"):
            yield Next((5,) * 40, ("short",))
        yield Next((5,) * 40, ("",))
        prompts = [context.prompt_of(name, None) for name in ("", "short", "bare")]
        return prompts, context.prompt_of("short", "Q: {{ messages[0]['content'] }}"), context

    ((own, plain, shared), given, context), _ = ask(engine, steps)
    assert own == shared == context.prompt
    assert context.decode(plain) == CHAT[0]["content"] and context.decode(given) == f"Q: {CHAT[0]['content']}"
    with pytest.raises(EngineError, match="no model 'sort' is loaded"):
        context.prompt_of("sort", None)
    engine.close()


def test_an_adapter_is_a_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    adapted.save_pretrained(tmp_path / "adapter")
    reference = resolve_model(str(tmp_path / "adapter"))
    engine = TorchEngine(resolve_model(str(tiny_model_folder)), auxiliary={"tuned": reference})
    prompt = engine.render(CHAT)
    ((own, tuned), _) = ask(engine, lambda c: (yield Next(prompt, ("", "tuned"))))
    with torch.no_grad():
        wanted = adapted.eval()(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).numpy()
    np.testing.assert_allclose(tuned, wanted, atol=1e-3)
    assert np.abs(own - tuned).max() > 0.01
    assert engine.description["auxiliary"]["tuned"] == {"source": str(tmp_path / "adapter")}
    engine.close()
    alone = TorchEngine(reference)
    ([found], _) = ask(alone, lambda c: (yield Next(prompt)))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    alone.close()
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": ["nothing_here"]}))
    with pytest.raises(ModelError, match="cannot be merged into its base"):
        TorchEngine(resolve_model(str(tmp_path / "adapter")))
