"""A text as its tokens come: whole characters only, up to where a stop string begins."""

from collections.abc import Sequence

from prompt_tuning_jax.vocabularies import Vocabulary

_HALF = "\ufffd"  # what a vocabulary makes of bytes that are not a character yet


class TextStream:
    """What may be shown of a text so far; all that was shown together is the text.

    stream = TextStream(vocabulary, stops=["\\n"])
    shown = [stream.add(token) for token in tokens]  # until stream.is_stopped
    shown.append(stream.end())

    Without stop strings that is what `vocabulary.decode(tokens)` gives, but for a run of byte
    tokens that is no text: the characters that are whole in it stay, where some tokenizers make
    all of it unreadable. With stop strings the text ends before the first that is complete, which
    is not shown itself.

    Attributes:
      is_stopped: whether a stop string came; more tokens change nothing.
      pieces: the characters that each token made whole.
      offsets: where in the text, its stop string included, each of them begins.
    """

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str] = ()):
        self._vocabulary, self._stops = vocabulary, tuple(stops)
        self._ids: list[int] = []
        self._start = self._read = 0  # what is between has been read, and is context for the rest
        self._held = ""  # whole characters that may yet be part of a stop string
        self._length = 0
        self.is_stopped = False
        self.pieces: list[str] = []
        self.offsets: list[int] = []

    def add(self, token: int) -> str:
        """The text that is certain with one more token; often none."""
        if self.is_stopped:
            return ""
        self._ids.append(token)
        piece = self._unread()
        if piece.endswith(_HALF):
            piece = ""
        if piece.strip():  # a space by itself is no context: a decoder drops it where a text begins
            self._start = self._read
        if piece:
            self._read = len(self._ids)
        self._note(piece)
        return self._certain(piece)

    def would_add(self, token: int) -> str:
        """The text of one more token; of one without text, such as the end, what it is called.

        A model's embedding may have rows past its vocabulary, and finds them likely if not trained.
        """
        if token >= self._vocabulary.size:
            return f"<unused_{token}>"
        before = self._vocabulary.decode(self._ids[self._start : self._read])
        text = self._vocabulary.decode([*self._ids[self._start :], token])[len(before) :]
        return text or self._vocabulary.id_to_piece(token)

    def end(self) -> str:
        """The rest, when no more tokens come."""
        if self.is_stopped:
            return ""
        piece = self._unread()
        if piece and self.pieces:  # half a character stays half
            self.pieces[-1] += piece
        text = self._certain(piece)
        rest, self._held = self._held, ""
        return text if self.is_stopped else text + rest

    def _unread(self) -> str:
        """The text of the tokens after those that were read."""
        before = self._vocabulary.decode(self._ids[self._start : self._read])
        return self._vocabulary.decode(self._ids[self._start :])[len(before) :]

    def _note(self, piece: str) -> None:
        self.pieces.append(piece)
        self.offsets.append(self._length)
        self._length += len(piece)

    def _certain(self, piece: str) -> str:
        """What is before a stop string, or cannot become one any more."""
        self._held += piece
        ends = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:  # the first to be complete, so that it does not matter how tokens divide the text
            self.is_stopped = True
            _, at = min(ends)
            text, self._held = self._held[:at], ""
            return text
        kept = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - kept
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """How many of a text's last characters a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
