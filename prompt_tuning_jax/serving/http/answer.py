"""One answer to a text as its tokens come, and as a completion shows it."""

import math
from typing import Any

from prompt_tuning_jax.serving.http.text_stream import TextStream
from prompt_tuning_jax.serving.requests import Token


class Answer:
    """One answer as its tokens come.

    Attributes:
      reason: why it ended, as OpenAI calls it; None before.
    """

    def __init__(self, number: int, stream: TextStream, told: int | None):
        self._number, self._stream, self._told = number, stream, told
        self._log_probs: list[float] = []
        self._top: list[dict[str, float]] = []
        self._shown = 0  # tokens whose log-probabilities were handed out
        self.reason: str | None = None

    @property
    def count(self) -> int:
        return len(self._stream.pieces)

    @property
    def is_stopped(self) -> bool:
        return self._stream.is_stopped

    def add(self, token: Token) -> str:
        if self._told:
            self._top.append(self._likeliest(token))
        text = self._stream.add(token.id)
        self._log_probs.append(token.log_prob)
        self.reason = "stop" if self.is_stopped else None
        return text

    def _likeliest(self, token: Token) -> dict[str, float]:
        """The tokens in this one's place; what a rule of the model forbids is none of them."""
        found: dict[str, float] = {}
        for each, log_prob in (*token.top, (token.id, token.log_prob)):
            if math.isfinite(log_prob):
                found.setdefault(self._stream.would_add(each), log_prob)
        return found

    def finish(self, reason: str) -> str:
        text = self._stream.end()
        self.reason = "stop" if self.is_stopped else reason
        return text

    def choice(self, text: str) -> dict[str, Any]:
        """The answer, or what is new of it, as JSON has it."""
        logprobs = None
        if self._told is not None:
            new = slice(self._shown, self.count)
            self._shown = self.count
            logprobs = {
                "tokens": self._stream.pieces[new],
                "token_logprobs": self._log_probs[new],
                "text_offset": self._stream.offsets[new],
                "top_logprobs": self._top[new] if self._told else None,
            }
        reason = self.reason
        return {"index": self._number, "text": text, "finish_reason": reason, "logprobs": logprobs}
