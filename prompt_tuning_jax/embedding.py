"""A frozen embedding model as a Python object: texts become vectors, a prompt tunes one side.

import prompt_tuning_jax as pt
model = pt.load_embedding_model("all-MiniLM-L6-v2")
documents = model.embed(paragraphs)                        # [N, E]
queries = model.embed(questions, prompt=prompt)            # the same space, tuned on this side
scores = queries @ documents.T
queries = model.adapted("runs/lora/best").embed(questions)  # tuned within: LoRA, or all weights

A prompt is a `TunedPrompt`, an array [P, D] or `bank.rows(names)`: see `banks`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from prompt_tuning_jax import arguments
from prompt_tuning_jax.banks import PromptLike, PromptSet
from prompt_tuning_jax.checkpoints import quantize, sentence_transformers
from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.checkpoints.adapters.adapter_file import load_adapter
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.data.text_rows import BatchSize, TextPrompts, TextRows
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.layout import NO_TOKEN
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.attention.choice import platform_of
from prompt_tuning_jax.models.embedding import EmbeddingConfig, Step, prompted, stored
from prompt_tuning_jax.models.embedding.embed import embedded
from prompt_tuning_jax.models.embedding.encoders import EMBEDDING_NAME, encoder_of
from prompt_tuning_jax.params import flatten, unflatten
from prompt_tuning_jax.tuned_prompt import ANY_MODEL, QUERY_NAME, TunedPrompt, check_compatible
from prompt_tuning_jax.vocabularies import Vocabulary

CHUNK = 16384  # texts that are in memory as tokens at once
TOKENS_ON_CPU = 1024  # at once: with more it is a twentieth faster, and needs much more memory
_compiled = jax.jit(embedded, static_argnames=("config", "pool_prompt"))


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """A pre-trained embedding model and its vocabulary. Nothing here changes a weight.

    Attributes:
      config: the network, its pooling, and what follows.
      params: nested dict of weights; those of the network under its family's names.
      name: where it was loaded from, as prompt files record it.
      mesh: devices to spread batches over; None for one device.
      text_prompts: texts that may stand before others, by name, such as "query".
      lower_case: whether texts are written in small letters first.
      pool_prompt: whether a prompt's positions count in the pooling, where neither a call nor the
        prompt's own file says it.
      known_fingerprint: that of the weights as they were read, where it is known.
      adapter: what its query side was tuned with, and is among `params`: see `adapted`.
    """

    config: EmbeddingConfig
    params: Mapping[str, Any]
    vocabulary: Vocabulary
    name: str = "model"
    mesh: Mesh | None = None
    text_prompts: TextPrompts = TextPrompts()  # noqa: RUF009  it is frozen
    lower_case: bool = False
    pool_prompt: bool = False
    known_fingerprint: str | None = None
    adapter: Adapter | None = None

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        facts = f"{count:,} weights, {'+'.join(self.config.pooling)}, {self.config.outputs} numbers"
        within = "" if self.adapter is None else f", {self.adapter}"
        return f"EmbeddingModel({self.name!r}, {facts}{within})"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights that make a vector, in whichever dtype; prompt files carry it."""
        return self.known_fingerprint or fingerprint(self.params)

    @property
    def identity(self) -> dict[str, str | None]:
        """What tells it from other models: what `save_prompt` records of it."""
        return {"fingerprint": self.fingerprint, "vocabulary_hash": self.vocabulary.fingerprint}

    @property
    def embeddings(self) -> Float[Array, "V D"]:
        """The tokens as the network's input holds them: its table, not as int8, and scaled."""
        flat, network = flatten(self.params), self.config.network
        scale = encoder_of(network).embedding_scale(network)
        table = quantize.dequantize(flat[EMBEDDING_NAME], flat.get(EMBEDDING_NAME + quantize.SCALE))
        return table if scale == 1 else table * jnp.asarray(scale, table.dtype)

    @property
    def vocab_size(self) -> int:
        """V, the rows of the embedding table."""
        return int(flatten(self.params)[EMBEDDING_NAME].shape[0])

    def replace(self, **changes: Any) -> "EmbeddingModel":
        """A copy with some attributes changed, sharing the weights."""
        if "params" in changes:  # other weights have another fingerprint, unless the caller knows
            changes = {"known_fingerprint": None} | changes
        return dataclasses.replace(self, **changes)

    def adapted(self, adapter: Any, allow_prompt_mismatch: bool = False) -> "EmbeddingModel":
        """The model with a tuned query side, as `load_adapter` reads it: `"runs/lora/best"`.

        Its vectors are compared with those that documents have of the model without it.

        Raises:
          ValueError: it is for another model, or for another pooling; there is one already.
        """
        prompted.check_alone(self.adapter)
        if not isinstance(adapter, Adapter):
            adapter = load_adapter(adapter, self.config)
        adapter.check(self.params, lambda: self.identity, allow_prompt_mismatch)
        if not allow_prompt_mismatch:
            prompted.check_pooling(adapter.metadata, self.config)
        name = adapter.metadata.get(QUERY_NAME) or self.text_prompts.default
        return self.replace(
            params=adapter.within(self.params, self.mesh),
            known_fingerprint=self.fingerprint,
            text_prompts=dataclasses.replace(self.text_prompts, default=name),
            adapter=adapter,
        )

    def check(self, prompt: TunedPrompt, allow_prompt_mismatch: bool = False) -> None:
        """Refuses, with a ValueError, a prompt of another model; see `check_compatible`."""
        prompted.check_alone(self.adapter)
        told = {"allow_prompt_mismatch": allow_prompt_mismatch, "embeds": True}
        check_compatible(prompt, **self.identity, emb_dim=self.config.emb_dim, **told)
        if not allow_prompt_mismatch:
            prompted.check_pooling(prompt.metadata, self.config)

    def embedded(
        self,
        params: Mapping[str, Any],
        prompt: Float[Array, "*N P D"] | Float[np.ndarray, "*N P D"] | None,
        batch: Mapping[str, Any],
        pool_prompt: bool | None = None,
    ) -> Float[Array, "B E"]:
        """The vectors of a batch as a pure function, for `jax.grad` and `jax.jit`.

            batch = model.tokenize(texts)
            gradient = jax.grad(lambda p: loss(model.embedded(model.params, p, batch)))(prompt)

        Args:
          prompt: one [P, D] in front of the tokens; a bank [N, P, D] with `prompt_ids` [B] in the
            batch; or None.
          batch: of `tokenize`; see `models.embedding.embed`.
        """
        pool_prompt = self.pool_prompt if pool_prompt is None else pool_prompt
        with sharding.active(self.mesh):
            return embedded(self.config, params, prompt, batch, pool_prompt)

    def tokenize(
        self,
        texts: Sequence[str],
        max_length: int | None = None,
        *,
        name: str | None = None,
        text_prompt: str | None = None,
        prompt_length: int = 0,
    ) -> dict[str, np.ndarray]:
        """A batch for `embedded`: tokens [B, T], and how many of them do not count, skipped [B].

        T is the least of `data.text_rows.LENGTHS` that holds the longest text.

        Args:
          max_length: tokens of a text, special ones included; None: `config.max_seq_length`.
          name, text_prompt: as in `embed`.
          prompt_length: P, for which room is left among the model's positions.
        """
        arguments.check_texts(texts, self.vocab_size)
        before = self.text_prompts.before(name, text_prompt)
        room = self.room(max_length, prompt_length)
        rows = self._rows.tokens(texts, before, room)
        return self._rows.batch(rows, self._rows.skipped(before), room, len(rows))

    def embed(
        self,
        texts: Sequence[str],
        prompt: PromptLike = None,
        *,
        name: str | None = None,
        text_prompt: str | None = None,
        batch_size: int = 32,
        dtype: Any = "float32",
        max_length: int | None = None,
        pool_prompt: bool | None = None,
    ) -> np.ndarray:
        """A vector for each text [N, E], in order.

            model.embed(["Where is the ferry?"], prompt=prompt, name="query")

        Texts of like length are embedded together, in batches that are compiled once for a length.

        Args:
          prompt: a `TunedPrompt`, an array [P, D], or `bank.rows(names)`, one for each text.
          name: that of the model's text prompt that stands before all texts, such as "query"; None:
            as the prompt's file says, else the model's default one, if it has one.
          text_prompt: a text to stand before them instead; "" for none.
          batch_size: how many texts are read at once; on a CPU fewer, where they are long.
          dtype: "float32", "float16", or "int8": each vector times 127 over its largest number,
            which keeps its direction, and so its cosine with others, and not its length.
          max_length: tokens of a text, special ones too. None: `config.max_seq_length`.
          pool_prompt: whether the prompt's positions count. None: as its file, or the model says.

        Raises:
          ValueError: a prompt of another model; no text prompt of this name; a text without tokens.
        """
        arguments.check_numbers(batch_size=batch_size)
        arguments.check_texts(texts, self.vocab_size)
        kind = stored.checked_dtype(dtype)
        config, prompts = self._prompted(prompt)
        prompts.check_inputs(len(texts))
        how = config, prompted.counts(prompts, pool_prompt, self.pool_prompt)
        name = prompted.text_name(prompts, name) if text_prompt is None else name
        before = self.text_prompts.before(name, text_prompt)
        room = self.room(max_length, int(prompts.lengths.max()))
        most = TOKENS_ON_CPU if platform_of(self.mesh) == "cpu" else None
        size = BatchSize(batch_size, most, sharding.batch_parts_of(self.mesh))
        vectors = np.zeros((len(texts), config.outputs), kind)
        for first in range(0, len(texts), CHUNK):
            rows = self._rows.tokens(texts[first : first + CHUNK], before, room, first)
            batches = self._rows.batches(rows, self._rows.skipped(before), room, size)
            made = [(own, self._run(*how, prompts, first + own, batch)) for own, batch in batches]
            for own, found in made:
                vectors[first + own] = stored.as_dtype(sharding.to_host(found)[: len(own)], kind)
        return vectors

    @property
    def _rows(self) -> TextRows:
        return TextRows(self.vocabulary, self.lower_case, self.config.include_prompt)

    def _run(
        self,
        config: EmbeddingConfig,
        pool_prompt: bool,
        prompts: PromptSet,
        numbers: np.ndarray,
        batch: dict[str, np.ndarray],
    ) -> Float[Array, "B E"]:
        """The vectors of a batch whose texts have these numbers."""
        values = prompts.values
        if values is not None:
            end = (self.vocabulary.suffix or (NO_TOKEN,))[-1]
            batch = prompted.placed(batch, prompts, numbers, end)
            values = jnp.asarray(values, jnp.float32)
        if self.mesh is not None:
            batch = sharding.put(batch, sharding.batch_sharding(self.mesh))
        with sharding.active(self.mesh):
            return _compiled(config, self.params, values, batch, pool_prompt)

    def _prompted(self, prompt: PromptLike) -> tuple[EmbeddingConfig, PromptSet]:
        """The config as the prompts want it, and these; see `prompted.checked`.

        Raises:
          ValueError: as that, or a prompt that names another model.
        """
        prompts = PromptSet.of(prompt)
        if prompts.values is not None:
            prompted.check_alone(self.adapter)
        config = prompted.checked(self.config, prompts, self.name)
        for tuned in prompts.tuned:
            prompted.check_pooling(tuned.metadata, config, ANY_MODEL)
            if tuned.base_fingerprint is not None:  # ours takes reading all weights, once
                told = {"override": ANY_MODEL, "embeds": True}
                check_compatible(tuned, fingerprint=self.fingerprint, **told)
        return config, prompts

    def room(self, max_length: int | None = None, prompt_length: int = 0) -> int:
        """The most tokens of a text, beside a prompt."""
        arguments.check_numbers(max_length=max_length)
        limit = getattr(self.config.network, "length_limit", None)
        room = max_length or self.config.max_seq_length
        if limit is not None:
            before = encoder_of(self.config.network).prefix_length(self.config.network, self.params)
            room = min(room, limit - prompt_length - before)
        self._rows.check_room(room)
        return room


def load_embedding_model(
    source: str | Path | FrozenModel,
    pooling: str | Sequence[str] | None = None,
    normalize: bool | None = None,
    *,
    max_seq_length: int | None = None,
    dtype: Any = jnp.float32,
    verbose: bool = False,
    mesh: Mesh | None = None,
) -> EmbeddingModel:
    """Loads a model that makes vectors of texts.

        model = pt.load_embedding_model("checkpoints/all-MiniLM-L6-v2")
        model = pt.load_embedding_model("bundled", pooling="mean")

    Args:
      source: a directory that sentence-transformers saved (it holds a modules.json), or its name on
        the hub; that of a T5, a BERT or a causal model; "bundled" or "bundled_causal"; or a
        `FrozenModel`. Of a T5 only the encoder is kept.
      pooling: "mean", "cls", "lasttoken", "max", ..., or several. None: as its files say, else the
        mean of all tokens, of a causal model the last one.
      normalize: whether vectors have length 1. None: as its files say; True without a modules.json.
      max_seq_length: tokens of a text, special ones included. None: as its files say, else 512.
      dtype, verbose, mesh: as in `load_model`; vectors are made in float32.

    Raises:
      FileNotFoundError: no such directory, and no such hub name within reach; or the weights are
        there only as a pickle.
      ValueError: missing or misshapen weights, or a module that is not done here.
    """
    if isinstance(source, FrozenModel):
        model = _of_frozen(source)
    else:
        model = _from_files(source, dtype, verbose, mesh)
    arguments.check_numbers(max_length=max_seq_length)
    modes = (pooling,) if isinstance(pooling, str) else pooling
    return model.replace(config=model.config.changed(modes, normalize, max_seq_length))


def _of_frozen(model: FrozenModel) -> EmbeddingModel:
    """What embeds texts in a model that does other things too."""
    is_used = encoder_of(model.config).is_used
    params = unflatten({n: x for n, x in flatten(model.params).items() if is_used(n)})
    pooling = ("lasttoken",) if model.config.continues_inputs else ("mean",)
    config = EmbeddingConfig(model.config, pooling, (Step("normalize"),))
    words = model.text_vocabulary("embed")
    return EmbeddingModel(config, params, words, model.name, model.mesh)


def _from_files(source: str | Path, dtype: Any, verbose: bool, mesh: Mesh | None) -> EmbeddingModel:
    files = sentence_transformers.open_model(source, dtype, verbose, mesh)
    return EmbeddingModel(
        files.config,
        files.params,
        files.vocabulary,
        str(source),
        mesh,
        files.text_prompts,
        files.lower_case,
        known_fingerprint=files.fingerprint,
    )
