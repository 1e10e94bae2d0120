"""The frozen model as a Python object: logits, loss, generation and rank classification.

import prompt_tuning_jax as pt
model = pt.load_model("bundled")
prompt = pt.load_prompt("runs/sentiment/best")
labels, scores = model.classify(["The soup was cold."], ["positive", "negative"], prompt=prompt)

A prompt is a `TunedPrompt`, an array [P, D], `bank.rows(names)` or `bank.ensemble()`: see `banks`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from prompt_tuning_jax import arguments
from prompt_tuning_jax.banks import PromptLike, PromptSet, vote
from prompt_tuning_jax.checkpoints import peft, quantize
from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.checkpoints.adapters.adapter_file import load_adapter
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.huggingface import directory_of
from prompt_tuning_jax.checkpoints.load import load
from prompt_tuning_jax.decoding import text
from prompt_tuning_jax.decoding.defaults import NO_DEFAULTS, GenerationDefaults
from prompt_tuning_jax.decoding.options import DecodingOptions
from prompt_tuning_jax.decoding.text import Classified, Generated, LabelChoice, Prompted
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.models import compiled
from prompt_tuning_jax.models.family import NetworkConfig, family_of
from prompt_tuning_jax.params import check_no_prompt, flatten, with_prompt
from prompt_tuning_jax.tuned_prompt import ANY_MODEL, TunedPrompt, check_compatible
from prompt_tuning_jax.vocabularies import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenModel:
    """A pre-trained model and its vocabulary. Nothing here changes a weight.

    Attributes:
      config: the network's shape.
      params: nested dict of weights with their family's names, for T5 those of T5X.
      vocabulary: needed only by the methods that take text.
      name: where it was loaded from, as prompt files record it.
      mesh: devices to spread batches over; None for one device.
      known_fingerprint: that of the weights as they were read, where it is known.
      generation: how its files want text to be generated, where a call does not say otherwise.
    """

    config: NetworkConfig
    params: Mapping[str, Any]
    vocabulary: Vocabulary | None = None
    name: str = "model"
    mesh: Mesh | None = None
    known_fingerprint: str | None = None
    generation: GenerationDefaults = NO_DEFAULTS

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

    @functools.cached_property
    def identity(self) -> dict[str, str | None]:
        """What tells it from other models: what `save_prompt` records of it."""
        words = self.vocabulary and self.vocabulary.fingerprint
        return {"fingerprint": self.fingerprint, "vocabulary_hash": words}

    def check(self, prompt: TunedPrompt, allow_prompt_mismatch: bool = False) -> None:
        """Refuses, with a ValueError, a prompt of another model; see `check_compatible`."""
        width = self.config.emb_dim
        peft.check_task(prompt.metadata, self.config.continues_inputs)
        check_compatible(
            prompt, **self.identity, emb_dim=width, allow_prompt_mismatch=allow_prompt_mismatch
        )

    @property
    def embeddings(self) -> Float[Array, "V D"]:
        """The tokens as the network's input holds them: its table, not as int8, and scaled."""
        flat, family = flatten(self.params), family_of(self.config)
        name, scale = family.EMBEDDING_NAME, family.embedding_scale(self.config)
        table = quantize.dequantize(flat[name], flat.get(name + quantize.SCALE))
        return table if scale == 1 else table * jnp.asarray(scale, table.dtype)

    @functools.cached_property
    def vocab_size(self) -> int:
        """V, the rows of the embedding table."""
        return int(flatten(self.params)[family_of(self.config).EMBEDDING_NAME].shape[0])

    def adapted(self, adapter: Any, allow_prompt_mismatch: bool = False) -> "FrozenModel":
        """The same model with an adapter in it, as `load_adapter` reads one: `"runs/lora/best"`.

        ValueError where it is for another model.
        """
        if not isinstance(adapter, Adapter):
            adapter = load_adapter(adapter, self.config)
        adapter.check(self.params, lambda: self.identity, allow_prompt_mismatch)
        params = adapter.within(self.params, self.mesh)
        return self.replace(params=params, known_fingerprint=self.known_fingerprint)

    def scanned(self) -> "FrozenModel":
        """The same model with its layers' weights stacked, one layer compiled for all.

        Both copies of the weights are in memory until this one is let go.
        """
        config, params = family_of(self.config).scanned(self.config, self.params)
        return self.replace(config=config, params=params, known_fingerprint=self.fingerprint)

    def replace(self, **changes: Any) -> "FrozenModel":
        """A copy with some attributes changed, sharing the weights."""
        if "params" in changes:  # other weights have another fingerprint, unless the caller knows
            changes = {"known_fingerprint": None} | changes
        return dataclasses.replace(self, **changes)

    def logits(
        self,
        encoder_input_tokens: Int[Array, "B T"] | Int[np.ndarray, "B T"],
        decoder_input_tokens: Int[Array, "B L"] | Int[np.ndarray, "B L"],
        prompt: PromptLike = None,
    ) -> Float[Array, "B L V"]:
        """Next-token logits, without dropout.

        Args:
          encoder_input_tokens: [B, T], right-padded with the model's `pad_id`, without the prompt.
          decoder_input_tokens: [B, L], starting with the model's `start_id`.
          prompt: a `TunedPrompt`, an array [P, D] (placed as a prefix), or `bank.rows(...)`.
        """
        batch = {
            "encoder_input_tokens": encoder_input_tokens,
            "decoder_input_tokens": decoder_input_tokens,
        }
        prompted = self._checked(batch, tuple(batch), prompt)
        batch["decoder_target_tokens"] = np.ones(np.shape(decoder_input_tokens), np.int32)
        return self._run(compiled.logits, prompted, batch)

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
        arguments.check_numbers(z_loss=z_loss)
        prompted = self._checked(batch, arguments.LOSS_ARRAYS, prompt)
        return self._run(compiled.loss, prompted, batch, z_loss)

    def _checked(
        self, batch: Mapping[str, Any], needed: Sequence[str], prompt: PromptLike
    ) -> Prompted:
        """`prompted`, for a batch that is found to be one, with a prompt for each of its rows."""
        prompted = self.prompted(prompt)
        ids = max(self.vocab_size, self.config.pad_id + 1)  # padding may have one past the table
        arguments.check_batch(batch, ids, needed, prompted.prompts.values)
        prompted.prompts.check_inputs(len(batch["encoder_input_tokens"]))
        return prompted

    def _run(self, function: Any, prompted: Prompted, batch: Mapping[str, Any], *settings: Any):
        """A compiled function of this model and a batch of token ids."""
        config, params, prompts, *_ = prompted
        batch = {name: jnp.asarray(x) for name, x in batch.items()}
        batch = prompts.place(batch, config.eos_id, config.pad_id)
        with sharding.active(self.mesh):
            return function(config, params, batch, prompts.layout, *settings)

    def generate_tokens(
        self,
        encoder_input_tokens: Int[Array, "B T"] | Int[np.ndarray, "B T"],
        prompt: PromptLike = None,
        seed: int = 0,
        **options: Unpack[DecodingOptions],
    ) -> tuple[Int[Array, "B L"], Float[Array, " B"]]:
        """Decodes token ids: greedy, beam search, or sampling where `temperature` > 0.

        What `options` do not say is as `generation` has it.

        Returns:
          tokens [B, L] without the start token, padding after EOS, and scores [B]: the sum of
          log-probabilities over generated_length ** length_penalty.

        Raises:
          ValueError: an option is out of range, or the model's files ask for what is not done here.
        """
        arguments.check_numbers(seed=seed, **options)
        model = self._checked(
            {"encoder_input_tokens": encoder_input_tokens}, ("encoder_input_tokens",), prompt
        )
        batch = {"encoder_input_tokens": np.asarray(encoder_input_tokens)}
        keys = text.row_keys(seed, np.arange(len(encoder_input_tokens)))
        placed = model.prompts.place(batch, self.config.eos_id, self.config.pad_id)
        return text.generate_tokens(model, placed, keys, **self.generation.resolved(options))

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
        """Texts for texts, in order. What `options` do not say is as `generation` has it.

            model.generate(["The film was a joy."], prompt=prompt).texts   # ["positive"]

        Args:
          numbers: those of the texts, 0, 1, ... if not given. What a text samples depends on `seed`
            and its number alone.
        """
        self._check_texts("generate", texts, batch_size, max_input_length, seed=seed, **options)
        numbers = range(len(texts)) if numbers is None else numbers
        arguments.check_text_numbers(numbers, len(texts))
        told = np.asarray(numbers, int), seed, batch_size, max_input_length
        how = self.generation.resolved(options)
        return text.generate(self.prompted(prompt), texts, *told, **how)

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
        labels, legal = text.label_choices(verbalizers, len(texts))
        scores = self.label_scores(texts, labels, prompt, batch_size, max_input_length)
        scores = np.where(legal[:, None], scores, -np.inf)
        return Classified([labels[i] for i in vote(scores)], scores.mean(axis=1))

    def label_scores(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        prompt: PromptLike = None,
        batch_size: int = 32,
        max_input_length: int = 512,
    ) -> Float[np.ndarray, "n copies C"]:
        """Log-probability of every label, once for each of an ensemble's members."""
        self._check_texts("classify", texts, batch_size, max_input_length)
        arguments.check_labels(labels)
        sizes = batch_size, max_input_length
        return text.label_scores(self.prompted(prompt), texts, labels, *sizes)

    def _check_texts(
        self, action: str, texts: Any, batch_size: int, max_input_length: int, **options: Any
    ) -> None:
        """Refuses what no text comes of, before any work starts."""
        self.text_vocabulary(action)
        sizes = {"batch_size": batch_size, "max_input_length": max_input_length}
        arguments.check_numbers(**sizes, **options)
        arguments.check_texts(texts, self.vocab_size)

    def prompted(self, prompt: PromptLike) -> Prompted:
        """The model with the prompts among its parameters; with None they are as they were.

        Raises:
          ValueError: a prompt of another width, or one that names another model.
        """
        prompts, config, width = PromptSet.of(prompt), self.config, self.config.emb_dim
        if prompts.values is None:
            return Prompted(config, self.params, prompts, self.vocabulary, self.mesh)
        check_no_prompt(self.params)
        if prompts.values.shape[-1] != width:
            raise ValueError(
                f"A prompt for {self.name} must be [P, {width}], got "
                f"{list(prompts.values.shape)}; it was made for a model of another width."
            )
        for tuned in prompts.tuned:
            peft.check_task(tuned.metadata, config.continues_inputs)
            if tuned.base_fingerprint is not None:  # ours takes reading all weights, once
                check_compatible(tuned, fingerprint=self.fingerprint, override=ANY_MODEL)
        visibility = prompts.visibility or config.prompt_visibility
        config = dataclasses.replace(config, prompt_visibility=visibility)
        visibility = config.visibility_in(prompts.layouts, visibility)
        prompts = dataclasses.replace(prompts, visibility=visibility)
        params = with_prompt(self.params, jnp.asarray(prompts.values, jnp.float32))
        return Prompted(config, params, prompts, self.vocabulary, self.mesh)

    def text_vocabulary(self, action: str) -> Vocabulary:
        """The vocabulary, or an error that says what needs it."""
        if self.vocabulary is None:
            raise ValueError(
                f"{self.name} has no vocabulary, so it cannot {action} text: name its tokenizer "
                f"with {spelled('vocabulary')}, or, in Python, pass token ids to `logits` or "
                "`generate_tokens`."
            )
        return self.vocabulary


def load_model(
    path_or_name: str | Path = "bundled",
    dtype: Any = jnp.float32,
    verbose: bool = False,
    vocabulary: str | Path | None = None,
    mesh: Mesh | None = None,
) -> FrozenModel:
    """Loads a frozen model.

        model = pt.load_model("checkpoints/t5-v1_1-small", dtype=jnp.bfloat16)
        model = pt.load_model("gs://bucket/t5/checkpoint_1100000", vocabulary="spiece.model")

    Args:
      path_or_name: "bundled", a T5; "bundled_causal", its causal sibling; a Hugging Face directory
        of a T5 or a causal model; a T5X checkpoint (see `checkpoints.t5x`; a prompt in it is left
        out); or a hub name where there is a network.
      dtype: of the weights in memory and of the activations; prompts stay float32. "int8" is for
        the weights' matrices alone, see `quantize`: activations are then bfloat16 or, on a CPU,
        float32.
      verbose: print the table of matched, missing and unexpected weights.
      vocabulary: the model's `tokenizer.json` or `spiece.model`, where its directory holds none.
        Without it the methods that take text do not work.
      mesh: `sharding.make_mesh("data:2,model:4")`, over which weights and batches are split. Each
        device's part of a weight is read alone, so no host holds a model that is too large for it.

    Raises:
      FileNotFoundError: no such directory, and no such hub name within reach.
      ValueError: missing or misshapen weights; or the vocabulary is not this model's.
    """
    source = directory_of(path_or_name)
    config, params, found, fingerprint, defaults = load(source, dtype, verbose, vocabulary, mesh)
    return FrozenModel(config, params, found, str(path_or_name), mesh, fingerprint, defaults)
