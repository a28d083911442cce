"""What Inspect AI finds of Trivet by its entry point: the model provider ``trivet/…`` and the evaluations.

Inspect is loaded whenever this file is; torch and transformers come with the first request.
"""

from typing import TYPE_CHECKING

from inspect_ai.model import modelapi

from trivet.evaluate.tasks import (
    capability as capability,
)
from trivet.evaluate.tasks import (
    capability_ll as capability_ll,
)
from trivet.evaluate.tasks import (
    harmless as harmless,
)
from trivet.evaluate.tasks import (
    helpful as helpful,
)
from trivet.evaluate.tasks import (
    honest as honest,
)
from trivet.evaluate.tasks import (
    over_refusal as over_refusal,
)
from trivet.evaluate.tasks import (
    prompts as prompts,
)

if TYPE_CHECKING:
    from inspect_ai.model import ModelAPI


@modelapi(name="trivet")
def trivet() -> "type[ModelAPI]":
    """The provider; see ``trivet.systems.inspect_provider``."""
    from trivet.systems.inspect_provider import TrivetAPI

    return TrivetAPI
