"""Losses over the answers that a task allows, each scored as a whole.

    score[c] = log-probability of answer c, the mean over its tokens or, not normalised, the sum

    perceptron      max(0, margin + max over wrong c of score[c] - score[right])
    cross_entropy   log(sum over c of exp(score[c])) - score[right]

What these models predict is the best answer. (google-research/prompt-tuning, extended/perceptron;
its code takes the maximum over all answers, the right one too, and so has the gradient of a margin
of 0.)

B batch   S joined length   C answers   L target length   V vocabulary   D embed
"""

from collections.abc import Mapping, Sequence
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
import numpy as np
import seqio
from jaxtyping import Array, Bool, Float, Int
from t5x import metrics as t5x_metrics

from prompt_tuning_jax.optim import token_cross_entropy
from prompt_tuning_jax.t5x_plugin.methods.loss import Batch, WithLoss
from prompt_tuning_jax.t5x_plugin.methods.method import Method

LOSSES = ("perceptron", "cross_entropy")


class Labels(Method):
    """A prompt that is trained to rank the right answer first."""

    def __init__(
        self,
        labels: Sequence[str] | None,
        vocabulary: seqio.Vocabulary,
        loss: str = "perceptron",
        margin: float = 0.2,
        length_normalize: bool = True,
    ):
        """Tokenises the answers.

        Args:
          labels: the answers that the task allows.
          vocabulary: the model's.
          loss: one of `LOSSES`.
          margin: of the perceptron: by how much the right answer is to be better.

        Raises:
          ValueError: fewer than two answers, or no such loss.
        """
        if labels is None or len(set(labels)) < 2:
            raise ValueError(
                f"a loss over answers needs VERBALIZERS, two or more of them, and not {labels!r}."
            )
        if loss not in LOSSES:
            raise ValueError(f"no loss over answers is called {loss!r}: choose among {LOSSES}.")
        self._labels = [[*vocabulary.encode(label), vocabulary.eos_id] for label in labels]
        self._loss, self._margin, self._mean = loss, margin, length_normalize

    def changed(self, model: Any) -> Any:
        smoothing, normalizing = model._label_smoothing, model._loss_normalizing_factor
        if smoothing or normalizing is not None:
            raise ValueError(
                "a loss over answers is a sum over examples, without label smoothing: leave out "
                "LOSS_NORMALIZING_FACTOR and label_smoothing."
            )
        return _Ranking(model, self.loss, self)

    def tokens(self, length: int) -> Int[np.ndarray, "C L"]:
        """The answers as targets of a length."""
        longest = max(map(len, self._labels))
        if longest > length:
            raise ValueError(
                f"an answer has {longest} tokens, and TASK_FEATURE_LENGTHS leaves {length} to "
                "targets: make 'targets' as long."
            )
        padded = [[*label, *[0] * (length - len(label))] for label in self._labels]
        return np.array(padded, np.int32)

    def scores(
        self, model: Any, params: Any, batch: Batch, dropout_rng: jax.Array | None
    ) -> Float[Array, "B C"]:
        """Every answer's; inputs are encoded once."""
        tokens_BxT = batch["encoder_input_tokens"]
        labels_CxL = self.tokens(batch["decoder_target_tokens"].shape[1])
        (B, _), C = tokens_BxT.shape, len(labels_CxL)
        keys = (None, None) if dropout_rng is None else jax.random.split(dropout_rng)
        rngs = [None if key is None else {"dropout": key} for key in keys]
        drops = {"enable_dropout": dropout_rng is not None}
        module, variables = model.module, {"params": params}
        encoded_BxSxD = module.apply(
            variables, tokens_BxT, **drops, rngs=rngs[0], method=module.encode
        )
        targets = jnp.tile(labels_CxL, (B, 1))  # answer after answer of a row
        before = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
        inputs = (jnp.repeat(x, C, axis=0) for x in (encoded_BxSxD, tokens_BxT))
        logits = module.apply(
            variables, *inputs, before, targets, **drops, rngs=rngs[1], method=module.decode
        )
        is_token = (targets != 0).astype(jnp.float32)
        scores = -jnp.sum(token_cross_entropy(logits, targets) * is_token, axis=1)
        if self._mean:
            scores /= jnp.sum(is_token, axis=1)
        return scores.reshape(B, C)

    def loss(
        self, model: Any, params: Any, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        """The loss summed over a batch's examples; NaN where a target is none of the answers."""
        targets_BxL = batch["decoder_target_tokens"]
        labels_CxL = self.tokens(targets_BxL.shape[1])
        scores_BxC = self.scores(model, params, batch, dropout_rng)
        right_BxC = jnp.all(targets_BxL[:, None] == labels_CxL[None], axis=2)
        is_example_B = jnp.any(targets_BxL != 0, axis=1)
        losses_B = self.of_scores(scores_BxC, right_BxC)
        losses_B = jnp.where(jnp.any(right_BxC, axis=1), losses_B, jnp.nan)
        total = jnp.sum(jnp.where(is_example_B, losses_B, 0))
        return total, {
            "loss": t5x_metrics.AveragePerStep(total=total),
            "accuracy": clu.metrics.Accuracy.from_model_output(
                logits=scores_BxC,
                labels=jnp.argmax(right_BxC, axis=1),
                mask=is_example_B.astype(jnp.float32),
            ),
        }

    def of_scores(
        self, scores_BxC: Float[Array, "B C"], right_BxC: Bool[Array, "B C"]
    ) -> Float[Array, " B"]:
        """Each example's loss."""
        right_B = jnp.sum(jnp.where(right_BxC, scores_BxC, 0), axis=1)
        if self._loss == "cross_entropy":
            return jax.nn.logsumexp(scores_BxC, axis=1) - right_B
        wrong_B = jnp.max(jnp.where(right_BxC, -jnp.inf, scores_BxC), axis=1)
        return jnp.maximum(0, self._margin + wrong_B - right_B)


class _Ranking(WithLoss):
    """A model that predicts one of the answers."""

    def __init__(self, model: Any, loss: Any, labels: Labels):
        super().__init__(model, loss)
        self._labels = labels

    def predict_batch(
        self, params: Any, batch: Batch, rng: jax.Array | None = None
    ) -> Int[Array, "B L"]:
        return self.predict_batch_with_aux(params, batch, rng)[0]

    def predict_batch_with_aux(
        self, params: Any, batch: Batch, rng: jax.Array | None = None
    ) -> tuple[Int[Array, "B L"], dict[str, Float[Array, " B"]]]:
        scores_BxC = self._labels.scores(self._model, params, batch, None)
        labels_CxL = self._labels.tokens(batch["decoder_target_tokens"].shape[1])
        best_B = jnp.argmax(scores_BxC, axis=1)
        return jnp.asarray(labels_CxL)[best_B], {"scores": jnp.max(scores_BxC, axis=1)}
