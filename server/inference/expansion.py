"""One input of a request as the rows that it takes: one, one for each window of a long text, or one for each choice."""

from __future__ import annotations

from pydantic import JsonValue

from prompt_store.template import CONTEXT
from server.inference.errors import RequestError
from server.inference.parameters import AnswerParameters, ChoiceParameters, Parameters, TokenParameters
from server.inference.question_answering import has_context, null_place
from server.servable import Servable
from server.text.choices import fill_choices
from server.text.errors import FieldError
from server.text.filled import Filled
from server.text.windows import WindowRules

Rows = tuple[Filled, ...]
"""The rows of one input, in order, never none."""


def expand(servable: Servable, item: JsonValue, parameters: Parameters, max_rows: int) -> Rows:
    """Fill the task's template with one item. Raises RequestError, and TextError also for more than `max_rows`."""
    match parameters:
        case AnswerParameters():
            rows = servable.filler.fill_windows(item, WindowRules(parameters.doc_stride, max_rows))
            if not has_context(rows[0]):
                raise FieldError(f"field {CONTEXT!r} is empty: there is nothing to find an answer in")
            if parameters.handle_impossible_answer and null_place(rows[0], servable.null_id) is None:
                raise RequestError(
                    "this task's rows have no <cls> token, at which a model says that there is no answer",
                    "parameters.handle_impossible_answer",
                )
            return rows
        case TokenParameters(stride=int() as stride):
            return servable.filler.fill_windows(item, WindowRules(stride, max_rows))
        case ChoiceParameters():
            return fill_choices(servable.filler, item, max_rows)
        case _:
            return (servable.filler.fill_input(item),)
