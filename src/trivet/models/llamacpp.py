"""llama.cpp as an engine, through the wheel ``xllamacpp`` (no compiler needed).

Quantised weights and activations make this a different system from the same weights in fp32, which is why
its identity names it and a study never swaps one for the other silently. llama.cpp batches by itself; each
request in flight holds one of its slots, and its prompt cache keeps shared prefixes.

What it does faithfully: continue any token prefix, with its samplers put into our order (penalties, bias,
temperature, top_k, top_p, min_p). Log-probabilities are of the model's own distribution. What it does not
offer is refused: full next-token distributions, scores of given tokens, hidden states, logits transforms.
"""

import os
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from trivet._files import sha256_text
from trivet.errors import ContextLengthError, EngineError, ModelError, UnsupportedError
from trivet.models.engine import Capabilities, Handle, Request, Usage
from trivet.models.operations import Chat, Continuation, Extend, StopReason, Tokens
from trivet.models.threaded import ThreadedScheduler

_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]


class LlamaCppEngine:
    """Runs a GGUF file with llama.cpp.

    Args:
        path: the GGUF file.
        name: the model's name as the user gave it.
        weights_identity: hexadecimal SHA-256 of the file.
        context_length: tokens a request may hold, prompt and answer together.
        slots: requests that run at once.
        threads: CPU threads; ``None`` takes all cores.
        device: ``cpu`` keeps every layer on the processor, ``auto`` offloads what fits a GPU.

    Raises:
        ModelError: ``xllamacpp`` is not installed, or the file is not a GGUF that llama.cpp can load.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        weights_identity: str,
        context_length: int = 4096,
        slots: int = 8,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._name = name
        self._path = path
        self._weights_identity = weights_identity
        self._backend = _LlamaCppBackend(path, context_length, slots, threads or os.cpu_count() or 1, device)
        self._capabilities = Capabilities(
            operations=frozenset({"extend", "extend_prefix", "judge", "commit"}),
            hooks=frozenset({"gate"}),
            sampling=frozenset(
                {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "logit_bias"}
            ),
            top_logprobs=20,
            context_length=context_length,
        )
        self._scheduler = ThreadedScheduler(self._backend, self._capabilities, workers=slots)

    @property
    def name(self) -> str:
        """The model's name as the user gave it."""
        return self._name

    @property
    def identity(self) -> str:
        """Digest of the GGUF's bytes and the engine's kind."""
        return sha256_text(f"llamacpp:{self._weights_identity}")

    @property
    def description(self) -> dict[str, Any]:
        """Kind, file and version, as plain JSON."""
        return {
            "engine": "llamacpp",
            "file": self._path.name,
            "weights": self._weights_identity,
            "xllamacpp": version("xllamacpp"),
        }

    @property
    def capabilities(self) -> Capabilities:
        """What it does faithfully."""
        return self._capabilities

    def submit(self, request: Request) -> Handle:
        """Queue a request; see ``Engine.submit``."""
        return self._scheduler.submit(request)

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> Tokens:
        """Token ids of the chat under the GGUF's chat template, with the generation prompt."""
        return self._backend.render(chat, tools)

    def close(self) -> None:
        """Cancel what is under way and free the memory."""
        self._scheduler.close()
        self._backend.close()


class _LlamaCppBackend:
    """The in-process llama.cpp server; tokenizer and template by its loopback port, tokens by a callback."""

    def __init__(self, path: Path, context_length: int, slots: int, threads: int, device: str) -> None:
        try:
            import xllamacpp
        except ImportError:
            raise ModelError(
                "the llama.cpp engine needs the package xllamacpp", hint="pip install 'trivet[llamacpp]'"
            ) from None
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ModelError("is not a GGUF file", where=str(path))
        key = secrets.token_hex(16)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = context_length * slots
        parameters.n_parallel = slots
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.n_gpu_layers = 0 if device == "cpu" else -1
        parameters.warmup = False
        parameters.verbosity = -1
        parameters.ui = False
        parameters.endpoint_slots = False
        parameters.api_keys = [key]  # the loopback port is ours alone
        try:
            self._server = xllamacpp.Server(parameters)
        except Exception as error:
            raise ModelError(f"llama.cpp cannot load it: {error}", where=str(path)) from None
        self._context_length = context_length
        self._client = httpx.Client(
            base_url=self._server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,
        )
        self._fan_out = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="trivet-llamacpp")
        self._closing = threading.Event()

    def prompt(self, request: Request) -> Tokens:
        if request.continue_final_message:
            raise UnsupportedError(
                "the llama.cpp engine does not continue a final assistant message",
                hint="use the PyTorch engine (engine: torch)",
            )
        if request.text is not None:
            prompt = self.encode(request.text)
        else:
            prompt = self.render(request.chat, request.tools if request.tool_choice != "none" else ())
        if len(prompt) >= self._context_length:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens and the context holds {self._context_length}",
                hint="shorten the prompt or give the engine a larger context_length",
            )
        return prompt

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> Tokens:
        body: dict[str, Any] = {"messages": chat}
        if tools:
            body["tools"] = list(tools)
        text = self._post("/apply-template", body)["prompt"]
        return self._tokenize(text, special=True)

    def encode(self, text: str) -> Tokens:
        return self._tokenize(text, special=False)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._post("/detokenize", {"tokens": list(tokens)})["content"])

    def extend(
        self,
        request: Request,
        operation: Extend,
        seeds: Sequence[int],
        cancelled: Callable[[], bool],
        on_text: Callable[[str], None] | None,
        usage: Usage,
    ) -> list[Continuation]:
        bodies = [self._body(operation, seed) for seed in seeds]
        if len(bodies) == 1:
            answers = [self._complete(bodies[0], operation, cancelled, on_text)]
        else:
            answers = list(
                self._fan_out.map(lambda body: self._complete(body, operation, cancelled, None), bodies)
            )
        for _, counts in answers:
            cached = counts.get("prompt_tokens_details", {}).get("cached_tokens", 0)
            usage.prompt_tokens = usage.prompt_tokens or len(operation.prefix)
            usage.cached_tokens += cached
            usage.forward_tokens += len(operation.prefix) - cached + counts.get("completion_tokens", 0)
        return [continuation for continuation, _ in answers]

    def close(self) -> None:
        self._closing.set()
        self._fan_out.shutdown(wait=True)
        self._client.close()
        del self._server

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        response = self._client.post(path, json=body)
        if response.status_code != httpx.codes.OK:
            raise EngineError(f"llama.cpp answers {response.status_code}: {response.text[:300]}")
        return response.json()

    def _tokenize(self, text: str, *, special: bool) -> Tokens:
        body = {"content": text, "add_special": False, "parse_special": special}
        return tuple(self._post("/tokenize", body)["tokens"])

    def _body(self, operation: Extend, seed: int) -> dict[str, Any]:
        sampling = operation.sampling
        room = self._context_length - len(operation.prefix)
        if room < 1:
            raise ContextLengthError(
                f"the prefix has {len(operation.prefix)} tokens and the context holds {self._context_length}"
            )
        return {
            "prompt": list(operation.prefix),
            "max_tokens": min(operation.max_tokens, room),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "repeat_last_n": self._context_length,
            "logit_bias": [list(pair) for pair in sampling.logit_bias],
            "samplers": _SAMPLERS,
            "seed": seed,
            "stop": list(operation.stop),
            "logprobs": max(1, operation.top_logprobs),
            "cache_prompt": True,
            "stream": True,
        }

    def _complete(
        self,
        body: dict[str, Any],
        operation: Extend,
        cancelled: Callable[[], bool],
        on_text: Callable[[str], None] | None,
    ) -> tuple[Continuation, dict[str, Any]]:
        pieces: list[str] = []
        rows: list[dict[str, Any]] = []
        last: dict[str, Any] = {}
        failure: list[str] = []

        def receive(chunk: Any) -> bool:
            if not isinstance(chunk, dict):
                return False
            if "error" in chunk:
                failure.append(str(chunk["error"].get("message", chunk["error"])))
                return True
            for choice in chunk.get("choices", ()):
                rows.extend((choice.get("logprobs") or {}).get("content") or ())
                last.update({key: value for key, value in choice.items() if value is not None})
                if choice.get("text"):
                    pieces.append(choice["text"])
                    if on_text is not None:
                        on_text(choice["text"])
            last.update({key: chunk[key] for key in ("usage",) if key in chunk})
            return cancelled() or self._closing.is_set()

        self._server.handle_completions(body, receive)
        if failure:
            raise EngineError(f"llama.cpp refuses the request: {failure[0]}")
        text = "".join(pieces)
        return self._continuation(text, rows, last, operation, body["max_tokens"]), last.get("usage", {})

    def _continuation(
        self, text: str, rows: list[dict[str, Any]], last: dict[str, Any], operation: Extend, allowed: int
    ) -> Continuation:
        tokens = [row["id"] for row in rows]
        reason: StopReason = "length"
        if last.get("finish_reason") == "stop":
            reason = "stop"
            if operation.stop and any(stop in self.decode(tokens) for stop in operation.stop):
                reason = "stop_string"
            else:
                tokens.pop()  # the end-of-generation token, whose log-probability stays
        elif allowed < operation.max_tokens:
            reason = "context"
        return Continuation(
            tokens=tuple(tokens),
            text=text,
            logprobs=tuple(row["logprob"] for row in rows),
            stop_reason=reason,
            top_logprobs=tuple(
                tuple((top["id"], top["logprob"]) for top in row["top_logprobs"]) for row in rows
            )
            if operation.top_logprobs
            else (),
        )
