"""Plain sampling: the next token is drawn from the model's own distribution, one after another.

y_t ~ p(· | x, y_<t), after the penalties, temperature and filters of the request's ``sampling``;
temperature 0 takes the most likely token (greedy decoding). The answer streams token by token. It costs one
forward pass of the prompt and one token position for each token of the answer: the price that every other
decoding method is compared with.

Common practice; there is no paper to cite.
"""

from trivet import _validation
from trivet.catalogue import method
from trivet.models.operations import Extend, Program, ProgramContext


class Config(_validation.Config):
    """Nothing to set: temperature and filters belong to the system's ``sampling``."""


@method(paper=None, version=1, takes=("Chat",), gives=("Chat",), needs=("extend",))
def program(config: Config, context: ProgramContext) -> Program:
    """Draw one continuation of the prompt and commit each token as it comes."""
    yield Extend(
        prefix=context.prompt,
        max_tokens=context.max_tokens,
        sampling=context.sampling,
        stop=context.stop,
        top_logprobs=context.top_logprobs,
        commit=True,
    )
