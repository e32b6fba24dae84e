"""One generated text while it is written: tokens to text, cut at its stop strings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from server.engine.errors import EngineError
from server.engine.types import FinishReason, Outcome, Token
from server.inference.answer import TokenEvent
from server.serving_engine import RowChannel
from server.text.detokenise import Detokeniser
from server.text.stops import StopScanner
from server.text.token_reader import TokenReader


@dataclass(frozen=True, slots=True)
class Written:
    """A finished text with its tokens; those of a stop string are counted, not shown."""

    text: str
    finish_reason: FinishReason
    tokens: tuple[Token, ...]
    outcome: Outcome


class Writing:
    """Follow one generation row. Take what was `written`; before, `pieces` may be iterated to its end, once."""

    def __init__(self, row: RowChannel, tokenizer: TokenReader, stops: Sequence[str]) -> None:
        self._row = row
        self._detokeniser = Detokeniser(tokenizer)
        self._scanner = StopScanner(stops)
        self._tokens: list[Token] = []
        self._text: list[str] = []
        self._is_followed = False

    async def pieces(self) -> AsyncGenerator[TokenEvent, None]:
        """Yield an event for each token as its step ends; a stop string ends the row. Raises EngineError."""
        self._is_followed = True
        async for token in self._row:
            self._tokens.append(token)
            yield self._event(token, self._show(self._detokeniser.push(token.token_id)))
            if self._scanner.matched is not None:
                self._row.abort()
                return
        rest = self._show(self._detokeniser.finish())
        if self._scanner.matched is None:
            rest += self._keep(self._scanner.finish())
        if rest and self._tokens:
            yield self._event(self._tokens[-1], rest)

    async def written(self) -> Written:
        """Return the whole text, following the row first if nobody did. Raises EngineError."""
        if not self._is_followed:
            async for _ in self.pieces():
                pass
        outcome = await self._outcome()
        is_stopped = self._scanner.matched is not None
        reason = FinishReason.STOP if is_stopped else outcome.finish_reason
        return Written("".join(self._text), reason, tuple(self._tokens), outcome)

    async def _outcome(self) -> Outcome:
        try:
            return await self._row.outcome()
        except EngineError:
            if self._scanner.matched is None:
                raise
            # The answer was complete: the row failed in the step that its abort came too late for.
            return Outcome(FinishReason.ABORTED)

    def _show(self, delta: str) -> str:
        return self._keep(self._scanner.push(delta))

    def _keep(self, text: str) -> str:
        self._text.append(text)
        return text

    @staticmethod
    def _event(token: Token, text: str) -> TokenEvent:
        return TokenEvent(token.index, text, token.token_id, token.logprob)
