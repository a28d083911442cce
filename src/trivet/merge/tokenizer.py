"""The tokenizer of a merged model: the base's, one model's, or the union of all.

The rule of mergekit is followed, so that its recipes mean the same; ``vocabulary`` then says which rows
belong to the tokens. Where mergekit leaves it open, Trivet decides: new tokens of a union follow in the order
of the models and of their ids there; a token whose id lies beyond a model's rows is one that this model does
not have; rows of padding are the mean of all tokens' rows, as mergekit makes them
(https://nlp.stanford.edu/~johnhew/vocab-expansion.html).

Accepted trade-off, as in mergekit: a union adds the other models' word pieces whole. They keep their rows,
but plain text is cut as the base's tokenizer cuts it.
"""

import filecmp
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trivet._files import write_json
from trivet.errors import MergeError, StoreError
from trivet.merge._tokenizer_files import Tokens, load_tokenizer, read_tokens, rows_of
from trivet.merge.tokenizer_rule import TokenizerRule
from trivet.merge.vocabulary import Vocabulary, fill_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def build_vocabulary(
    rule: TokenizerRule,
    base: str | None,
    models: Mapping[str, Path],
    folder_of: Callable[[str], Path] = Path,
) -> Vocabulary:
    """Apply a tokenizer rule.

    Args:
        base: the base's name in ``models``. Without one the first model's tokenizer stands in for the base's,
            and a token that several models have is averaged.
        models: name in the recipe → folder, of all models whose tensors are merged, the base among them.
        folder_of: finds the folder of a ``source`` that is none of ``models``.

    Raises:
        MergeError: a tokenizer is missing or damaged, or the rule names a model or token that is not there.
    """
    warnings: list[str] = []
    names = list(models)
    first = base if base is not None else names[0]
    tokens = _tokens_of_all(models, first, warnings)
    tokenizer = _output_tokenizer(rule, first, models, tokens, folder_of, warnings)
    ids: dict[str, int] = dict(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    numbers = list(ids.values())
    size = numbers[-1] + 1
    if rule.pad_to_multiple_of is not None:
        size = -(-size // rule.pad_to_multiple_of) * rule.pad_to_multiple_of
    padding = torch.ones(size, dtype=torch.bool)
    padding[numbers] = False
    rows = torch.full((len(names), size), -1)
    for place, name in enumerate(names):
        rows[place, numbers] = torch.tensor([tokens[name].row(token) for token in ids])
    known = (rows[:, numbers] >= 0).any(dim=0).tolist()
    orphans = [token for token, has_row in zip(ids, known, strict=True) if not has_row]
    orphans = [token for token in orphans if token not in rule.tokens or rule.tokens[token].source is None]
    if orphans:
        warnings.append(f"no model has a row for {_some(orphans)}: zeros")
    fill = fill_for(rows, ids, rule.tokens, base, tokens)
    return Vocabulary(tokenizer, size, tuple(rows), fill, padding, tuple(warnings))


def save(tokenizer: "PreTrainedTokenizerFast", folder: Path, chat_template: str | None = None) -> None:
    """Write the tokenizer's files to ``folder``; each is whole or absent.

    Args:
        chat_template: replaces the tokenizer's own.

    Raises:
        StoreError: the folder cannot be written.
    """
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tokenizer-") as work:
            tokenizer.save_pretrained(work)
            _settle(Path(work) / "tokenizer_config.json")
            for written in sorted(Path(work).iterdir()):
                written.replace(folder / written.name)
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror or error}", where=str(folder)) from error


def _settle(file: Path) -> None:
    """Make a saved tokenizer's settings say what it is, and not how it was loaded."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    for passing in ("is_local", "local_files_only", "name_or_path"):
        settings.pop(passing, None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # a name that every transformers knows
    write_json(file, settings)


def same_vocabulary(one: Path, two: Path) -> str | None:
    """How the tokens or ids of two models' tokenizers differ, in a sentence; ``None`` where they do not.

    A folder without tokenizer files has nothing to compare and counts as the same.

    Raises:
        MergeError: a tokenizer has no ``tokenizer.json``, or is damaged.
    """
    files = (one / "tokenizer.json", two / "tokenizer.json")
    if all(file.is_file() for file in files) and filecmp.cmp(*files, shallow=False):
        return None  # the usual case, and reading the tokens takes a second
    first, second = read_tokens(one), read_tokens(two)
    if first is None or second is None or first.ids == second.ids:
        return None
    said = [f"the tokenizers of {one} and {two} differ"]
    for folder, here, there in ((one, first, second), (two, second, first)):
        alone = [token for token in here.ids if token not in there.ids]
        if alone:
            said.append(f"only {folder} has {_some(alone)}")
    moved = [token for token, number in first.ids.items() if second.ids.get(token, number) != number]
    if moved:
        said.append(f"{_some(moved)} differ in their ids ({first.ids[moved[0]]} and {second.ids[moved[0]]})")
    return "; ".join(said)


def _tokens_of_all(models: Mapping[str, Path], first: str, warnings: list[str]) -> dict[str, Tokens]:
    """The tokens of each model; one without a tokenizer is taken to have the base's."""
    read = {name: read_tokens(folder) for name, folder in models.items()}
    base = read[first]
    if base is None:
        raise MergeError("has no tokenizer", where=first, hint="save the tokenizer to the model's folder")
    found: dict[str, Tokens] = {}
    for name, tokens in read.items():
        if tokens is None:
            warnings.append(f"{name} has no tokenizer; it is taken to have the one of {first}")
            tokens = replace(base, rows=rows_of(models[name]))
        found[name] = tokens
    return found


def _output_tokenizer(
    rule: TokenizerRule,
    first: str,
    models: Mapping[str, Path],
    tokens: Mapping[str, Tokens],
    folder_of: Callable[[str], Path],
    warnings: list[str],
) -> "PreTrainedTokenizerFast":
    """The tokenizer that ``source`` means, with the tokens that the rule names besides."""
    name = first if rule.source in {"base", "union"} else rule.source
    folder = models[name] if name in models else folder_of(name)
    known = tokens.get(name) or read_tokens(folder)
    if known is None:
        raise MergeError("has no tokenizer", where=str(folder), hint="check tokenizer.source in the recipe")
    tokenizer = load_tokenizer(folder, known)
    if rule.source == "union":
        others = [tokens[other] for other in models if other != first]
        _add_all(tokenizer, [known, *others], warnings)
    present = tokenizer.get_vocab()
    new = [token for token in rule.tokens if token not in present]
    if new:
        tokenizer.add_tokens(new)
    return tokenizer


def _add_all(tokenizer: Any, models: Sequence[Tokens], warnings: list[str]) -> None:
    """Add what the other models' tokenizers have: plain tokens, then added ones with their flags."""
    from transformers import AddedToken

    present = tokenizer.get_vocab()
    plain: dict[str, None] = {}
    added: dict[str, dict[str, bool]] = {}
    differing: dict[str, None] = {}
    for model in models:
        for token in model.ids:
            if model.row(token) < 0:
                continue
            if token not in model.added:
                plain[token] = None
            elif added.setdefault(token, model.added[token]) != model.added[token]:
                differing[token] = None
    new = [token for token in plain if token not in added and token not in present]
    tokenizer.add_tokens(new)
    tokenizer.add_tokens([AddedToken(token, **flags) for token, flags in added.items()])
    if differing:
        warnings.append(f"{_some(list(differing))}: added with different flags; the first model's are kept")


def _some(tokens: Sequence[str]) -> str:
    """``3 tokens ('a', 'b', …)``: the first two, in quotes."""
    shown = ", ".join(repr(token[:40]) for token in tokens[:2]) + (", …" if len(tokens) > 2 else "")
    return f"{len(tokens)} token{'s' if len(tokens) != 1 else ''} ({shown})"
