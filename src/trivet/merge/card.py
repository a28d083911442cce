"""The model card of a merged model: what it is made of, and how to make it again.

The front matter has the keys that the Hugging Face hub knows for merges
(https://huggingface.co/docs/hub/model-cards). Names of models come from a recipe and are shown as they are:
in code spans, which no text in them can leave.
"""

import yaml

from trivet._markdown import code, escaped, fenced
from trivet.merge.report import MergeReport, Summary, pairs, summarise


def model_card(report: MergeReport) -> str:
    """The card as Markdown with YAML front matter, for the ``README.md`` of the merged model."""
    software = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in report.versions.items())
    base = "" if report.base is None else f" on the base {code(report.base)}"
    parts = [
        f"---\n{_front_matter(report)}---",
        f"# Merge of {len(report.experts)} models with {escaped(report.method)}",
        f"This model was merged with Trivet: {', '.join(map(code, report.experts))}{base}. "
        f"Its weights are {escaped(report.output_dtype)}.",
        "## Models",
        _models(report),
        "## Recipe",
        fenced(report.recipe_text, "yaml"),
        "## How to make it again",
        "Save the recipe as `recipe.yaml` beside the models and run",
        fenced("trivet merge recipe.yaml OUT", "sh"),
        f"The same models (compare their identities) give the same weights. Seed {report.seed}; {software}.",
        "## What the merge did",
        _numbers(summarise(report)),
    ]
    if report.warnings:
        parts += ["## Warnings", "\n".join(f"- {escaped(warning)}" for warning in report.warnings)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(report: MergeReport) -> str:
    """The hub's metadata. ``base_model`` lists ids on the hub only: it refuses anything else."""
    names = [*([] if report.base is None else [report.base]), *report.experts]
    ids = list(dict.fromkeys(report.hub_ids[name] for name in names if name in report.hub_ids))
    values: dict[str, object] = {"base_model": ids, "base_model_relation": "merge"} if ids else {}
    values |= {"library_name": "transformers", "tags": ["merge", "trivet"]}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _models(report: MergeReport) -> str:
    """A table of the models with their identities."""
    lines = [
        "| model | role | identity (SHA-256 of weights, configuration and tokenizer, as far as used) |",
        "|---|---|---|",
    ]
    for name, identity in report.models.items():
        role = "base" if name == report.base else "expert" if name in report.experts else "other"
        lines.append(f"| {_cell(name)} | {role} | {_cell(identity)} |")
    return "\n".join(lines)


def _numbers(summary: Summary) -> str:
    """The summary in sentences; those that have no number are left out."""
    said = [f"{summary.tensors:,} tensors with {summary.elements:,} elements were written."]
    between = pairs(summary.cosines)
    if between:
        spread = f" ({min(between):.3f} to {max(between):.3f})" if len(between) > 1 else ""
        said.append(f"The mean cosine between task vectors is {sum(between) / len(between):.3f}{spread}.")
    if summary.conflicts is not None:
        said.append(f"Task vectors disagree in sign at {100 * summary.conflicts:.1f} % of all places.")
    kept = [share for share in summary.density or () if share is not None]
    if kept:
        shares = ", ".join(f"{100 * share:.1f} %" for share in kept)
        said.append(f"Of the experts' task vectors {shares} were kept.")
    return " ".join(said)


def _cell(text: str) -> str:
    """A code span in a table, where a bar would end the cell even in code."""
    return code(text).replace("|", "\\|")
