"""The PyTorch engine."""

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psutil
import torch
import transformers

from trivet._files import canonical_json, sha256_text
from trivet.errors import ContextLengthError, EngineError, ModelError, QueueFullError
from trivet.models.capability_check import check_request
from trivet.models.engine import Capabilities, Handle, Request
from trivet.models.names import ModelReference
from trivet.models.operations import Chat, Sampling, Tokens
from trivet.models.torch_engine.alignment import shared_tokens
from trivet.models.torch_engine.kv_tree import SharedBudget
from trivet.models.torch_engine.loading import LoadedModel, load
from trivet.models.torch_engine.new_weights import places_of, write_weights
from trivet.models.torch_engine.runner import ModelRunner
from trivet.models.torch_engine.scheduler import Limits, Scheduler, inside_judge
from trivet.models.torch_engine.task import Task

_PREFIXES = SharedBudget(min(psutil.virtual_memory().total // 10, 2 * 1024**3))


class TorchEngine:
    """Runs any decoder model of transformers; see ``trivet.models.engine.Engine``.

    Args:
        reference: the model's folder.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1", …
        dtype: "auto", "float32", "bfloat16" or "float16"; "auto" is float32 on a CPU.
        device_map: as in transformers, to spread a model over several devices.
        auxiliary: models beside the engine's own, by the name that ``Next`` gives them.
        deterministic: one sequence at a time and no shared prefixes, so that answers are equal bit by bit
            whatever else is running.
        max_rows: sequences in the batch.
        queue_size: requests that may be under way or wait; more are refused.
        tree_bytes: memory for shared prefixes; by default all engines share a tenth of the machine's, at
            most 2 GiB.
        replaceable: whether ``load_weights`` may replace the weights; never where others share the engine.
    """

    def __init__(
        self,
        reference: ModelReference,
        *,
        device: str = "auto",
        dtype: str = "auto",
        device_map: Any = None,
        auxiliary: Mapping[str, ModelReference] | None = None,
        deterministic: bool = False,
        max_rows: int = 64,
        queue_size: int = 4096,
        tree_bytes: int | None = None,
        replaceable: bool = False,
    ) -> None:
        self._reference, self._auxiliary = reference, dict(auxiliary or {})
        self._replaceable, self._whole = replaceable, True
        self._deterministic, self._queue_size = deterministic, queue_size
        memory = psutil.virtual_memory().total
        if deterministic:
            max_rows, tree_bytes = 1, 0
        self._models: dict[str, LoadedModel] = {}
        for name, part in {"": reference, **self._auxiliary}.items():
            if part.path is None or not part.path.is_dir():
                raise ModelError("is not a model folder", where=part.name)
            same = self._loaded_as(part)
            if same is not None:
                self._models[name] = self._models[same]
                continue
            folder, adapter = (part.path, None) if part.base is None else (part.base.path, part.path)
            assert folder is not None
            model = load(
                folder,
                device=device,
                dtype=dtype,
                device_map=device_map,
                where=part.name,
                adapter=adapter,
            )
            model.key = name
            self._models[name] = model
            model.shared = shared_tokens(self._models[""], model)
        own = self._models[""]
        different = {model.key: model for model in self._models.values()}
        self._runners = {
            key: ModelRunner(
                model, tree_budget=_PREFIXES if tree_bytes is None else tree_bytes // len(different)
            )
            for key, model in different.items()
        }
        # What is said of it is fixed now, while the files are those that were loaded, and stays after close.
        self._dtype = str(own.dtype)
        self._files_identity = reference.identity
        self._identity = self._digest(self._files_identity)
        self._description = self._describe(own)
        self._capabilities = Capabilities(
            operations=frozenset(
                {"extend", "extend_prefix", "score", "next", "hidden", "several", "judge", "commit"}
            ),
            hooks=frozenset({"logits", "activations", "gate"}),
            sampling=frozenset(Sampling.__dataclass_fields__),
            top_logprobs=100,
            tools=own.takes_tools,
            context_length=own.context_length,
        )
        self._numbers = itertools.count()
        self._live = 0
        self._lock = threading.Lock()
        self._closed = False
        self._scheduler = Scheduler(self._runners, Limits(memory // 4, rows=max_rows))

    def _loaded_as(self, part: ModelReference) -> str | None:
        """The name under which the same weights are loaded already; those that may change are not shared."""
        references = {"": self._reference, **self._auxiliary}
        for name in self._models:
            if references[name].identity == part.identity and not (name == "" and self._replaceable):
                return name
        return None

    @property
    def _own(self) -> LoadedModel:
        return self._opened()[""]

    def _opened(self) -> Mapping[str, LoadedModel]:
        models = self._models
        if not models or self._closed:
            raise EngineError("the engine is closed", where=self.name)
        if not self._whole:
            raise EngineError(
                "its weights are being replaced, or could not be replaced in whole",
                where=self.name,
                hint="load whole weights",
            )
        return models

    @property
    def _runner(self) -> ModelRunner:
        return self._runners[""]

    @property
    def name(self) -> str:
        """The model's name as the user gave it."""
        return self._reference.name

    @property
    def identity(self) -> str:
        """Digest of the weights, the engine kind and the dtype."""
        return self._identity

    def _digest(self, weights: Any) -> str:
        return sha256_text(
            canonical_json(
                {
                    "engine": "torch",
                    "weights": weights,
                    "auxiliary": {name: part.identity for name, part in self._auxiliary.items()},
                    "dtype": self._dtype,
                }
            )
        )

    def _describe(self, own: LoadedModel) -> dict[str, Any]:
        return {
            "engine": "torch",
            "model": self._reference.name,
            "weights": self._reference.identity,
            "source": self._reference.source,
            "auxiliary": {name: part.source for name, part in self._auxiliary.items()},
            "dtype": self._dtype.removeprefix("torch."),
            "device": str(own.device),
            "deterministic": self._deterministic,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @property
    def description(self) -> dict[str, Any]:
        """What a report says of it."""
        return dict(self._description)

    @property
    def capabilities(self) -> Capabilities:
        """All operations, hooks and sampling settings."""
        return self._capabilities

    def render(self, chat: Chat, tools: Sequence[dict[str, Any]] = ()) -> Tokens:
        """Token ids of the chat under the model's chat template, with the generation prompt."""
        return self._own.render(chat, tools)

    def submit(self, request: Request) -> Handle:
        """Queue a request; see ``Engine.submit``."""
        models = self._opened()
        own = models[""]
        check_request(request, self.capabilities)
        if request.text is not None:
            prompt = own.encode(request.text)
        else:
            prompt = own.render(
                request.chat,
                request.tools,
                continue_final_message=request.continue_final_message,
                tool_choice=request.tool_choice,
            )
        if len(prompt) >= own.context_length:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens, the model's context {own.context_length}",
                where=self.name,
                hint="shorten the prompt",
            )
        # A judge that asks this engine works for a request that was let in before.
        with self._lock:
            if self._live >= self._queue_size and not getattr(inside_judge, "yes", False):
                raise QueueFullError(
                    f"{self._queue_size} requests are under way",
                    where=self.name,
                    hint="wait for some to finish and submit again",
                )
            self._live += 1
        task = Task(request, prompt, next(self._numbers), models, lambda: self._runner.layers.count)
        task.handle.future.add_done_callback(lambda _: self._count_down())
        self._scheduler.submit(task)
        return task.handle

    def _count_down(self) -> None:
        with self._lock:
            self._live -= 1

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], identity: str) -> None:
        """Replace the weights of its own model in place; tokenizer and configuration stay.

        Where it fails on the way, the engine answers nothing until whole weights are loaded.

        Args:
            tensors: every tensor of a checkpoint of this architecture: its name there and its values, of any
                floating type. They are taken one at a time, so they need never be in memory together. A tied
                output layer follows its embedding, whether it is given or not.
            identity: hexadecimal SHA-256 of what the tensors are made from.

        Raises:
            EngineError: requests are under way, the engine is closed, or it is not ``replaceable``.
            ModelError: a tensor is missing, unknown or of another shape.
            UnsupportedError: the model's weights are not all in memory.
        """
        if not self._replaceable:
            raise EngineError(
                "others may share this engine, so its weights stay",
                where=self.name,
                hint="make an engine of your own: TorchEngine(…, replaceable=True)",
            )

        def replace() -> None:
            places = places_of(self._models[""].model)
            self._whole = False
            write_weights(places, tensors, where=self.name)
            self._runner.tree.clear()  # its keys and values are those of the weights before
            # Tokenizer and settings are still those of the files.
            self._identity = self._digest([self._files_identity, identity])
            self._description |= {"weights": identity, "source": {"source": "loaded into memory"}}
            self._whole = True

        self._scheduler.when_idle(replace)

    def forget(self) -> None:
        """Drop shared prefixes, so that what comes next does not depend, by rounding, on what came before.

        Raises:
            EngineError: requests are under way, or the engine is closed.
        """

        def clear() -> None:
            for runner in self._runners.values():
                runner.tree.clear()

        self._scheduler.when_idle(clear)

    def close(self) -> None:
        """Cancel what is under way and free the memory."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._scheduler.close()
        self._models = {}
        self._runners.clear()
