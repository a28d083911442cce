"""Forward passes of one model over many sequences at once."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from trivet.errors import UnsupportedError
from trivet.models.torch_engine import attention
from trivet.models.torch_engine.attention import DecodeGroup, Plan, Stretch
from trivet.models.torch_engine.kv_slots import KVShape, KVSlots
from trivet.models.torch_engine.kv_tree import KVTree, SharedBudget, common_length
from trivet.models.torch_engine.layers import Enough, Layers, Tap
from trivet.models.torch_engine.loading import LoadedModel
from trivet.models.torch_engine.rows import Row

_FORESEEN = 256
_FEW = 64  # tokens of a sequence that goes on which are not worth sharing while it runs


@dataclass
class Work:
    """The next ``count`` tokens of a row. A step fills in the positions whose logits were read, and where
    their rows begin among all logits of the step."""

    row: Row
    count: int
    wanted: list[int] = field(default_factory=list)
    first: int = 0


class ModelRunner:
    """A loaded model, its slots and its KV tree. Used from the engine's thread alone.

    ``known``: this model was run before, so its logits need not be compared with those of its own attention.
    """

    def __init__(self, loaded: LoadedModel, *, tree_budget: int | SharedBudget, known: bool = False) -> None:
        self.loaded = loaded
        self.layers = Layers(loaded.model)
        attention.register()
        expected = None if known else self._own_logits()
        try:
            loaded.model.set_attn_implementation(attention.NAME)
        except ValueError as error:
            raise UnsupportedError(
                f"the model's attention cannot be replaced: {str(error).splitlines()[0]}", where=loaded.where
            ) from error
        self._home = loaded.model.get_input_embeddings().weight.device
        shape = self._examine()
        self.slots = KVSlots(shape, loaded.context_length, loaded.dtype, self._home)
        self.tree = KVTree(tree_budget)
        self.steps = 0
        self.seconds = 0.0
        if expected is not None:
            self._check(expected)

    def _examine(self) -> KVShape:
        """Find the shape of keys and values with one token, and refuse what packed attention cannot do."""
        config = self.loaded.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        strange = kinds - {"full_attention", "sliding_attention"}
        if strange or self.loaded.model._is_stateful or config.is_encoder_decoder:
            what = ", ".join(sorted(strange)) or "state that cannot be rewound"
            raise UnsupportedError(f"the model uses {what}", where=self.loaded.where)
        if _rope_types(getattr(config, "rope_parameters", None)) & {"dynamic", "longrope"}:
            raise UnsupportedError(
                "the model's position embeddings depend on the longest text of the batch",
                where=self.loaded.where,
            )
        plan = Plan(self._home, seen={})
        with torch.inference_mode():
            token = torch.zeros(1, 1, dtype=torch.long, device=self._home)
            self.loaded.model(input_ids=token, position_ids=token, use_cache=False, trivet_plan=plan)
        seen = plan.seen or {}
        count = config.num_hidden_layers
        shapes = {entry[:3] for entry in seen.values()}
        if sorted(seen) != list(range(count)) or len(shapes) != 1:
            raise UnsupportedError(
                "the model's layers keep keys and values differently", where=self.loaded.where
            )
        if "sliding_attention" in kinds:
            for layer, kind in enumerate(config.layer_types):
                if kind == "sliding_attention" and seen[layer][3] is None:
                    raise UnsupportedError("the model hides its sliding window", where=self.loaded.where)
        heads, key_width, value_width = shapes.pop()
        return KVShape(count, heads, key_width, value_width)

    def _own_logits(self) -> torch.Tensor:
        model = self.loaded.model
        with torch.inference_mode():
            probe = torch.tensor([self._probe()], device=model.get_input_embeddings().weight.device)
            logits: torch.Tensor = model(input_ids=probe, use_cache=False).logits
        return logits[0, -1].float()

    def _probe(self) -> list[int]:
        vocabulary = self.loaded.model.get_input_embeddings().weight.shape[0]
        return [(7919 * index) % vocabulary for index in range(1, 13)]

    def _check(self, expected: torch.Tensor) -> None:
        """Compare with the model's own attention: a stretch of eight tokens, then one by one."""
        row = Row(self._probe(), (0, 0), activations=(), room=0)
        self.start(row)
        logits = self.step([Work(row, 8)])
        while row.pending:
            logits = self.step([Work(row, 1)])
        self.end(row)
        distance = float((logits[0] - expected).abs().max() / expected.std())
        if not distance < (1e-3 if self.loaded.dtype == torch.float32 else 0.2):
            raise UnsupportedError(
                f"batched attention does not give this model's own logits (off by {distance:.2g} deviations)",
                where=self.loaded.where,
            )

    def start(self, row: Row, expected: int = 0, parked: Row | None = None) -> int:
        """Give a row its slot and copy what the KV tree knows of it; returns how many tokens that is.

        ``expected``: sequences that may run at the same time. ``parked``: a row that is done, in whose slot
        this one goes on with the tokens that both have.
        """
        if parked is None or parked.slot is None:
            # Room for what will probably come, so that most sequences never move.
            row.slot = self.slots.place(len(row.tokens) + min(row.room, _FORESEEN), expected)
        else:
            row.slot, parked.slot = parked.slot, None
            row.computed = min(common_length(parked.tokens, row.tokens), parked.computed, row.reusable)
            row.stored = min(parked.stored, row.computed)
        found = self._copy_known(row) if row.computed < row.reusable and not row.private else 0
        row.goes_on = parked is not None and row.pending <= _FEW
        return found

    def _copy_known(self, row: Row) -> int:
        """Copy what the KV tree knows beyond what is computed already; returns how many tokens that is."""
        kept = row.computed
        found, segments = self.tree.match(tuple(row.tokens), row.reusable)
        if found <= kept:
            return 0
        assert row.slot is not None
        self.slots.grow(row.slot, kept, found)
        at = 0
        for segment in segments:
            count = min(segment.keys.shape[2], found - at)
            known = min(max(kept - at, 0), count)
            self.slots.write(row.slot, at + known, segment.view(known, count), count - known)
            at += count
        row.computed = row.stored = found
        return found - kept

    def store(self, row: Row) -> Any:
        """Put what is computed of a row into the KV tree; returns the node."""
        slot = row.slot
        assert slot is not None
        row.stored = row.computed
        return self.tree.insert(
            tuple(row.tokens[: row.computed]), lambda start, end: self.slots.read(slot, start, end)
        )

    def hold(self, row: Row, held: list[tuple[str, Any]]) -> None:
        """As ``store``, and keep it until what ``held`` lists is released."""
        node = self.store(row)
        self.tree.hold(node)
        held.append((row.model, node))

    def end(self, row: Row) -> None:
        """Free a row's slot."""
        if row.slot is not None:
            self.slots.free(row.slot)
            row.slot = None

    def step(self, work: Sequence[Work]) -> torch.Tensor:
        """One forward pass; returns the logits that were read, float32 [positions, vocabulary]."""
        started = time.perf_counter()
        for piece in work:
            assert piece.row.slot is not None
            self.slots.grow(piece.row.slot, piece.row.computed, piece.row.computed + piece.count)
        with torch.inference_mode():
            ordered, plan, taps = self._plan(work)
            tokens: list[int] = []
            positions: list[int] = []
            wanted: list[int] = []
            for piece in ordered:
                start, end = piece.row.computed, piece.row.computed + piece.count
                piece.wanted = piece.row.wanted(start, end)
                wanted += [len(tokens) + position - start for position in piece.wanted]
                tokens += piece.row.tokens[start:end]
                positions += range(start, end)
            depths = [piece.row.depth for piece in work]
            depth = None if None in depths else max(depth for depth in depths if depth is not None)
            read = torch.empty(0)
            with suppress(Enough), self.layers.tapped(taps, depth):
                output = self.loaded.model(
                    input_ids=torch.tensor([tokens], device=self._home),
                    position_ids=torch.tensor([positions], device=self._home),
                    use_cache=False,
                    logits_to_keep=torch.tensor(wanted, dtype=torch.long, device=self._home),
                    trivet_plan=plan,
                )
                read = output.logits[0].float()
            at = 0
            for piece in ordered:
                piece.first = at
                at += len(piece.wanted)
                piece.row.computed += piece.count
        self.steps += 1
        self.seconds += time.perf_counter() - started
        return read

    def _plan(self, work: Sequence[Work]) -> tuple[list[Work], Plan, list[Tap]]:
        pools: dict[int, list[Work]] = {}
        stretches = []
        for piece in work:
            assert piece.row.slot is not None
            if piece.count == 1:
                pools.setdefault(piece.row.slot.pool.capacity, []).append(piece)
            else:
                stretches.append(piece)
        plan = Plan(self._home)
        ordered: list[Work] = []
        for capacity in sorted(pools):
            group = sorted(pools[capacity], key=_slot_index)
            places = [piece.row.computed for piece in group]
            slot = group[0].row.slot
            assert slot is not None
            plan.groups.append(
                DecodeGroup(
                    slot.pool,
                    len(ordered),
                    torch.tensor([_slot_index(piece) for piece in group], device=self._home),
                    torch.tensor(places, device=self._home),
                    max(places) + 1,
                )
            )
            ordered += group
        at = len(ordered)
        for piece in stretches:
            assert piece.row.slot is not None
            plan.stretches.append(Stretch(piece.row.slot, at, piece.count, piece.row.computed))
            at += piece.count
        ordered += stretches
        taps, at = [], 0
        for piece in ordered:
            taps += piece.row.taps(piece.row.computed, piece.row.computed + piece.count, at)
            at += piece.count
        return ordered, plan, taps


def _rope_types(parameters: Any) -> set[str]:
    """Kinds of rotary embeddings; the parameters may be nested by kind of layer."""
    if not isinstance(parameters, dict):
        return set()
    nested = [_rope_types(value) for value in parameters.values()]
    return {str(parameters.get("rope_type", "default"))}.union(*nested)


def _slot_index(piece: Work) -> int:
    assert piece.row.slot is not None
    return piece.row.slot.index
