"""The PyTorch engine."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import transformers

from trivet._files import sha256_text
from trivet.errors import ContextLengthError, EngineError, UnsupportedError
from trivet.models.capability_check import check_request
from trivet.models.engine import Capabilities, Completion, Handle, Request, Usage
from trivet.models.gated_answer import GatedAnswer
from trivet.models.names import ModelReference
from trivet.models.operations import (
    Chat,
    Commit,
    Continuation,
    Extend,
    Hidden,
    Judge,
    Next,
    Operation,
    ProgramContext,
    Score,
    StopReason,
    Tokens,
)
from trivet.models.torch_engine.loading import LoadedModel, load
from trivet.models.torch_engine.sampling import Draw, draw


class _Handle:
    def __init__(self) -> None:
        self.future: Future[Completion] = Future()
        self.stopping = threading.Event()

    def result(self, timeout: float | None = None) -> Completion:
        return self.future.result(timeout)

    def cancel(self) -> None:
        self.stopping.set()
        self.future.cancel()

    def done(self) -> bool:
        return self.future.done()

    def add_done_callback(self, callback: Callable[[Handle], None]) -> None:
        self.future.add_done_callback(lambda _: callback(self))


class TorchEngine:
    """Runs any decoder model of transformers; see ``trivet.models.engine.Engine``."""

    def __init__(
        self,
        reference: ModelReference,
        *,
        device: str = "auto",
        dtype: str = "auto",
        device_map: Any = None,
        deterministic: bool = False,
    ) -> None:
        assert reference.path is not None
        self._reference = reference
        self._deterministic = deterministic
        self._loaded: LoadedModel = load(
            reference.path, device=device, dtype=dtype, device_map=device_map, where=reference.name
        )
        self._pool = ThreadPoolExecutor(32, thread_name_prefix="trivet-engine")
        self._forward = threading.Lock()

    @property
    def name(self) -> str:
        return self._reference.name

    @property
    def identity(self) -> str:
        return sha256_text(f"torch|{self._reference.identity}|{self._loaded.dtype}")

    @property
    def description(self) -> dict[str, Any]:
        return {
            "engine": "torch",
            "model": self._reference.name,
            "weights": self._reference.identity,
            **{f"source_{key}": value for key, value in self._reference.source.items()},
            "dtype": str(self._loaded.dtype).removeprefix("torch."),
            "device": str(self._loaded.device),
            "deterministic": self._deterministic,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            operations=frozenset({"extend", "extend_prefix", "score", "next", "hidden", "judge", "commit"}),
            hooks=frozenset({"logits", "gate"}),
            sampling=frozenset(
                {
                    "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
                    "presence_penalty", "frequency_penalty", "logit_bias",
                }
            ),
            top_logprobs=100,
            context_length=self._loaded.context_length,
        )

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> Tokens:
        return self._loaded.render(chat, tools)

    def submit(self, request: Request) -> Handle:
        check_request(request, self.capabilities)
        prompt = self._loaded.render(
            request.chat,
            request.tools,
            continue_final_message=request.continue_final_message,
            tool_choice=request.tool_choice,
        )
        if len(prompt) >= self._loaded.context_length:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens, the model's context {self._loaded.context_length}"
            )
        handle = _Handle()
        self._pool.submit(self._run, request, prompt, handle)
        return handle

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, request: Request, prompt: Tokens, handle: _Handle) -> None:
        if not handle.future.set_running_or_notify_cancel():
            return
        try:
            handle.future.set_result(self._drive(request, prompt, handle))
        except BaseException as error:
            handle.future.set_exception(error)

    def _drive(self, request: Request, prompt: Tokens, handle: _Handle) -> Completion:
        started = time.perf_counter()
        answer, usage = GatedAnswer(request), Usage(prompt_tokens=len(prompt))
        context = ProgramContext(
            prompt=prompt, chat=request.chat, max_tokens=request.max_tokens, sampling=request.sampling,
            stop=request.stop, top_logprobs=request.top_logprobs,
            random=np.random.default_rng([request.seed, 1]),
            encode=self._loaded.encode, decode=self._loaded.decode, render=self._loaded.render,
        )
        program = request.program(context)
        result: Any = None
        seeds = np.random.default_rng(request.seed)
        while not answer.blocked:
            if handle.stopping.is_set():
                raise CancelledError
            try:
                operation = program.send(result)
            except StopIteration:
                break
            result = self._perform(request, operation, answer, usage, seeds)
        program.close()
        text, continuation = answer.finish()
        usage.completion_tokens = len(continuation.tokens)
        return Completion(
            text=text, continuation=continuation, stop_reason=continuation.stop_reason, usage=usage,
            seconds=time.perf_counter() - started, trace=tuple(context.trace),
        )

    def _perform(
        self, request: Request, operation: Operation, answer: GatedAnswer, usage: Usage, seeds: Any
    ) -> Any:
        match operation:
            case Extend():
                results = []
                for _ in range(operation.n):
                    with self._forward, torch.inference_mode():
                        results.append(self._extend(request, operation, usage, seeds.spawn(1)[0]))
                if operation.commit:
                    answer.add(results[0])
                return results
            case Score():
                return [self._score(operation.prefix, one, usage) for one in operation.continuations]
            case Next():
                if set(operation.models) != {""}:
                    raise UnsupportedError("no auxiliary model is loaded")
                with self._forward, torch.inference_mode():
                    logits = self._loaded.model(
                        torch.tensor([operation.prefix]), logits_to_keep=1
                    ).logits[0, -1]
                usage.forward_tokens += len(operation.prefix)
                return [logits.float().log_softmax(-1).numpy() for _ in operation.models]
            case Hidden():
                return self._hidden(operation, usage)
            case Judge():
                usage.judge_calls += len(operation.chats)
                return list(operation.judge.score(operation.chats))
            case Commit():
                answer.add(operation.continuation)
                return None

    def _score(self, prefix: Tokens, continuation: Tokens, usage: Usage) -> np.ndarray[Any, Any]:
        tokens = torch.tensor([[*prefix, *continuation]])
        usage.forward_tokens += tokens.shape[1]
        with self._forward, torch.inference_mode():
            logits = self._loaded.model(tokens, logits_to_keep=len(continuation) + 1).logits[0, :-1]
        return np.asarray(logits.float().log_softmax(-1).gather(1, torch.tensor(continuation)[:, None])[:, 0])

    def _hidden(self, operation: Hidden, usage: Usage) -> dict[int, Any]:
        usage.forward_tokens += len(operation.tokens)
        with self._forward, torch.inference_mode():
            states = self._loaded.model(
                torch.tensor([operation.tokens]), output_hidden_states=True, logits_to_keep=1
            ).hidden_states
        chosen = {layer: states[layer][0].float() for layer in operation.layers}
        if operation.positions is None:
            return {layer: state.mean(0, keepdim=True).numpy() for layer, state in chosen.items()}
        return {layer: state[list(operation.positions)].numpy() for layer, state in chosen.items()}

    def _extend(
        self, request: Request, operation: Extend, usage: Usage, random: np.random.Generator
    ) -> Continuation:
        tokens: list[int] = []
        logprobs: list[float] = []
        tops: list[Any] = []
        text, reason = "", "length"
        feed, cache = list(operation.prefix), None
        while len(tokens) < operation.max_tokens:
            if len(operation.prefix) + len(tokens) >= self._loaded.context_length:
                reason = "context"
                break
            output = self._loaded.model(
                torch.tensor([feed]), past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            usage.forward_tokens += len(feed)
            cache = output.past_key_values
            logits = output.logits[0, -1].float()
            for transform in request.hooks.logits:
                logits = transform([*operation.prefix, *tokens], len(operation.prefix), logits)
            row = Draw(operation.sampling, random, operation.prefix, tokens, operation.top_logprobs)
            drawn = draw(logits[None], [row])[0]
            logprobs.append(drawn.logprob)
            tops.append(drawn.top_logprobs)
            if drawn.token in self._loaded.eos:
                reason = "stop"
                break
            tokens.append(drawn.token)
            feed = [drawn.token]
            text = self._loaded.decode(tokens)
            cut = [text.index(stop) for stop in operation.stop if stop in text]
            if cut:
                text, reason = text[: min(cut)], "stop_string"
                break
        final: StopReason = reason  # type: ignore[assignment]
        return Continuation(tuple(tokens), text, tuple(logprobs), final, tuple(tops) if operation.top_logprobs else ())


__all__ = ["EngineError", "TorchEngine"]
