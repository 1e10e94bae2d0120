"""What the HTTP interface is told: who may ask, and for how much."""

import dataclasses

MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """Who may ask, and for how much.

    Attributes:
      max_upload: the most bytes of a prompt that is sent.
      max_texts: the most texts, or completions of texts, of a request.
      timeout: seconds after which an answer is no longer waited for; a request may ask for less.
      token: the bearer token that requests show; None: none is asked for.
      max_body: the most bytes of a request.
      body_timeout: seconds in which a request must have been sent, and a second more for each
        64 KiB of it that came.
    """

    max_upload: int
    max_texts: int
    timeout: float
    token: str | None = None
    max_body: int = MIB
    body_timeout: float = 30.0
