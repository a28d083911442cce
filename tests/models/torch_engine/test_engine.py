"""The PyTorch engine against plain transformers, on tiny random models of several kinds."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trivet.errors import ContextLengthError, EngineError, ModelError, QueueFullError, UnsupportedError
from trivet.judges.base import Verdict
from trivet.models.engine import Request
from trivet.models.names import ModelReference, resolve_model
from trivet.models.operations import (
    Commit,
    Extend,
    Hidden,
    Judge,
    Next,
    ProgramContext,
    Sampling,
    Score,
)
from trivet.models.torch_engine import TorchEngine

KINDS = [
    ("llama", {}),
    ("mistral", {"sliding_window": 7}),
    ("qwen2", {}),
    ("gemma2", {"head_dim": 8, "sliding_window": 9, "query_pre_attn_scalar": 8}),
    ("gpt2", {}),
]
CHAT = [{"role": "user", "content": "What is the capital of France?"}]


def plain(context: ProgramContext) -> Any:
    yield Extend(
        context.prompt,
        context.max_tokens,
        sampling=context.sampling,
        stop=context.stop,
        top_logprobs=context.top_logprobs,
        commit=True,
    )


def request(content: str = "Hello", **settings: Any) -> Request:
    defaults: dict[str, Any] = {"program": plain, "seed": 0, "max_tokens": 24}
    return Request([{"role": "user", "content": content}], **(defaults | settings))


def ask(engine: TorchEngine, steps: Callable[[ProgramContext], Any], **settings: Any) -> Any:
    """Run a generator function as a program and return what it returns."""
    box = []

    def program(context: ProgramContext) -> Any:
        box.append((yield from steps(context)))

    engine.submit(request(program=program, **settings)).result(60)
    return box[0]


@pytest.fixture(scope="module")
def engine(tiny_model_folder: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(tiny_model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()


def greedy(model: Any, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    tokens = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
    )[0, len(prompt) :].tolist()
    return tuple(tokens[:-1] if tokens[-1] == 2 else tokens)


def chosen_state(output: Any, layer: int, position: int) -> Any:
    return output.hidden_states[layer][0][[position]].numpy()


@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=[kind for kind, _ in KINDS])
def test_agrees_with_transformers(tiny_model: Any, kind: str, settings: dict[str, Any]) -> None:
    """Greedy text of 20 prompts of mixed length together; log-probabilities; hidden states."""
    folder = tiny_model(kind, **settings)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    engine = TorchEngine(resolve_model(str(folder)))
    prompts = ["What is the capital? " + "x " * index for index in range(20)]
    handles = [engine.submit(request(prompt)) for prompt in prompts]
    for prompt, handle in zip(prompts, handles):
        tokens = engine.render([{"role": "user", "content": prompt}])
        assert handle.result(60).continuation.tokens == greedy(model, tokens, 24)

    prompt = engine.render(CHAT)
    one, other = prompt[3:9], prompt[5:7]
    scored = ask(engine, lambda c: (yield Score(prompt, (one, other, ()))))
    with torch.no_grad():
        output = model(torch.tensor([[*prompt, *one]]), output_hidden_states=True)
    expected = output.logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    np.testing.assert_allclose(scored[0], expected[range(len(one)), torch.tensor(one)], rtol=1e-4, atol=1e-4)
    assert len(scored[1]) == len(other) and len(scored[2]) == 0
    tokens = (*prompt, *one)
    chosen = ask(engine, lambda c: (yield Hidden(tokens, (0, 1, 2), (0, 4, -1))))
    mean = ask(engine, lambda c: (yield Hidden(tokens, (2,), None)))
    for layer in (0, 1):  # nothing above these is computed, with requests that need all in the batch
        busy = engine.submit(request("Say", max_tokens=8))
        early = ask(engine, lambda c, layer=layer: (yield Hidden(tokens, (layer,), (2,))))  # type: ignore[misc]
        np.testing.assert_allclose(early[layer], chosen_state(output, layer, 2), rtol=1e-3, atol=1e-4)
        assert busy.result(60).continuation.tokens == greedy(
            model, engine.render([{"role": "user", "content": "Say"}]), 8
        )
    following = ask(engine, lambda c: (yield Next(tokens)))
    for layer in (0, 1, 2):
        states = output.hidden_states[layer][0]
        np.testing.assert_allclose(chosen[layer], states[[0, 4, -1]], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(mean[2], output.hidden_states[2][0].mean(0)[None], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(following[0], output.logits[0, -1].log_softmax(-1), rtol=1e-3, atol=1e-3)
    engine.close()


def test_long_prompts_are_fed_in_stretches(engine: TorchEngine, reference: Any) -> None:
    """A prompt longer than a stretch joins while another request decodes."""
    first = engine.submit(request("Hello", max_tokens=200, sampling=Sampling(logit_bias=((2, -1e9),))))
    long = engine.submit(request("word " * 90, max_tokens=30))
    tokens = engine.render([{"role": "user", "content": "word " * 90}])
    assert len(tokens) > 256
    assert long.result(60).continuation.tokens == greedy(reference, tokens, 30)
    assert len(first.result(60).continuation.tokens) == 200


def test_sampling_does_not_depend_on_the_batch(engine: TorchEngine) -> None:
    hot = Sampling(temperature=1.2, top_p=0.95)
    alone = [engine.submit(request("Tell", sampling=hot, seed=seed)).result(60) for seed in range(6)]
    handles = [engine.submit(request("Tell", sampling=hot, seed=seed)) for seed in range(6)]
    handles += [engine.submit(request("x " * seed)) for seed in range(10)]
    together = [handle.result(60) for handle in handles[:6]]
    assert [a.text for a in alone] == [t.text for t in together]
    assert len({a.text for a in alone}) == 6  # the seeds matter


def test_shared_prefixes_are_computed_once(tiny_model_folder: Path) -> None:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)))

    def best_of_four(context: ProgramContext) -> Any:
        found = yield Extend(context.prompt, 8, n=4, sampling=Sampling(1.0, logit_bias=((2, -1e9),)))
        yield Commit(found[0])

    usage = engine.submit(request("What?", program=best_of_four)).result(60).usage
    prompt = usage.prompt_tokens
    # The prompt once; its last token again for each other continuation, to have logits; 7 of 8 tokens each.
    assert usage.forward_tokens == prompt + 3 + 4 * 7
    assert usage.cached_tokens == 3 * (prompt - 1)
    again = engine.submit(request("What?", max_tokens=1)).result(60).usage
    assert (again.forward_tokens, again.cached_tokens) == (1, prompt - 1)
    engine.close()


def test_rewinding_continues_from_what_is_kept(engine: TorchEngine) -> None:
    """Extending an earlier prefix of an answer gives the same tokens, from the KV tree."""

    def steps(context: ProgramContext) -> Any:
        never_stop = Sampling(logit_bias=((2, -1e9),))
        [whole] = yield Extend(context.prompt, 16, sampling=never_stop)
        [tail] = yield Extend((*context.prompt, *whole.tokens[:6]), 10, sampling=never_stop)
        return whole.tokens, tail.tokens

    whole, tail = ask(engine, steps)
    assert whole[6:] == tail


def test_stop_strings_may_span_tokens(engine: TorchEngine) -> None:
    whole = engine.submit(request("Say", max_tokens=40)).result(60).text
    stop = whole[5:12]
    assert len(engine._own.encode(stop)) > 1
    pieces: list[str] = []
    cut = engine.submit(request("Say", max_tokens=40, stop=(stop, "never"), on_text=pieces.append)).result(60)
    assert cut.text == whole[: whole.index(stop)] == "".join(pieces)
    assert cut.stop_reason == "stop_string"


def test_streams_what_it_answers(engine: TorchEngine) -> None:
    for index in range(5):
        pieces: list[str] = []
        answer = engine.submit(
            request("Say " * index, sampling=Sampling(1.5), seed=index, on_text=pieces.append)
        ).result(60)
        assert "".join(pieces) == answer.text
        assert answer.text == engine._own.decode(answer.continuation.tokens)
        assert answer.seconds_to_first_token is not None


def test_log_probabilities_and_alternatives(engine: TorchEngine, reference: Any) -> None:
    answer = engine.submit(request("Say", top_logprobs=3, sampling=Sampling(0.8), seed=4)).result(60)
    tokens, prompt = answer.continuation.tokens, engine.render([{"role": "user", "content": "Say"}])
    with torch.no_grad():
        logprobs = reference(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(-1)
    expected = logprobs[range(len(prompt) - 1, len(prompt) + len(tokens) - 1), tokens]
    np.testing.assert_allclose(answer.continuation.logprobs[: len(tokens)], expected, atol=1e-3)
    assert [len(row) for row in answer.continuation.top_logprobs] == [3] * len(tokens)
    best = logprobs[len(prompt) - 1].topk(3)
    assert [token for token, _ in answer.continuation.top_logprobs[0]] == best.indices.tolist()


def test_the_context_ends_an_answer_and_refuses_a_prompt(engine: TorchEngine) -> None:
    never_stop = Sampling(logit_bias=((2, -1e9),))
    answer = engine.submit(request("w " * 200, max_tokens=10_000, sampling=never_stop)).result(60)
    assert answer.stop_reason == "context"
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens == 512
    with pytest.raises(ContextLengthError, match="512"):
        engine.submit(request("w " * 600))

    def too_long(context: ProgramContext) -> Any:
        try:
            yield Extend(context.prompt * 100, 5)
        except ContextLengthError as error:
            return str(error)

    assert "do not fit" in ask(engine, too_long)


def test_cancelling_frees_the_slot_at_once(engine: TorchEngine) -> None:
    never_stop = Sampling(logit_bias=((2, -1e9),))
    started = threading.Event()
    handle = engine.submit(
        request("Go", max_tokens=450, sampling=never_stop, on_text=lambda piece: started.set())
    )
    assert started.wait(30)
    handle.cancel()
    with pytest.raises(CancelledError):
        handle.result(1)
    engine.submit(request("next", max_tokens=1)).result(60)
    assert not engine._scheduler._active and not engine._scheduler._tasks
    assert all(not any(pool.used) for pool in engine._runner.slots._pools.values())


def test_a_full_queue_refuses(tiny_model_folder: Path) -> None:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)), queue_size=2)
    release = threading.Event()
    handles = [engine.submit(request(on_text=lambda piece: release.wait(30))) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 requests"):
        engine.submit(request())
    release.set()
    for handle in handles:
        handle.result(60)
    engine.submit(request()).result(60)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.submit(request())


def test_one_failing_request_does_not_touch_the_others(engine: TorchEngine) -> None:
    def broken(context: ProgramContext) -> Any:
        yield Extend(context.prompt, 3)
        raise RuntimeError("a mistake in a program")

    def unknown_model(context: ProgramContext) -> Any:
        yield Next(context.prompt, ("nobody",))

    bad = [engine.submit(request(program=broken)), engine.submit(request(program=unknown_model))]
    good = [engine.submit(request(f"Say {index}")) for index in range(3)]
    with pytest.raises(RuntimeError, match="a mistake"):
        bad[0].result(60)
    with pytest.raises(UnsupportedError, match="nobody"):
        bad[1].result(60)
    assert all(handle.result(60).text for handle in good)


def test_judges_run_beside_the_batch_and_may_ask_the_engine(engine: TorchEngine) -> None:
    class Probability:
        def score(self, chats: Any) -> list[Verdict]:
            return [Verdict(float(ask(engine, self._ask(chat)))) for chat in chats]

        def _ask(self, chat: Any) -> Callable[[ProgramContext], Any]:
            def steps(context: ProgramContext) -> Any:
                [row] = yield Score(context.render(chat), (context.encode("yes"),))
                return row.sum()

            return steps

    def steps(context: ProgramContext) -> Any:
        return (yield Judge(Probability(), (CHAT, CHAT)))

    first, second = ask(engine, steps)
    assert first.value == pytest.approx(second.value, abs=1e-4) and first.value < 0


def test_next_of_several_models(tiny_model: Any, tiny_model_folder: Path) -> None:
    other = tiny_model("llama", seed=5)
    engine = TorchEngine(
        resolve_model(str(tiny_model_folder)), auxiliary={"other": resolve_model(str(other))}
    )
    own, aside = ask(engine, lambda c: (yield Next(c.prompt, ("", "other"))))
    prompt = engine.render([{"role": "user", "content": "Hello"}])
    for folder, found in ((tiny_model_folder, own), (other, aside)):
        with torch.no_grad():
            logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([prompt])).logits[0, -1]
        np.testing.assert_allclose(found, logits.log_softmax(-1), atol=1e-3)
    engine.close()


def test_deterministic_answers_are_equal_bit_by_bit(tiny_model_folder: Path) -> None:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)), deterministic=True)
    alone = engine.submit(request("Say")).result(60)
    handles = [engine.submit(request("Say " * index)) for index in range(1, 6)]
    assert handles[0].result(60).continuation == engine.submit(request("Say ")).result(60).continuation
    assert engine.submit(request("Say")).result(60).continuation.logprobs == alone.continuation.logprobs
    engine.close()


def test_works_from_asyncio(engine: TorchEngine) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        futures = []
        for index in range(4):
            future = loop.create_future()
            handle = engine.submit(request(f"Say {index}"))
            handle.add_done_callback(
                lambda done, future=future: loop.call_soon_threadsafe(future.set_result, done.result())
            )
            futures.append(future)
        return [completion.text for completion in await asyncio.gather(*futures)]

    assert len(asyncio.run(main())) == 4


def test_final_message_may_be_continued(engine: TorchEngine) -> None:
    chat = [*CHAT, {"role": "assistant", "content": "The capital is"}]
    answer = engine.submit(Request(chat, plain, 0, 5, continue_final_message=True)).result(60)
    text = engine._own.tokenizer.decode(engine.render(CHAT)) + "The capital is"
    assert answer.usage.prompt_tokens == len(engine._own.encode(text))


def test_a_model_without_a_chat_template_says_so(tiny_model: Any) -> None:
    folder = tiny_model("llama")
    (folder / "chat_template.jinja").unlink()
    engine = TorchEngine(resolve_model(str(folder)))
    with pytest.raises(ModelError, match="no chat template"):
        engine.submit(request())
    engine.close()


def test_models_it_cannot_run_are_refused(tiny_model: Any) -> None:
    folder = tiny_model(
        "bloom", n_layer=2, n_head=4, num_attention_heads=4, intermediate_size=64, num_key_value_heads=2
    )
    with pytest.raises(UnsupportedError):
        TorchEngine(resolve_model(str(folder)))


def test_missing_tensors_are_noticed(tiny_model: Any) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_model("llama")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="up_proj"):
        TorchEngine(resolve_model(str(folder)))


@pytest.mark.parametrize(
    ("settings", "message"), [({"dtype": "int3"}, "unknown dtype"), ({"device": "cuda:77"}, "not there")]
)
def test_wrong_settings(tiny_model_folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TorchEngine(resolve_model(str(tiny_model_folder)), **settings)


def test_bfloat16_runs_and_is_another_identity(tiny_model_folder: Path, engine: TorchEngine) -> None:
    half = TorchEngine(resolve_model(str(tiny_model_folder)), dtype="bfloat16", device_map={"": "cpu"})
    assert half.submit(request()).result(60).text
    assert half.identity != engine.identity
    assert half.description["dtype"] == "bfloat16"
    half.close()


def test_identity_follows_the_weights(tiny_model: Any, tiny_model_folder: Path, engine: TorchEngine) -> None:
    reference = ModelReference("x", "folder", tiny_model_folder)
    assert reference.identity == resolve_model(str(tiny_model_folder)).identity
    assert resolve_model(str(tiny_model("llama", seed=9))).identity != reference.identity


def test_idle_engines_use_no_time(engine: TorchEngine) -> None:
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampling": Sampling(logit_bias=((10**6, 1.0),))}, "outside the vocabulary"),
        ({"sampling": Sampling(logit_bias=((-1, 1.0),))}, "outside the vocabulary"),
        ({"sampling": Sampling(temperature=float("nan"))}, "temperature must be a number"),
        ({"sampling": Sampling(top_p=None)}, "top_p must be a number"),  # type: ignore[arg-type]
        ({"top_logprobs": 10**6}, "top_logprobs must be"),
    ],
)
def test_draws_that_cannot_be_made_fail_alone(
    engine: TorchEngine, settings: dict[str, Any], said: str
) -> None:
    def strange(context: ProgramContext) -> Any:
        yield Extend(context.prompt, 4, **settings)

    others = [engine.submit(request(str(index))) for index in range(4)]
    bad = engine.submit(request(program=strange))
    with pytest.raises(EngineError, match=said):
        bad.result(60)
    assert all(other.result(60).continuation.tokens for other in others)


def test_penalties_count_the_whole_answer_however_it_is_cut(engine: TorchEngine) -> None:
    sampling = Sampling(presence_penalty=2.0, frequency_penalty=1.0, logit_bias=((2, -1e9),))

    def in_parts(context: ProgramContext) -> Any:
        prefix = context.prompt
        for _ in range(4):
            (part,) = yield Extend(prefix, 6, sampling=sampling, commit=True)
            prefix += part.tokens

    whole = engine.submit(request(sampling=sampling)).result(60).continuation.tokens
    assert engine.submit(request(program=in_parts)).result(60).continuation.tokens == whole
    assert len(whole) == 24


def test_the_first_token_is_the_answers_own(engine: TorchEngine) -> None:
    def choose(context: ProgramContext) -> Any:
        candidates = yield Extend(context.prompt, 24, n=4, sampling=Sampling(temperature=1.0))
        time.sleep(0.05)
        yield Commit(candidates[0])

    streamed = engine.submit(request()).result(60)
    chosen = engine.submit(request(program=choose)).result(60)
    assert streamed.seconds_to_first_token < streamed.seconds
    assert chosen.seconds_to_first_token >= 0.05


def test_a_judge_that_is_cancelled_ends_the_request(engine: TorchEngine) -> None:
    class Cancelled:
        def score(self, chats: Any) -> Any:
            raise asyncio.CancelledError

    def program(context: ProgramContext) -> Any:
        yield Judge(Cancelled(), ([*context.chat],))

    with pytest.raises(asyncio.CancelledError):
        engine.submit(request(program=program)).result(20)


def test_closing_leaves_nobody_waiting_and_frees_the_weights(tiny_model_folder: Path) -> None:
    engine = TorchEngine(resolve_model(str(tiny_model_folder)))
    weights = weakref.ref(engine._own.model)
    handles: list[Any] = []

    def flood() -> None:
        while True:
            try:
                handles.append(engine.submit(request(max_tokens=400)))
            except EngineError:
                return

    threads = [threading.Thread(target=flood) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(handles) < 20:
        time.sleep(0.001)
    engine.close()
    for thread in threads:
        thread.join(20)
    for handle in handles:
        with suppress(CancelledError):
            handle.result(20)
    with pytest.raises(EngineError, match="is closed"):
        engine.render(CHAT)
    assert engine.capabilities.context_length == 512
    assert engine.description["engine"] == "torch"
    del handle, handles[:]
    gc.collect()
    assert weights() is None
