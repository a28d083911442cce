"""Every example is what it says it is: its keys are right and its names exist."""

from pathlib import Path

import pytest

from trivet.study.spec import SHIPPED, load_study
from trivet.systems import load_spec

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_studies(path):
    study = load_study(path)
    assert len(study.systems) >= 4
    assert {entry.label for entry in study.evaluations} == set(SHIPPED) - {"capability_ll"}
    for value in study.systems.values():
        spec, _ = load_spec(value, base=path.parent)
        assert spec.model == "smollm2-135m-instruct"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("systems/*.yaml")), ids=lambda path: path.name)
def test_systems(path):
    spec, folder = load_spec(str(path))
    assert spec.name == path.stem and folder == path.parent
