"""What the HTTP interface is told: who may ask, and for how much."""

import dataclasses

MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """Who may ask, and for how much.

    Attributes:
      token: the bearer token that requests show; None: none is asked for.
      max_body: the most bytes of a request.
      max_upload: the most bytes of a prompt that is sent.
      max_texts: the most texts, or completions of texts, of a request.
      timeout: seconds after which an answer is no longer waited for; a request may ask for less.
      body_timeout: seconds in which a request must have been sent, and a second more for each
        64 KiB of it that came.
    """

    token: str | None = None
    max_body: int = MIB
    max_upload: int = 64 * MIB
    max_texts: int = 128
    timeout: float = 60.0
    body_timeout: float = 30.0
