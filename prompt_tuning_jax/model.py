"""The frozen model as a Python object: logits, loss, generation and rank classification.

import prompt_tuning_jax as pt
model = pt.load_model("bundled")
prompt = pt.load_prompt("runs/sentiment/best")
labels, scores = model.classify(["The soup was cold."], ["positive", "negative"], prompt=prompt)

Where a prompt is asked for, `banks` has two more kinds: another prompt for each input, and an
ensemble.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.banks import BankRows, Ensemble, TunedPrompt, check_compatible, vote
from prompt_tuning_jax.bundled import BUNDLED
from prompt_tuning_jax.checkpoints import huggingface, quantize, t5x
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.t5x.checkpoint import is_checkpoint
from prompt_tuning_jax.data.batches import eval_batches
from prompt_tuning_jax.data.encoding import check_distinct
from prompt_tuning_jax.data.vocabulary import Vocabulary
from prompt_tuning_jax.decoding import generation
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.losses import weighted_loss
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.models.t5.apply import apply, bind, with_prompt
from prompt_tuning_jax.models.t5.scan import stack_layers

DTYPES = ("float32", "bfloat16", "int8")
PromptLike = TunedPrompt | Float[Array, "prompt embed"] | np.ndarray | BankRows | Ensemble | None
# One list of legal answers for all inputs, or one for each input.
LabelChoice = Sequence[str] | Sequence[Sequence[str]]


class DecodingOptions(TypedDict, total=False):
    """How text is generated; see `generation.generate_tokens`.

    Attributes:
      max_length: the most tokens to generate, EOS included; 64 where it is not given.
      beams, length_penalty: beam search, where `beams` is above 1.
      temperature, top_k, top_p: sampling, where `temperature` is above 0.
    """

    max_length: int
    beams: int
    length_penalty: float
    temperature: float
    top_k: int
    top_p: float


class Generated(NamedTuple):
    """Texts in the order of the inputs, and the log-probability score of each [n]."""

    texts: list[str]
    scores: np.ndarray


class Classified(NamedTuple):
    """Best verbalizer of each input, and every verbalizer's log-probability [n, C].

    Where inputs have labels of their own, the C columns are all labels in order of appearance, and
    those that are not an input's score -inf.
    """

    labels: list[str]
    scores: np.ndarray


class Prompted(NamedTuple):
    """A frozen model with a prompt in it: what the functions below work on."""

    config: T5Config
    params: Mapping[str, Any]
    layout: str


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
      known_fingerprint: that of the weights, where it is known: before `quantize` made them int8,
        `scanned` stacked them, or a mesh split them.
    """

    config: T5Config
    params: Mapping[str, Any]
    vocabulary: Vocabulary | None = None
    name: str = "model"
    mesh: Mesh | None = None
    known_fingerprint: str | None = None

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.params)
        dtype = max(leaves, key=lambda leaf: leaf.size).dtype
        facts = [repr(self.name), f"{sum(leaf.size for leaf in leaves):,} weights", str(dtype)]
        if self.mesh is not None:
            facts.append(",".join(f"{axis}:{size}" for axis, size in self.mesh.shape.items()))
        return f"FrozenModel({', '.join(facts)})"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights, in whichever dtype; prompt files carry it."""
        return self.known_fingerprint or fingerprint(self.params)

    @property
    def identity(self) -> dict[str, str | None]:
        """What tells it from other models: what `save_prompt` records of it."""
        vocabulary_hash = self.vocabulary.fingerprint if self.vocabulary else None
        return {"fingerprint": self.fingerprint, "vocabulary_hash": vocabulary_hash}

    def check(self, prompt: TunedPrompt, allow_mismatch: bool = False) -> None:
        """Refuses, with a ValueError, a prompt of another model; see `check_compatible`."""
        width = self.config.emb_dim
        check_compatible(prompt, **self.identity, emb_dim=width, allow_mismatch=allow_mismatch)

    @property
    def embeddings(self) -> Float[Array, "vocab embed"]:
        """The input embedding table, not as int8."""
        table = self.params["token_embedder"]
        return quantize.dequantize(table["embedding"], table.get("embedding_scale"))

    def scanned(self) -> "FrozenModel":
        """The same model with its layers' weights stacked, one layer compiled for all: `t5.scan`.

        Both copies of the weights are in memory until this one is let go.
        """
        return self.replace(
            config=dataclasses.replace(self.config, scan_layers=True),
            params=stack_layers(self.params),
            known_fingerprint=self.fingerprint,
        )

    def replace(self, **changes: Any) -> "FrozenModel":
        """A copy with some attributes changed, sharing the weights."""
        if "params" in changes:  # other weights have another fingerprint, unless the caller knows
            changes = {"known_fingerprint": None} | changes
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
          prompt: a `TunedPrompt`, an array [P, D] (placed as a prefix), or `bank.rows(...)`.
        """
        decoder_input_tokens = jnp.asarray(decoder_input_tokens)
        batch = {
            "encoder_input_tokens": jnp.asarray(encoder_input_tokens),
            "decoder_input_tokens": decoder_input_tokens,
            "decoder_target_tokens": jnp.ones_like(decoder_input_tokens),
        }
        config, params, layout = self.prompted(prompt)
        with sharding.active(self.mesh):
            return _apply(config, params, self._laid_out(batch, prompt), layout)

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
        config, params, layout = self.prompted(prompt)
        batch = self._laid_out({name: jnp.asarray(x) for name, x in batch.items()}, prompt)
        with sharding.active(self.mesh):
            return _loss(config, params, batch, layout, z_loss)

    def generate_tokens(
        self,
        encoder_input_tokens: Int[Array, "batch tokens"],
        prompt: PromptLike = None,
        seed: int = 0,
        **options: Unpack[DecodingOptions],
    ) -> tuple[Int[Array, "batch length"], Float[Array, " batch"]]:
        """Decodes token ids: greedy, beam search, or sampling where `temperature` > 0.

        Returns:
          tokens [B, L] without the start token and 0 after EOS, and scores [B]: the sum of
          log-probabilities over generated_length ** length_penalty.
        """
        batch = self._laid_out({"encoder_input_tokens": np.asarray(encoder_input_tokens)}, prompt)
        keys = _row_keys(seed, np.arange(len(encoder_input_tokens)))
        return self._decode(batch, prompt, keys, options)

    def generate(
        self,
        texts: Sequence[str],
        prompt: PromptLike = None,
        seed: int = 0,
        batch_size: int = 32,
        max_input_length: int = 512,
        numbers: Sequence[int] | None = None,
        **options: Unpack[DecodingOptions],
    ) -> Generated:
        """Texts for texts, in order.

            model.generate(["The film was a joy."], prompt=prompt).texts   # ["positive"]

        Args:
          numbers: those of the texts, 0, 1, ... if not given. What a text samples depends on `seed`
            and its number alone.
        """
        vocabulary = self.text_vocabulary("generate")
        outputs, scores = [""] * len(texts), np.zeros(len(texts), np.float32)
        examples = _as_inputs(texts)
        numbered = np.arange(len(texts)) if numbers is None else np.asarray(numbers, int)
        lengths = {"inputs": max_input_length, "targets": 1}
        for rows, batch in self.batches(examples, prompt, batch_size, lengths):
            padded = np.pad(rows, (0, self._inputs_at_once(prompt, batch_size) - len(rows)))
            ids, sums = self._decode(batch, prompt, _row_keys(seed, numbered[padded]), options)
            ids, sums = sharding.to_host((ids, sums))
            scores[rows] = sums[: len(rows)]
            for row, row_ids in zip(rows, ids, strict=False):
                outputs[row] = vocabulary.decode(row_ids)
        return Generated(outputs, scores)

    def classify(
        self,
        texts: Sequence[str],
        verbalizers: LabelChoice,
        prompt: PromptLike = None,
        batch_size: int = 32,
        max_input_length: int = 512,
    ) -> Classified:
        """Rank classification: every verbalizer is scored, the most probable one is the label.

            model.classify(["The film was a joy."], ["positive", "negative"], prompt=prompt).labels

        Args:
          verbalizers: the labels to choose from, or a list of such lists, one for each text.
        """
        labels, legal = _choices(verbalizers, len(texts))
        if isinstance(prompt, Ensemble):
            scores = self.member_scores(texts, labels, prompt, batch_size, max_input_length)
            scores = np.where(legal[:, None], scores, -np.inf)
            return Classified([labels[i] for i in vote(scores)], scores.mean(axis=1))
        scores = self._label_scores(texts, labels, prompt, batch_size, max_input_length)
        scores = np.where(legal, scores, -np.inf)
        return Classified([labels[i] for i in scores.argmax(axis=-1)], scores)

    def member_scores(
        self,
        texts: Sequence[str],
        verbalizers: Sequence[str],
        ensemble: Ensemble,
        batch_size: int = 32,
        max_input_length: int = 512,
    ) -> Float[np.ndarray, "texts members labels"]:
        """Log-probability of every verbalizer under every member; `banks.vote` decides by them."""
        copies, rows = ensemble.copies(texts)
        scores = self._label_scores(copies, verbalizers, rows, batch_size, max_input_length)
        return scores.reshape(len(texts), len(ensemble), len(verbalizers))

    def _label_scores(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        prompt: PromptLike,
        batch_size: int,
        max_input_length: int,
    ) -> Float[np.ndarray, "texts labels"]:
        config, params, layout = self.prompted(prompt)
        label_tokens = self._label_tokens(labels)
        scores = np.zeros((len(texts), len(labels)), np.float32)
        lengths = {"inputs": max_input_length, "targets": 1}
        for rows, batch in self.batches(_as_inputs(texts), prompt, batch_size, lengths):
            network, tokens, places = bind(config, params, batch, layout)
            with sharding.active(self.mesh):
                ranked = generation.rank(network, params, tokens, label_tokens, **places)
            scores[rows] = sharding.to_host(ranked)[: len(rows)]
        return scores

    def _decode(
        self, batch: Mapping[str, Any], prompt: PromptLike, keys: Array, options: DecodingOptions
    ) -> tuple[Int[Array, "batch length"], Float[Array, " batch"]]:
        """Generation of one batch; `keys[b]` seeds the sampling of row b."""
        config, params, layout = self.prompted(prompt)
        network, tokens, places = bind(config, params, batch, layout)
        members = len(prompt) if isinstance(prompt, Ensemble) else 1
        with sharding.active(self.mesh):
            return generation.generate_tokens(
                network, params, tokens, rng=keys, members=members, **places, **options
            )

    def prompted(self, prompt: PromptLike) -> Prompted:
        """The model with the prompt inside; without one, whatever params hold."""
        if prompt is None:
            return Prompted(self.config, self.params, "prefix")
        if isinstance(prompt, str | Path):
            raise ValueError(f"Expected a prompt, got its name: pass load_prompt({str(prompt)!r}).")
        layout, visibility = "prefix", self.config.prompt_visibility
        if isinstance(prompt, BankRows | Ensemble):
            values, visibility = prompt.bank.values, prompt.bank.visibility
        elif isinstance(prompt, TunedPrompt):
            layout, values, visibility = prompt.layout, prompt.values, prompt.visibility
        else:
            values = prompt
        values = jnp.asarray(values, jnp.float32)
        is_bank = isinstance(prompt, BankRows | Ensemble)
        if values.ndim != 2 + is_bank or values.shape[-1] != self.config.emb_dim:
            raise ValueError(
                f"A prompt for {self.name} must be [P, {self.config.emb_dim}], got "
                f"{list(values.shape)}; it was made for a model of another width."
            )
        config = dataclasses.replace(self.config, prompt_visibility=visibility)
        return Prompted(config, with_prompt(self.params, values), layout)

    def batches(
        self,
        examples: Sequence[Mapping[str, Any]],
        prompt: PromptLike,
        batch_size: int,
        lengths: Mapping[str, int],
    ) -> Iterator[tuple[np.ndarray, dict[str, Array]]]:
        """(rows of `examples`, their batch on the devices) in buckets of similar length."""
        vocabulary = self.text_vocabulary("tokenise")
        if isinstance(prompt, BankRows) and len(prompt) != len(examples):
            raise ValueError(f"{len(examples)} inputs, but rows of {len(prompt)} prompts.")
        batch_size = self._inputs_at_once(prompt, batch_size)
        for rows, batch in eval_batches(
            examples, vocabulary, batch_size=batch_size, lengths=lengths
        ):
            batch = self._laid_out(batch, prompt, rows)
            if self.mesh is not None:
                yield rows, sharding.put(batch, sharding.batch_sharding(self.mesh))
            else:
                yield rows, jax.tree.map(jnp.asarray, batch)

    def _inputs_at_once(self, prompt: PromptLike, batch_size: int) -> int:
        """So many inputs that they, or their copies for an ensemble, fill the mesh evenly."""
        copies = len(prompt) if isinstance(prompt, Ensemble) else 1
        parts = 1 if self.mesh is None else sharding.batch_parts(self.mesh)
        return -(-max(1, batch_size // copies) // parts) * parts

    def _laid_out(
        self, batch: Mapping[str, Any], prompt: PromptLike, rows: np.ndarray | None = None
    ) -> Mapping[str, Any]:
        """`batch` with room for the prompts and their layout; rows None: all in order.

        For a single prompt and numpy's tokens it is made here, in numpy: outside jit, JAX compiles
        each operation. Otherwise the compiled function makes it.
        """
        tokens, eos_id = batch["encoder_input_tokens"], self.config.eos_id
        if isinstance(prompt, BankRows | Ensemble):
            return prompt.place(batch, np.arange(len(tokens)) if rows is None else rows, eos_id)
        if prompt is None or not isinstance(tokens, np.ndarray):
            return batch
        tuned = prompt if isinstance(prompt, TunedPrompt) else TunedPrompt(np.asarray(prompt))
        if tuned.layout == "prefix" and tuned.visibility.startswith("isolated"):
            return batch
        tokens, positions = place_prompt(tokens, len(tuned.values), tuned.layout, eos_id)
        return {**batch, "encoder_input_tokens": tokens, "prompt_positions": positions}

    def _label_tokens(self, verbalizers: Sequence[str]) -> Int[Array, "labels length"]:
        """[C, L] ids ending in EOS, 0-padded."""
        vocabulary = self.text_vocabulary("classify")
        check_distinct(verbalizers, vocabulary)
        ids = [[*vocabulary.encode(label), vocabulary.eos_id] for label in verbalizers]
        length = max(map(len, ids))
        return jnp.array([row + [0] * (length - len(row)) for row in ids], jnp.int32)

    def text_vocabulary(self, action: str) -> Vocabulary:
        """The vocabulary, or an error that says what needs it."""
        if self.vocabulary is None:
            raise ValueError(
                f"{self.name} has no vocabulary, so it cannot {action} text: name its spiece.model "
                "(load_model's `vocabulary`; VOCABULARY, or --vocabulary, on the command line), or "
                "pass token ids to `logits` or `generate_tokens`."
            )
        return self.vocabulary


def _row_keys(seed: int, rows: np.ndarray) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(rows))


def _as_inputs(texts: Sequence[Any]) -> list[dict[str, Any]]:
    if isinstance(texts, str):
        raise ValueError(f"Expected a list of texts, got one string: {texts[:40]!r}.")
    return [{"inputs": text} for text in texts]


def _choices(
    verbalizers: LabelChoice, count: int
) -> tuple[list[str], Bool[np.ndarray, "texts labels"]]:
    """Every label that some text may have, and which ones each text may have."""
    if not verbalizers or isinstance(verbalizers, str | Mapping):
        raise ValueError(f"Expected a list of verbalizers to choose from, got {verbalizers!r}.")
    if isinstance(verbalizers[0], str):
        return list(verbalizers), np.ones((count, len(verbalizers)), bool)
    if len(verbalizers) != count:
        raise ValueError(f"Got {count} texts but {len(verbalizers)} lists of verbalizers.")
    labels = list(dict.fromkeys(itertools.chain.from_iterable(verbalizers)))
    return labels, np.array([[label in own for label in labels] for own in verbalizers])


def _dtype(name: Any) -> np.dtype:
    """The dtype of a model's weights that a setting names."""
    try:
        dtype = jnp.dtype(name)
    except TypeError:
        dtype = None
    if dtype not in map(jnp.dtype, DTYPES):
        raise ValueError(f"A model's dtype (MODEL_DTYPE) is {' or '.join(DTYPES)}, not {name!r}.")
    return dtype


def load_model(
    path_or_name: str | Path = "bundled",
    dtype: Any = jnp.float32,
    verbose: bool = False,
    vocabulary: str | Path | None = None,
    mesh: Mesh | None = None,
) -> FrozenModel:
    """Loads a frozen T5.

        model = pt.load_model("bundled")
        model = pt.load_model("checkpoints/t5-v1_1-small", dtype=jnp.bfloat16)
        model = pt.load_model("gs://bucket/t5/checkpoint_1100000", vocabulary="spiece.model")

    Args:
      path_or_name: "bundled", a Hugging Face T5 directory, a T5X checkpoint (see
        `checkpoints.t5x`; a prompt in it is left out), or a hub name where there is a network.
      dtype: of the weights in memory and of the activations; prompts stay float32. "int8" is for
        the weights' matrices alone, see `quantize`: activations are then bfloat16 or, on a CPU,
        float32.
      verbose: print the table of matched, missing and unexpected weights.
      vocabulary: the model's `spiece.model`, where its directory does not hold one. Without it
        the methods that take text do not work.
      mesh: `sharding.make_mesh("data:2,model:4")`, over which weights and batches are split. Each
        device's part of a weight is read alone, so no host holds a model that is too large for it.

    Raises:
      FileNotFoundError: no such directory, and no such hub name within reach.
      ValueError: missing or misshapen weights, which are never replaced by random numbers; or the
        vocabulary is not this model's.
    """
    bundled = str(path_or_name) == "bundled"
    source = BUNDLED if bundled else path_or_name
    report, found = print if verbose else None, None
    places = functools.partial(sharding.param_shardings, mesh) if mesh else None
    quantizer = quantize.Quantizer() if _dtype(dtype) == jnp.int8 else None
    dtype = jnp.float32 if quantizer else dtype
    if is_checkpoint(source):
        config, params = t5x.load(source, dtype, places, report=report, convert=quantizer)
    else:
        config, params, found = huggingface.load(source, dtype, report, places, quantizer)
    if vocabulary is not None:
        found = huggingface.read_vocabulary(vocabulary, config)
    params = jax.tree.map(jnp.asarray, params)
    model = FrozenModel(config, params, found, str(path_or_name), mesh)
    if quantizer is None:
        return model
    config = dataclasses.replace(config, dtype=quantize.activation_dtype())
    return model.replace(config=config, known_fingerprint=quantizer.fingerprint)
