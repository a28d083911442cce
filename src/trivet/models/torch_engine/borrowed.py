"""Requests on models in memory that belong to somebody else and are given back as they were."""

import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import psutil

from trivet.errors import ContextLengthError, EngineError, UnsupportedError
from trivet.models.engine import Handle, Request
from trivet.models.operations import Tokens
from trivet.models.torch_engine.loading import LoadedModel
from trivet.models.torch_engine.runner import ModelRunner
from trivet.models.torch_engine.scheduler import Limits, Scheduler
from trivet.models.torch_engine.task import Task

_lent: WeakSet[Any] = WeakSet()
_known: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # models that were run before, and what they were
_lock = threading.Lock()


class BorrowedModels:
    """Runs requests on models in memory for as long as it is open, with the scheduler of the PyTorch engine.

    Nothing is loaded, copied or packed, and no keys and values outlive it, so weights may change between two
    uses. While it is open the models are in evaluation mode and their attention is the engine's; on the way
    out each module has its own mode and attention again, whatever happened. Use it as a context manager.

    Args:
        models: the model that answers under ``""``, and those beside it by name; two names may share one.

    Raises:
        EngineError: one of the models is lent already.
        UnsupportedError: the engine cannot run one of them.
    """

    def __init__(self, models: Mapping[str, LoadedModel]) -> None:
        self._models = models
        self._numbers = itertools.count()

    def __enter__(self) -> "BorrowedModels":
        different = {loaded.key: loaded for loaded in self._models.values()}
        memory = psutil.virtual_memory().total
        budget = min(memory // 10, 2 * 1024**3) // len(different)
        with ExitStack() as stack:
            for loaded in different.values():
                stack.enter_context(_borrowed(loaded))
            self._runners = {
                key: ModelRunner(loaded, tree_budget=budget, known=_known.get(loaded.model) == _kind(loaded))
                for key, loaded in different.items()
            }
            _known.update({loaded.model: _kind(loaded) for loaded in different.values()})
            stack.callback(self._runners.clear)
            self._scheduler = Scheduler(self._runners, Limits(memory // 4))
            stack.callback(self._scheduler.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def submit(self, request: Request, prompt: Tokens) -> Handle:
        """Queue a request that continues ``prompt``; its chat is what a program or a judge is shown of it.

        Raises:
            ContextLengthError: the prompt is longer than the context.
        """
        own = self._models[""]
        if len(prompt) >= own.context_length:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens, the model's context {own.context_length}",
                where=own.where,
                hint="shorten the prompt",
            )
        task = Task(
            request, prompt, next(self._numbers), self._models, lambda: self._runners[""].layers.count
        )
        self._scheduler.submit(task)
        return task.handle


def _kind(loaded: LoadedModel) -> str:
    return f"{loaded.dtype} {loaded.device} {loaded.model.config.to_json_string(use_diff=False)}"


@contextmanager
def _borrowed(loaded: LoadedModel) -> Iterator[None]:
    model = loaded.model
    if model.config.is_encoder_decoder:
        raise UnsupportedError("the model has an encoder; only decoders are run", where=loaded.where)
    with _lock:
        if model in _lent:
            raise EngineError(
                "the model is generating already", where=loaded.where, hint="wait until that has finished"
            )
        _lent.add(model)
    modes = [(module, module.training) for module in model.modules()]
    attention = _attention(model)
    try:
        model.eval()
        yield
    finally:
        for config, implementation in attention:
            config._attn_implementation_internal = implementation
        for module, training in modes:
            module.training = training
        with _lock:
            _lent.discard(model)


def _attention(model: Any) -> list[tuple[Any, Any]]:
    """Every configuration in the model with the attention that it names."""
    waiting = [module.config for module in model.modules() if hasattr(module, "config")]
    found: dict[int, tuple[Any, Any]] = {}
    while waiting:
        config = waiting.pop()
        if id(config) in found or not hasattr(config, "_attn_implementation_internal"):
            continue
        found[id(config)] = (config, config._attn_implementation_internal)
        waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())
