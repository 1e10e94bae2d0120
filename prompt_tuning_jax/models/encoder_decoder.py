"""What configs of models with an encoder and a decoder have in common."""

from collections.abc import Iterable


class EncoderDecoder:
    """Answers to what `models.family.NetworkConfig` asks."""

    @property
    def continues_inputs(self) -> bool:
        """Whether targets go on where the input ends: they begin in a decoder of their own."""
        return False

    def visibility_in(self, layouts: Iterable[str], visibility: str) -> str:
        """What a visibility of prompts that stand so is in this model: what it is called."""
        del layouts
        return visibility
