"""The papers behind the methods: titles, claims, and whether they work here."""

import json
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from trivet._validation import Config, validate
from trivet.catalogue.registry import names
from trivet.errors import ConfigError

Stage = Literal[
    "train", "merge", "decode", "guard", "evaluate", "stress", "protect", "multimodal", "synthesize"
]
Status = Literal["works", "planned"]

_FILE = Path(__file__).with_name("papers.yaml")


class Paper(Config):
    """One paper. ``summary`` says in our words what it brings, ``claim`` what its authors report, ``basis``
    where the claim was read (``secondary``: not checked against the paper)."""

    number: int
    title: str
    arxiv: str
    date: date
    stage: Stage
    summary: str
    claim: str
    basis: Literal["abstract", "paper", "secondary"]
    methods: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where to read it."""
        return f"https://arxiv.org/abs/{self.arxiv}"


class OurFigure(Config):
    """What we measured beside a paper's claim: the content of ``benchmarks/results/NN.json``.

    ``figure`` is the sentence shown beside the claim; ``setting`` names model, data and size, which are
    smaller than the paper's; ``command`` repeats the measurement.
    """

    paper: int
    figure: str
    setting: str
    command: str
    date: date
    value: float | None = None
    interval: tuple[float, float] | None = None
    unit: str | None = None


@cache
def papers() -> tuple[Paper, ...]:
    """All papers, by number.

    Raises:
        ConfigError: ``papers.yaml`` breaks its schema.
    """
    rows = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return tuple(validate(Paper, row, where=f"{_FILE.name}: paper {row.get('number')}") for row in rows)


def results_folder() -> Path:
    """Our figures: beside this file in an installed package, ``benchmarks/results`` in a source tree."""
    packaged = Path(__file__).with_name("results")
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "benchmarks" / "results"


def our_figure(number: int) -> OurFigure | None:
    """Our figure for a paper, ``None`` where there is none yet.

    Raises:
        ConfigError: the file is not the JSON of an ``OurFigure`` for this paper.
    """
    path = results_folder() / f"{number:02d}.json"
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"is not JSON: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise ConfigError("must be one JSON object", where=str(path))
    figure = validate(OurFigure, value, where=str(path))
    if figure.paper != number:
        raise ConfigError(f"is the figure of paper {figure.paper}", where=str(path))
    return figure


def paper_of(arxiv: str | None) -> Paper | None:
    """The paper with this arXiv id, ``None`` where there is none."""
    return next((paper for paper in papers() if paper.arxiv == arxiv), None)


def missing_methods(paper: Paper) -> tuple[str, ...]:
    """The paper's methods that are not in the registry yet."""
    known = set(names())
    return tuple(name for name in paper.methods if name not in known)


def status(paper: Paper) -> Status:
    """``works`` when every method of the paper exists and our figure stands beside its claim."""
    return "planned" if missing_methods(paper) or our_figure(paper.number) is None else "works"


def search(words: tuple[str, ...]) -> list[Paper]:
    """Papers whose title, summary, stage or methods hold every word; a number or an arXiv id finds its paper.

    Papers with the words in their title come first; otherwise the order is by number.
    """
    if len(words) == 1:
        word = words[0].lower().removeprefix("arxiv:")
        for paper in papers():
            if word.isdecimal() and int(word) == paper.number:
                return [paper]
            if word.split("v")[0] == paper.arxiv or word == paper.url:
                return [paper]
    wanted = [word.casefold() for word in words]
    found = []
    for paper in papers():
        text = " ".join((paper.title, paper.summary, paper.stage, *paper.methods)).casefold()
        if all(word in text for word in wanted):
            found.append(paper)
    return sorted(found, key=lambda paper: not all(word in paper.title.casefold() for word in wanted))
