"""T5's encoder. A prompt joins its embedded input, or goes through it apart (`isolated_prompt`).

B batch   S joined length   T input tokens   P prompt length   N prompts in the bank   D embed
"""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax import layout, prompts
from prompt_tuning_jax.models.attention.bias import Bias, mask_bias
from prompt_tuning_jax.models.t5 import isolated_prompt, layers, scan
from prompt_tuning_jax.models.t5.attention import KeyValue, PromptKeyValue, SelfAttention
from prompt_tuning_jax.models.t5.attention_bias import RelativePositionBias
from prompt_tuning_jax.models.t5.config import T5Config


class EncoderLayer(nn.Module):
    """Self-attention and an MLP; each adds to its input what it makes of the normed input."""

    config: T5Config
    attention_class = SelfAttention

    def setup(self):
        cfg = self.config
        self.pre_attention_layer_norm = layers.LayerNorm(cfg)
        self.attention = self.attention_class(cfg)
        self.pre_mlp_layer_norm = layers.LayerNorm(cfg)
        self.mlp = layers.Mlp(cfg)
        self.dropout = layers.dropout(cfg)
        if cfg.each_layer_has_bias:
            self.relpos_bias = RelativePositionBias(cfg, bidirectional=True)

    def __call__(
        self,
        x_BxSxD: Float[Array, "B S D"],
        *,
        bias: Bias,
        deterministic: bool,
        before: PromptKeyValue | None = None,
    ) -> Float[Array, "B S D"]:
        """`before` are keys and values of positions before x's; `bias` has columns for them too."""
        if self.config.each_layer_has_bias:
            bias = self.with_distances(bias, queries=x_BxSxD.shape[1])

        # Self-attention block.
        y_BxSxD = self.pre_attention_layer_norm(x_BxSxD)
        y_BxSxD = self.attention(y_BxSxD, bias=bias, deterministic=deterministic, before=before)
        x_BxSxD = x_BxSxD + self.dropout(y_BxSxD, deterministic=deterministic)

        # MLP block.
        y_BxSxD = self.pre_mlp_layer_norm(x_BxSxD)
        y_BxSxD = self.mlp(y_BxSxD, deterministic=deterministic)
        return x_BxSxD + self.dropout(y_BxSxD, deterministic=deterministic)

    def with_distances(self, bias: Bias, queries: int) -> Bias:
        """The bias with the relative positions of the layer's own table."""
        keys = bias.mask.shape[-1]
        return Bias.of(bias.mask, self.relpos_bias(queries, keys, keys - queries))

    def project(self, x_BxSxD: Float[Array, "B S D"]) -> KeyValue:
        """The layer's keys and values of x, for positions after them to attend to."""
        return self.attention.project(self.pre_attention_layer_norm(x_BxSxD))


class Encoder(nn.Module):
    """The encoder's layers, and the prompt before them.

    `make_prompt` makes the prompt module, or is None; `prompt_layout` says where the prompt goes
    when a call does not (one of `layout.LAYOUTS`).
    """

    config: T5Config
    token_embedder: layers.Embed
    make_prompt: Callable[[], nn.Module] | None
    prompt_layout: str
    layer_class = EncoderLayer

    def setup(self):
        cfg = self.config
        if self.make_prompt is not None:
            self.prompt = self.make_prompt()
        if cfg.scan_layers:
            self.layers = [self.layer_class(cfg, name="encoder")]
        else:
            self.layers = [self.layer_class(cfg) for _ in range(cfg.num_encoder_layers)]
        if not cfg.each_layer_has_bias:
            self.relpos_bias = RelativePositionBias(cfg, bidirectional=True)
        self.encoder_norm = layers.LayerNorm(cfg)
        self.dropout = layers.dropout(cfg)

    def __call__(
        self,
        tokens_BxT: Int[Array, "B T"],
        *,
        prompt_positions: Int[Array, "B S"] | None,
        prompt_ids: prompts.PromptIds | None,
        segment_ids: Int[Array, "B T"] | None,
        deterministic: bool,
    ) -> Float[Array, "B S D"]:
        """The encoder's output. The arguments are those of `Transformer.encode`."""
        if self.make_prompt is None:
            x_BxSxD = self.token_embedder(tokens_BxT)
            bias = self.bias_of(tokens_BxT, None, segment_ids)
            return self._through_layers(x_BxSxD, bias, deterministic)

        prompt = self.prompt(self.config.emb_dim)
        tokens_BxS = tokens_BxT
        if prompt_positions is None:
            if layout.needs_no_room(self.prompt_layout, self.config.prompt_visibility):
                return isolated_prompt.encode(
                    self, tokens_BxT, prompt, prompt_ids=prompt_ids, deterministic=deterministic
                )
            tokens_BxS, prompt_positions = layout.place_prompt(
                tokens_BxT,
                prompt.shape[-2],
                self.prompt_layout,
                self.config.eos_id,
                self.config.pad_id,
            )
        x_BxSxD = self.token_embedder(tokens_BxS)
        # Where the prompt joins the embedded input.
        x_BxSxD = prompts.join(x_BxSxD, prompt, prompt_positions, prompt_ids)
        bias = self.bias_of(tokens_BxS, prompt_positions, segment_ids)
        return self._through_layers(x_BxSxD, bias, deterministic)

    def bias_of(
        self,
        tokens_BxS: Int[Array, "B S"],
        prompt_positions: Int[Array, "B S"] | None,
        segment_ids: Int[Array, "B S"] | None,
    ) -> Bias:
        """What a row's positions see of one another, and how far apart they are."""
        mask_BxLxS = layout.attended(tokens_BxS, prompt_positions, self.config.pad_id)[:, None, :]
        if prompt_positions is not None and self.config.prompt_visibility != "full":
            mask_BxLxS = mask_BxLxS & layout.prompt_mask(
                prompt_positions, prompt_positions, self.config.prompt_visibility
            )
        mask_BxLxS = layout.within_segments(mask_BxLxS, segment_ids, segment_ids)
        return self.bias(mask_BxLxS, queries=tokens_BxS.shape[1])

    def _through_layers(
        self, x_BxSxD: Float[Array, "B S D"], bias: Bias, deterministic: bool
    ) -> Float[Array, "B S D"]:
        x_BxSxD = self.dropout(x_BxSxD, deterministic=deterministic)

        def step(layer, x_BxSxD, _):
            return layer(x_BxSxD, bias=bias, deterministic=deterministic), None

        x_BxSxD, _ = scan.through(self.layers, step, x_BxSxD, depth=self.config.num_encoder_layers)
        return self.dropout(self.encoder_norm(x_BxSxD), deterministic=deterministic)

    def bias(self, mask_BxLxS: Bool[Array, "#B #L S"], *, queries: int) -> Bias:
        """The mask, a prefix's columns before it, and the relative positions of the last `queries`.

        Layers that have relative-position biases of their own add them themselves.
        """
        prefix = self.layers[0].attention.prefix_length()
        mask_Bx1xLxS = mask_bias(layout.behind_prefix(mask_BxLxS, prefix))
        if self.config.each_layer_has_bias:
            return Bias(mask_Bx1xLxS)
        keys = mask_Bx1xLxS.shape[-1]
        return Bias.of(mask_Bx1xLxS, self.relpos_bias(queries, keys, keys - queries))
