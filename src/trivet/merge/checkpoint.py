"""From a recipe to a finished checkpoint: weights, configuration, tokenizer, report and model card."""

import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import yaml

from trivet import __version__
from trivet._files import write_json, write_text
from trivet._validation import read_yaml
from trivet.data.trained_on import write_trained_on
from trivet.errors import MergeError
from trivet.merge import shard_numbers
from trivet.merge._tokenizer_files import read_tokens
from trivet.merge.card import model_card
from trivet.merge.executor import SHARD_BYTES, Done, Merge, Outcome, bytes_of, prepare, run
from trivet.merge.layers import with_layers
from trivet.merge.recipe import Recipe, parse_recipe
from trivet.merge.report import JSON_FILE, MergeReport, TensorReport
from trivet.merge.report import write_json as write_report
from trivet.merge.report_page import write_html
from trivet.merge.special_tokens import with_moved_ids
from trivet.merge.staging import STATE, lacking, move_into_place, only_writer, staging_folder
from trivet.merge.tokenizer import save as save_tokenizer
from trivet.merge.weights import read_json

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
_GENERATION = "generation_config.json"
_OTHER_FILES = (_GENERATION, "preprocessor_config.json")
_Mover = Callable[[dict[str, Any]], dict[str, Any]]
_NOTED = ("density", "ranks", "condition", "warnings")


@dataclass(frozen=True)
class Merged:
    """A checkpoint that was made. ``report`` is ``None`` where it was there already."""

    folder: Path
    report: MergeReport | None


def merge_checkpoints(
    recipe: Path | Mapping[str, Any] | Recipe,
    out: Path,
    *,
    base: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Merged:
    """Merge models by a recipe into a Hugging Face folder.

    Args:
        recipe: the path of a YAML file, or what it would hold.
        out: the folder to make. One that holds this same merge already is left as it is.
        base: folder that relative paths in the recipe refer to first; by default that of the file.
        shard_bytes: size of one weights file, at most.
        threads: tensors under way at once.
        on_bytes: called with the number of bytes written so far, from any thread.

    Raises:
        ConfigError: the recipe is wrong.
        ModelError: a model cannot be opened.
        MergeError: the models do not fit together, or ``out`` holds something else or is damaged.
        StoreError: the disk is full.
    """
    prepared, text = open_merge(recipe, base=base, shard_bytes=shard_bytes)
    try:
        if is_done(out, prepared):
            return Merged(out, None)
        with only_writer(out):
            if is_done(out, prepared):  # by the one that wrote until now
                return Merged(out, None)
            staging = staging_folder(out)
            outcome = run(
                prepared,
                staging,
                threads=threads,
                on_bytes=on_bytes,
                on_shard=lambda file, done: shard_numbers.keep(
                    staging, file, [_tensor(prepared, one) for one in done]
                ),
            )
            moved = _id_mover(prepared)
            report = _finish(prepared, outcome, text, moved)
            move_into_place(staging, out, _config(prepared, moved))
            return Merged(out, report)
    finally:
        prepared.sources.close()


def open_merge(
    recipe: Path | Mapping[str, Any] | Recipe, *, base: Path | None = None, shard_bytes: int = SHARD_BYTES
) -> tuple[Merge, str]:
    """Read a recipe and settle the merge; also the recipe's text.

    Raises:
        ConfigError, ModelError, MergeError: as ``merge_checkpoints``.
    """
    where, folder = "recipe", base or Path.cwd()
    if isinstance(recipe, Path):
        where, folder = str(recipe), base or recipe.parent
        values = read_yaml(recipe)
        text = recipe.read_text(encoding="utf-8")
        parsed = parse_recipe(values, where=where)
    elif isinstance(recipe, Recipe):
        parsed = recipe
        content = recipe.model_dump(mode="json", exclude_defaults=True, by_alias=True)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    else:
        parsed = parse_recipe(recipe, where=where)
        text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    return prepare(parsed, folder=folder, where=where, shard_bytes=shard_bytes), text


def is_done(out: Path, merge: Merge) -> bool:
    """Whether ``out`` holds this same merge.

    Raises:
        MergeError: it holds something else, or files of it are missing or cut off.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    state = out / STATE
    if state.is_file() and read_json(state).get("address") == merge.address:
        damaged = lacking(out, merge.shards)
        if not damaged:
            return True
        raise MergeError(
            f"holds this merge, but is damaged: missing or not whole: {', '.join(damaged)}",
            where=str(out),
            hint="remove the folder and run the same command again",
        )
    raise MergeError("is there already", where=str(out), hint="choose another folder, or remove it first")


def _finish(merge: Merge, outcome: Outcome, text: str, moved: _Mover) -> MergeReport:
    """Write everything but the weights and the configuration, without which nothing loads."""
    folder = outcome.folder
    donor = merge.layout.donor.folder
    for name in _OTHER_FILES:
        if (donor / name).is_file():
            shutil.copyfile(donor / name, folder / name)
    if merge.vocabulary is not None and (folder / _GENERATION).is_file():
        write_json(folder / _GENERATION, moved(read_json(folder / _GENERATION)))
    _write_tokenizer(merge, donor, folder)
    report = _report(merge, outcome, text)
    write_report(report, folder)
    write_html(report, folder)
    write_text(folder / "README.md", model_card(report))
    write_text(folder / "merge_recipe.yaml", text)
    models = [merge.sources.open(name) for name in merge.recipe.model_names()]
    write_trained_on(folder, frozenset().union(*(model.trained_on for model in models)))
    shard_numbers.remove(folder)
    return report


def _write_tokenizer(merge: Merge, donor: Path, folder: Path) -> None:
    template = merge.chat_template
    if merge.vocabulary is not None:
        save_tokenizer(merge.vocabulary.tokenizer, folder, template)
        return
    for name in _TOKENIZER_FILES:
        if (donor / name).is_file():
            shutil.copyfile(donor / name, folder / name)
    if template is not None:
        write_text(folder / "chat_template.jinja", template)
        settings = folder / "tokenizer_config.json"
        if settings.is_file():
            values = read_json(settings)
            values.pop("chat_template", None)
            write_json(settings, values)


def _config(merge: Merge, moved: _Mover) -> dict[str, Any]:
    donor = merge.layout.donor
    config = with_layers(
        donor.weights.config,
        [(source.weights.config, number) for source, number in merge.layout.order],
        donor.name,
    )
    holders = [config, config["text_config"]] if isinstance(config.get("text_config"), dict) else [config]
    for holder in holders:
        if merge.recipe.output_dtype is not None:
            holder.pop("torch_dtype", None)
            holder["dtype"] = merge.recipe.output_dtype
        if merge.vocabulary is not None:
            values = moved(holder)
            holder.clear()
            holder.update(values)
            if "vocab_size" in holder:
                holder["vocab_size"] = merge.vocabulary.size
    return config


def _id_mover(merge: Merge) -> _Mover:
    """Gives a configuration the special tokens' ids of the merge's own tokenizer, where it has one."""
    if merge.vocabulary is None:
        return dict
    tokenizer = merge.vocabulary.tokenizer
    known = read_tokens(merge.layout.donor.folder)
    before = {} if known is None else known.ids
    kinds = {
        f"{kind}_id": getattr(tokenizer, f"{kind}_id", None) for kind in tokenizer.SPECIAL_TOKENS_ATTRIBUTES
    }
    own = {kind: number for kind, number in kinds.items() if isinstance(number, int)}
    after, rows = tokenizer.get_vocab(), merge.vocabulary.size
    return lambda values: with_moved_ids(values, before, after, own, rows=rows)


def _report(merge: Merge, outcome: Outcome, text: str) -> MergeReport:
    recipe = merge.recipe
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in merge.planned.values()})
    warnings = list(merge.layout.notes)
    if merge.vocabulary is not None:
        warnings += merge.vocabulary.warnings
    numbers = shard_numbers.read(outcome.folder)
    earlier = len(merge.layout.outputs) - len(outcome.tensors)
    if earlier:
        warnings.append(
            f"{earlier} tensors were merged by an earlier, interrupted run; seconds are those of the last"
        )
    names = recipe.model_names()
    sources = {name: merge.sources.open(name).weights.folder for name in names}
    return MergeReport(
        recipe_text=text,
        method=recipe.method,
        base=recipe.base_model,
        experts=_experts(merge),
        models=merge.identities,
        output_dtype=", ".join(types),
        seconds=outcome.seconds,
        bytes_read=bytes_of(merge.layout.outputs),
        bytes_written=sum(shard.bytes for shard in merge.shards),
        seed=recipe.seed,
        versions=_versions(),
        tensors=[numbers[output.name] for output in merge.layout.outputs],
        warnings=warnings,
        hub_ids={name: name for name, folder in sources.items() if "/" in name and not Path(name).exists()},
    )


def _experts(merge: Merge) -> list[str]:
    """Every model that is merged as an expert of some tensor, in the recipe's order."""
    used = {part.source.name for output in merge.layout.outputs for part in output.experts}
    return [name for name in merge.recipe.model_names() if name in used]


def _tensor(merge: Merge, done: Done) -> TensorReport:
    notes, shape = done.notes, merge.planned[done.output.name].shape
    numbers = done.sums.finish() if done.sums is not None else None
    elements = prod(shape)
    extra = {key: value for key, value in notes.items() if key not in _NOTED}
    return TensorReport(
        name=done.output.name,
        shape=shape,
        method=merge.recipe.method if done.output.entry.floating else "copied",
        elements=elements,
        experts=[part.source.name for part in done.output.experts],
        density=notes.get("density"),
        ranks=notes.get("ranks"),
        cosines=numbers.cosines if numbers else None,
        conflicts=numbers.conflicts if numbers else None,
        relative_norms=numbers.relative_norms if numbers else None,
        condition=notes.get("condition"),
        settings={**done.output.config.model_dump(mode="json", by_alias=True), **extra},
        warnings=list(notes.get("warnings", ())),
        sampled=numbers.elements if numbers is not None and numbers.elements < elements else None,
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    return {**found, "trivet": __version__}


__all__ = ["JSON_FILE", "Merged", "is_done", "merge_checkpoints", "open_merge"]
