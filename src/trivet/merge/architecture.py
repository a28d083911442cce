"""Whether the models of a merge are of one architecture, and what of them the output leaves out.

A checkpoint that lacks a tensor loads all the same, with random numbers in its place. So nothing vanishes
without a word: what is not merged is refused, or told in the merge report.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from trivet.errors import MergeError
from trivet.merge.layers import OUTPUT_LAYER, count_layers, is_computed, is_prediction_layer, layer_of
from trivet.merge.sources import Source

_SHOWN = 4  # names in a message


def refuse_unfit(donor: Source, models: Iterable[Source]) -> None:
    """Refuse models that cannot be merged with ``donor``, whose configuration the output has.

    Raises:
        MergeError: a model is quantised, or has an output layer where the donor's is its embedding.
    """
    for source in models:
        if source.weights.config.get("quantization_config"):
            raise MergeError(
                "holds quantised weights, which cannot be averaged",
                where=source.name,
                hint="dequantise it first: load it with transformers and save_pretrained() in bfloat16",
            )
        if donor.weights.tied and not source.weights.tied and source.weights.output_layer is not None:
            raise MergeError(
                "has an output layer of its own, and that of the base is its embedding",
                where=source.name,
                hint=f"{donor.name} ties them (tie_word_embeddings); merge models that agree in it",
            )


def equal_depth(donor: Source, models: Iterable[Source]) -> int:
    """The number of layers, which is the same in all models.

    Raises:
        MergeError: a model has another number of layers than the donor, or names none.
    """
    count = count_layers(donor.weights.config, donor.name)
    for source in models:
        own = count_layers(source.weights.config, source.name)
        if own != count:
            raise MergeError(
                f"has {_layers(own)}, and {donor.name} has {count}",
                where=source.name,
                hint="models of one depth are merged whole; say with `slices` which layers are taken",
            )
    return count


def is_skipped(donor: Source, name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has no place of its own in the output.

    A tied output layer is the embedding, tables are computed, and layers that predict several tokens at once
    stand beside the decoder.
    """
    return (
        (donor.weights.tied and OUTPUT_LAYER.search(name) is not None)
        or is_computed(name, shape)
        or is_prediction_layer(name)
    )


def same_layers(donor: Source, names: Iterable[str]) -> None:
    """Refuse an output with a layer that the donor's configuration does not describe.

    Args:
        names: every tensor of the output.

    Raises:
        MergeError: a layer of the output has other tensors than any layer of the donor has.
    """
    stored = donor.weights.entries.items()
    own = [name for name, entry in stored if not is_skipped(donor, name, entry.shape)]
    known = {frozenset(tails) for tails in _by_layer(own).values()}
    for number, tails in _by_layer(names).items():
        if frozenset(tails) in known:
            continue
        nearest = max(known, key=lambda one: len(one & tails), default=frozenset())
        lacks, extra = nearest - tails, tails - nearest
        said = [f"lacks {_some(lacks)}"] if lacks else []
        said += [f"has {_some(extra)} besides"] if extra else []
        raise MergeError(
            f"layer {number} of the output {' and '.join(said)}, unlike the layers of {donor.name}",
            where=donor.name,
            hint="its configuration is the output's; stack layers of one architecture",
        )


def _by_layer(names: Iterable[str]) -> dict[int, set[str]]:
    """The names of each layer's tensors, without its number."""
    found: dict[int, set[str]] = {}
    for name in names:
        layer = layer_of(name)
        if layer is not None:
            found.setdefault(layer.number, set()).add(layer.head + layer.tail)
    return found


def left_out(donor: Source, used: Mapping[Source, set[str]], *, whole: bool) -> Iterator[str]:
    """Notes on stored tensors that are not merged.

    Args:
        used: for each model, its tensors that are.
        whole: whether models are merged whole; slices leave layers out on purpose.
    """
    together: dict[int, tuple[Source, set[str]]] = {}
    for source, names in used.items():  # an adapter and its model have the same tensors
        together.setdefault(id(source.weights), (source, set()))[1].update(names)
    for source, names in together.values():
        count = count_layers(source.weights.config, source.name)
        taken = {layer.number for layer in map(layer_of, names) if layer is not None}
        beyond, extra = [], []
        for name, entry in source.weights.entries.items():
            layer = layer_of(name)
            if name in names or is_computed(name, entry.shape):
                continue
            if is_prediction_layer(name) or (layer is not None and layer.number >= count):
                beyond.append(name)
            elif is_skipped(donor, name, entry.shape):
                continue
            elif layer is None:
                extra += [] if name in donor.weights.entries else [name]
            elif whole or layer.number in taken:
                extra.append(name)
        if beyond:
            yield f"{source.name}: left out, beyond its {_layers(count)}: {_some(beyond)}"
        if extra:
            yield f"{source.name}: left out, not in {donor.name}: {_some(extra)}"


def other_bases(models: Sequence[Source], base_model: str | None) -> Iterator[str]:
    """Notes on adapters whose shapes fit and that say they belong to another model, of another size say."""
    for source in models:
        if source.adapter is None or not source.adapter.trained_on:
            continue
        named = [base_model or "", source.name.partition("+")[0], str(source.folder)]
        named.append(str(source.weights.config.get("_name_or_path", "")))
        if _last_part(source.adapter.trained_on) not in map(_last_part, named):
            yield (
                f"the adapter {source.name} says that it belongs to {source.adapter.trained_on}; "
                f"it is put on {source.folder.name}"
            )


def _last_part(name: str) -> str:
    """The name of a model without owner, folder and upper case."""
    return name.rstrip("/").rpartition("/")[2].lower()


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"


def _some(names: Iterable[str]) -> str:
    """The first names of a long list, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
