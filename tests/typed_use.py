"""A user's program, which mypy reads and nothing runs: the types of what the package exports."""

from pathlib import Path
from typing import assert_type

import jax
import numpy as np

import prompt_tuning_jax as pt

vocabulary = pt.load_vocabulary("spiece.model")
assert_type(vocabulary, pt.Vocabulary)
assert_type(vocabulary.encode("a fine film"), list[int])
assert_type(vocabulary.decode([3, 9]), str)

examples = pt.ExampleList([{"inputs": "a fine film", "targets": "positive"}])
task = pt.Task("sentiment", {"train": examples}, verbalizers=("negative", "positive"))
assert_type(task.score(["positive"], ["positive"]), dict[str, float])
assert_type(
    pt.file_task(
        Path("data"),
        input_template="sentence: {sentence}",
        target_template="{label}",
        verbalizers={"0": "negative", "1": "positive"},
    ),
    pt.Task,
)

config = pt.TrainConfig(task=task, prompt_length=20, train_steps=100)
result = pt.train(config, model_dir="runs/sentiment")
assert_type(result, pt.TrainResult)
assert_type(result.prompt, pt.TunedPrompt | None)
assert_type(result.history, list[dict[str, float]])
found = pt.sweep({"learning_rate": [0.1, 0.3]}, task="bundled_topic", model_dir="runs/sweep")
assert found.prompt is not None
rows = found.prompt.shape[0]
compared = pt.compare(task="bundled_topic", methods=["prompt"], seeds=1)[0].scores
runs = pt.train_many({"a": {"seed": 1}, "b": {"seed": 2}}, config)
assert_type(runs, dict[str, pt.TrainResult])

prompt = pt.load_prompt(Path("runs/sentiment/best"))
assert_type(prompt, pt.TunedPrompt)
assert_type(prompt.shape, tuple[int, int])
pt.save_prompt("prompts/sentiment", prompt, base_model="t5-small", note="mine")
pt.save_prompt("prompts/array", np.zeros((20, 512), np.float32))

bank = pt.load_bank({"sentiment": "runs/sentiment/best", "topic": Path("runs/topic/best")})
assert_type(bank, pt.TunedBank)
assert_type(bank.names, tuple[str, ...])

embedder = pt.load_embedding_model("bundled", pooling=["mean", "max"])
assert_type(embedder, pt.EmbeddingModel)
assert_type(pt.load_embedding_model(pt.load_model("bundled")).fingerprint, str)
assert_type(embedder.embed(["a fine film"], prompt, name="query", dtype="int8"), np.ndarray)
assert_type(embedder.tokenize(["a fine film"])["tokens"], np.ndarray)
assert_type(embedder.embedded(embedder.params, prompt.values, {}), jax.Array)
embedder.embed("a fine film", prompt, batch_size="32")  # type: ignore[arg-type]

model = pt.load_model("bundled")
assert_type(model, pt.FrozenModel)
texts = ["a fine film", "a dull film"]
assert_type(model.generate(texts, prompt, beams=4, max_length=8).texts, list[str])
assert_type(model.generate(texts, bank.rows(["sentiment", "topic"])).scores, np.ndarray)
labels, scores = model.classify(texts, ["positive", "negative"], bank.ensemble())
assert_type(labels, list[str])
assert_type(scores, np.ndarray)
tokens = jax.numpy.zeros((2, 8), int)
assert_type(model.logits(tokens, tokens, prompt), jax.Array)
model.generate(texts, temperature="hot")  # type: ignore[arg-type]

assert_type(pt.recycle("bundled_topic", model, "bundled_causal"), pt.TunedPrompt)
near = pt.similar("runs", task="bundled_topic", step=200)
assert_type(near.ranking[0].similarity, float)

evaluation = pt.evaluate(task="bundled_sentiment", prompt="runs/sentiment/best")
if isinstance(evaluation, pt.Evaluation):
    assert_type(evaluation.scores, dict[str, float])

sizes = pt.T5Config(
    vocab_size=128,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
assert_type(pt.Transformer(sizes), pt.Transformer)
