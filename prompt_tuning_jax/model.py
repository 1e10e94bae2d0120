"""The frozen model as a Python object: logits, loss, generation and rank classification.

import prompt_tuning_jax as pt
model = pt.load_model("bundled")
prompt = pt.load_prompt("runs/sentiment/best")
labels, scores = model.classify(["The soup was cold."], ["positive", "negative"], prompt=prompt)
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from prompt_tuning_jax import decoding, sharding
from prompt_tuning_jax.checkpoints import huggingface, t5x
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.prompt_file import TunedPrompt
from prompt_tuning_jax.checkpoints.t5x_checkpoint import is_checkpoint
from prompt_tuning_jax.data import eval_batches
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.losses import weighted_loss
from prompt_tuning_jax.prompts import Prompt
from prompt_tuning_jax.t5 import T5Config, Transformer
from prompt_tuning_jax.vocabulary import Vocabulary

BUNDLED = Path(__file__).parent / "bundled" / "model"
PromptLike = TunedPrompt | Float[Array, "prompt embed"] | np.ndarray | None


class Generated(NamedTuple):
    """Texts in the order of the inputs, and the log-probability score of each [n]."""

    texts: list[str]
    scores: np.ndarray


class Classified(NamedTuple):
    """Best verbalizer of each input, and every verbalizer's log-probability [n, C]."""

    labels: list[str]
    scores: np.ndarray


@functools.lru_cache
def network_for(config: T5Config, prompt_length: int | None) -> Transformer:
    """The network, one object for equal arguments so that compiled programs are reused."""
    if prompt_length is None:
        return Transformer(config)
    return Transformer(config, prompt=functools.partial(Prompt, length=prompt_length))


def with_prompt(params: Mapping[str, Any], values: Any) -> dict[str, Any]:
    """`params` with the prompt at `encoder/prompt/prompt`; nothing is copied."""
    return {**params, "encoder": {**params["encoder"], "prompt": {"prompt": values}}}


def prompt_of(params: Mapping[str, Any]) -> Any | None:
    """The prompt inside `params`, or None."""
    return params["encoder"].get("prompt", {}).get("prompt")


def bind(
    config: T5Config, params: Mapping[str, Any], tokens: Any, layout: str
) -> tuple[Transformer, Any, Any]:
    """The network for `params`, the joined tokens [B, S] and prompt positions [B, S] (or None)."""
    prompt = prompt_of(params)
    if prompt is None:
        return network_for(config, None), tokens, None
    length = prompt.shape[-2]
    tokens, positions = place_prompt(tokens, length, layout, config.eos_id)
    return network_for(config, length), tokens, positions


def apply(
    config: T5Config,
    params: Mapping[str, Any],
    batch: Mapping[str, Any],
    layout: str = "prefix",
    dropout_rng: Any | None = None,
) -> Float[Array, "batch length vocab"]:
    """Logits for a batch with T5X's keys; the prompt, if any, is in `params`."""
    network, tokens, positions = bind(config, params, batch["encoder_input_tokens"], layout)
    return network.apply(
        {"params": params},
        tokens,
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        prompt_positions=positions,
        enable_dropout=dropout_rng is not None,
        rngs=None if dropout_rng is None else {"dropout": dropout_rng},
    )


_apply = jax.jit(apply, static_argnames=("config", "layout"))


@functools.partial(jax.jit, static_argnames=("config", "layout", "z_loss"))
def _loss(config, params, batch, layout, z_loss):
    logits = apply(config, params, batch, layout)
    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    return weighted_loss(logits, targets, weights, z_loss)


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenModel:
    """A pre-trained T5 and its vocabulary. Nothing here changes a weight.

    Attributes:
      config: the network's shape.
      params: nested dict of weights with T5X's names.
      vocabulary: needed only by the methods that take text.
      name: where it was loaded from, as prompt files record it.
      mesh: devices to spread batches over; None for one device.
    """

    config: T5Config
    params: Mapping[str, Any]
    vocabulary: Vocabulary | None = None
    name: str = "model"
    mesh: Mesh | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights; prompt files carry it."""
        return fingerprint(self.params)

    @property
    def embeddings(self) -> Float[Array, "vocab embed"]:
        """The input embedding table."""
        return self.params["token_embedder"]["embedding"]

    def replace(self, **changes: Any) -> "FrozenModel":
        """A copy with some attributes changed, sharing the weights."""
        return dataclasses.replace(self, **changes)

    def logits(
        self,
        encoder_input_tokens: Int[Array, "batch tokens"],
        decoder_input_tokens: Int[Array, "batch length"],
        prompt: PromptLike = None,
    ) -> Float[Array, "batch length vocab"]:
        """Next-token logits, without dropout.

        Args:
          encoder_input_tokens: [B, T], right-padded with 0, without the prompt.
          decoder_input_tokens: [B, L], starting with 0.
          prompt: a `TunedPrompt`, or an array [P, D] (placed as a prefix).
        """
        decoder_input_tokens = jnp.asarray(decoder_input_tokens)
        batch = {
            "encoder_input_tokens": jnp.asarray(encoder_input_tokens),
            "decoder_input_tokens": decoder_input_tokens,
            "decoder_target_tokens": jnp.ones_like(decoder_input_tokens),
        }
        params, layout = self.prompted(prompt)
        return _apply(self.config, params, batch, layout)

    def loss(
        self, batch: Mapping[str, Any], prompt: PromptLike = None, z_loss: float = 1e-4
    ) -> Float[Array, ""]:
        """Cross-entropy plus z-loss summed over target tokens, without dropout.

            gradient = jax.grad(lambda p: model.loss(batch, p))(prompt)   # [P, D]

        Args:
          batch: T5X's keys encoder_input_tokens [B, T], decoder_input_tokens [B, L],
            decoder_target_tokens [B, L], decoder_loss_weights [B, L].
          prompt: as for `logits`.
        """
        params, layout = self.prompted(prompt)
        batch = {name: jnp.asarray(x) for name, x in batch.items()}
        return _loss(self.config, params, batch, layout, z_loss)

    def generate_tokens(
        self,
        encoder_input_tokens: Int[Array, "batch tokens"],
        prompt: PromptLike = None,
        beams: int = 1,
        max_length: int = 32,
        length_penalty: float = 0.0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> tuple[Int[Array, "batch length"], Float[Array, " batch"]]:
        """Decodes token ids: greedy, beam search, or sampling where `temperature` > 0.

        Returns:
          tokens [B, L] without the start token and 0 after EOS, and scores [B]: the sum of
          log-probabilities over generated_length ** length_penalty.
        """
        options = {
            "max_length": max_length,
            "beams": beams,
            "length_penalty": length_penalty,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
        }
        rows = np.arange(len(encoder_input_tokens))
        return self._decode(
            jnp.asarray(encoder_input_tokens), prompt, _row_keys(seed, rows), options
        )

    def generate(
        self,
        texts: Sequence[str],
        prompt: PromptLike = None,
        beams: int = 1,
        max_length: int = 32,
        length_penalty: float = 0.0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 32,
        max_input_length: int = 512,
    ) -> Generated:
        """Texts for texts, in order. What text i samples depends on `seed` and i alone.

        model.generate(["The film was a joy."], prompt=prompt).texts   # ["positive"]
        """
        options = {
            "max_length": max_length,
            "beams": beams,
            "length_penalty": length_penalty,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
        }
        vocabulary = self.text_vocabulary("generate")
        outputs, scores = [""] * len(texts), np.zeros(len(texts), np.float32)
        for rows, tokens in self._batches(texts, batch_size, max_input_length):
            padded = np.pad(rows, (0, len(tokens) - len(rows)))
            ids, sums = self._decode(tokens, prompt, _row_keys(seed, padded), options)
            scores[rows] = np.asarray(sums)[: len(rows)]
            for row, row_ids in zip(rows, np.asarray(ids), strict=False):
                outputs[row] = vocabulary.decode(row_ids)
        return Generated(outputs, scores)

    def classify(
        self,
        texts: Sequence[str],
        verbalizers: Sequence[str],
        prompt: PromptLike = None,
        batch_size: int = 32,
        max_input_length: int = 512,
    ) -> Classified:
        """Rank classification: every verbalizer is scored, the most probable one is the label.

        model.classify(["The film was a joy."], ["positive", "negative"], prompt=prompt).labels
        """
        params, layout = self.prompted(prompt)
        label_tokens = self._label_tokens(verbalizers)
        scores = np.zeros((len(texts), len(verbalizers)), np.float32)
        for rows, tokens in self._batches(texts, batch_size, max_input_length):
            network, tokens, positions = bind(self.config, params, tokens, layout)
            ranked = decoding.rank(
                network, params, tokens, label_tokens, prompt_positions=positions
            )
            scores[rows] = np.asarray(ranked)[: len(rows)]
        return Classified([verbalizers[i] for i in scores.argmax(axis=-1)], scores)

    def _decode(
        self, tokens: Array, prompt: PromptLike, keys: Array, options: Mapping[str, Any]
    ) -> tuple[Int[Array, "batch length"], Float[Array, " batch"]]:
        """Generation of one batch; `keys` [B] make what each row samples its own."""
        params, layout = self.prompted(prompt)
        network, tokens, positions = bind(self.config, params, tokens, layout)
        return decoding.generate_tokens(
            network, params, tokens, rng=keys, prompt_positions=positions, **options
        )

    def prompted(self, prompt: PromptLike) -> tuple[Mapping[str, Any], str]:
        """Weights including the prompt, and its layout; without one, whatever params hold."""
        if prompt is None:
            return self.params, "prefix"
        layout = prompt.layout if isinstance(prompt, TunedPrompt) else "prefix"
        values = prompt.values if isinstance(prompt, TunedPrompt) else prompt
        values = jnp.asarray(values, jnp.float32)
        if values.ndim != 2 or values.shape[1] != self.config.emb_dim:
            raise ValueError(
                f"A prompt for {self.name} must be [P, {self.config.emb_dim}], got "
                f"{list(values.shape)}; it was made for a model of another width."
            )
        return with_prompt(self.params, values), layout

    def _batches(
        self, texts: Sequence[Any], batch_size: int, max_input_length: int
    ) -> Iterator[tuple[np.ndarray, Array]]:
        """(rows of `texts`, their padded tokens) in buckets of similar length."""
        if isinstance(texts, str):
            raise ValueError(f"Expected a list of texts, got one string: {texts[:40]!r}.")
        examples = [{"inputs": text} for text in texts]
        vocabulary = self.text_vocabulary("tokenise")
        lengths = {"inputs": max_input_length, "targets": 1}
        for rows, batch in eval_batches(
            examples, vocabulary, batch_size=batch_size, lengths=lengths
        ):
            tokens = batch["encoder_input_tokens"]
            if self.mesh is not None:
                yield rows, jax.device_put(tokens, sharding.batch_sharding(self.mesh))
            else:
                yield rows, jnp.asarray(tokens)

    def _label_tokens(self, verbalizers: Sequence[str]) -> Int[Array, "labels length"]:
        """[C, L] ids ending in EOS, 0-padded."""
        vocabulary = self.text_vocabulary("classify")
        if not verbalizers or isinstance(verbalizers, str):
            raise ValueError(f"Expected a list of verbalizers to choose from, got {verbalizers!r}.")
        ids = [[*vocabulary.encode(label), vocabulary.eos_id] for label in verbalizers]
        length = max(map(len, ids))
        return jnp.array([row + [0] * (length - len(row)) for row in ids], jnp.int32)

    def text_vocabulary(self, action: str) -> Vocabulary:
        """The vocabulary, or an error that says what needs it."""
        if self.vocabulary is None:
            raise ValueError(
                f"{self.name} has no vocabulary, so it cannot {action} text: name its spiece.model "
                "(load_model's `vocabulary`; VOCABULARY on the command line), or pass token ids to "
                "`logits` or `generate_tokens`."
            )
        return self.vocabulary


def _row_keys(seed: int, rows: np.ndarray) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(rows))


def load_model(
    path_or_name: str | Path = "bundled",
    dtype: Any = jnp.float32,
    verbose: bool = False,
    vocabulary: str | Path | None = None,
) -> FrozenModel:
    """Loads a frozen T5.

        model = pt.load_model("bundled")
        model = pt.load_model("checkpoints/t5-v1_1-small", dtype=jnp.bfloat16)
        model = pt.load_model("gs://bucket/t5/checkpoint_1100000", vocabulary="spiece.model")

    Args:
      path_or_name: "bundled", a Hugging Face T5 directory, a T5X checkpoint (see
        `checkpoints.t5x`; a prompt in it is left out), or a hub name where there is a network.
      dtype: of the weights in memory and of the activations; prompts stay float32.
      verbose: print the table of matched, missing and unexpected weights.
      vocabulary: the model's `spiece.model`, where its directory does not hold one. Without it
        the methods that take text do not work.

    Raises:
      FileNotFoundError: no such directory, and no such hub name within reach.
      ValueError: missing or misshapen weights, which are never replaced by random numbers; or the
        vocabulary is not this model's.
    """
    bundled = str(path_or_name) == "bundled"
    source = BUNDLED if bundled else path_or_name
    report, found = print if verbose else None, None
    if is_checkpoint(source):
        config, params = t5x.load(source, dtype, report=report)
    else:
        config, params, found = huggingface.load(source, dtype, report)
    if vocabulary is not None:
        found = huggingface.read_vocabulary(vocabulary, config)
    params = jax.tree.map(jnp.asarray, params)
    return FrozenModel(config, params, found, str(path_or_name))
