"""Where a model's layers are, and reading or editing hidden states of single sequences at them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trivet.errors import UnsupportedError


@dataclass(frozen=True)
class Tap:
    """A reader or editor of tokens ``start`` … ``end - 1`` of the packed batch at one layer.

    ``call`` gets [tokens, width] and returns a replacement or ``None``.
    """

    layer: int
    start: int
    end: int
    call: Callable[[torch.Tensor], torch.Tensor | None]


class Layers:
    """The blocks and the final norm of a decoder, numbered as in transformers' ``hidden_states``."""

    def __init__(self, model: Any) -> None:
        decoder = model.get_decoder()
        blocks = [getattr(decoder, name) for name in ("layers", "h", "blocks") if hasattr(decoder, name)]
        norms = [
            getattr(decoder, name)
            for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm")
            if getattr(decoder, name, None) is not None
        ]
        self._blocks: Sequence[torch.nn.Module] | None = list(blocks[0]) if len(blocks) == 1 else None
        self._norm: torch.nn.Module | None = norms[0] if len(norms) == 1 else None

    @property
    def count(self) -> int:
        """Number of blocks; hidden states are numbered 0 … count."""
        return len(self._known()[0])

    def _known(self) -> tuple[Sequence[torch.nn.Module], torch.nn.Module]:
        if self._blocks is None or self._norm is None:
            raise UnsupportedError("the layers of this model are not where they are expected to be")
        return self._blocks, self._norm

    @contextmanager
    def tapped(self, taps: Sequence[Tap], depth: int | None = None) -> Iterator[None]:
        """Within the block, forward passes of the model go through ``taps``.

        With a ``depth`` they raise ``Enough`` after that layer.
        """
        if not taps and depth is None:
            yield
            return
        blocks, norm = self._known()
        with ExitStack() as stack:
            for layer in sorted({tap.layer for tap in taps}):
                mine = [tap for tap in taps if tap.layer == layer]
                stack.callback(_install(blocks, norm, layer, mine).remove)
            if depth is not None:
                end = (
                    blocks[depth - 1].register_forward_hook(_enough)
                    if depth
                    else blocks[0].register_forward_pre_hook(_enough)
                )
                stack.callback(end.remove)
            yield


class Enough(Exception):  # noqa: N818 - ends a forward pass early; nothing is wrong
    """The layers that are needed have been computed."""


def _enough(*arguments: Any) -> None:
    raise Enough


def _install(blocks: Sequence[torch.nn.Module], norm: torch.nn.Module, layer: int, taps: list[Tap]) -> Any:
    def run(hidden: torch.Tensor) -> torch.Tensor:
        for tap in taps:
            replaced = tap.call(hidden[0, tap.start : tap.end])
            if replaced is not None:
                hidden = hidden.clone()
                hidden[0, tap.start : tap.end] = replaced
        return hidden

    def after(module: Any, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (run(output[0]), *output[1:])
        return run(output)

    def before(module: Any, arguments: Any, options: Any) -> Any:
        if arguments:
            return (run(arguments[0]), *arguments[1:]), options
        return arguments, {**options, "hidden_states": run(options["hidden_states"])}

    if layer == len(blocks):
        return norm.register_forward_hook(after)
    if layer == 0:  # the input of the first block: embeddings and positions are both in it
        return blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    return blocks[layer - 1].register_forward_hook(after)
