"""The model card of a trained model: what was trained how, on what, and what came of it."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from trivet._markdown import code, escaped, fenced
from trivet.catalogue import papers


def model_card(record: Mapping[str, Any]) -> str:
    """The card as Markdown with YAML front matter, from the record of a run."""
    paper = papers.paper_of(record["paper"])
    config, name = record["config"], record["method"].removeprefix("train/")
    library = "peft" if config.get("adapter") else "transformers"
    missing = record.get("no_solution")
    front: dict[str, Any] = {} if missing else {"library_name": library}
    front["tags"] = ["trivet", record["method"].replace("/", "-")]
    source = f"[{paper.title}]({paper.url})" if paper else _arxiv(record["paper"])
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {code(config['model'])} after {escaped(record['method'])}",
        *(["**No solution found: this folder holds no model.**"] if missing else []),
        *(escaped(notice) for notice in record.get("notices", [])),
        f"Trained with Trivet. {'Method: ' + source + '.' if source else ''}".strip(),
        "## Settings",
        fenced(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "yaml"),
        f"Save them as `config.yaml` and run `trivet train {name} config.yaml OUT`. "
        f"{escaped(record.get('note', ''))}".strip(),
        "## Data",
        "\n".join(f"- {escaped(note)}" for note in record.get("data", [])) or "- no notes",
        "## What came of it",
        _metrics(record.get("metrics", {})),
        "## Software",
        ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _arxiv(paper: str | None) -> str:
    return f"[arXiv {paper}](https://arxiv.org/abs/{paper})" if paper else ""


def _metrics(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return "Nothing was held out, so nothing is claimed."
    rows = [f"| {escaped(name)} | {_shown(value)} |" for name, value in metrics.items()]
    return "\n".join(["| figure | value |", "|---|---:|", *rows])


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escaped(json.dumps(value, ensure_ascii=False))
