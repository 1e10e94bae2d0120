"""Makes the bundled model: vocabulary, span corruption, LM adaptation, bfloat16 weights and a card.

    python scripts/prepare_bundled_model.py --prose path/to/text --work runs/bundled \\
        --output prompt_tuning_jax/bundled/model

or, with the bundled model's vocabulary and in one phase, its causal sibling:

    python scripts/prepare_bundled_model.py --causal --prose path/to/text --work runs/causal \\
        --output prompt_tuning_jax/bundled/causal_model

`--prose` is a directory of UTF-8 .txt files of English; it is read, never copied. An interrupted
run continues from where it was. With `--control` the model meets the same prose and the same worlds
but no questions: what it lacks is what the skills contribute.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled import causal_recipe
from prompt_tuning_jax.bundled.causal_tokenizer import save_tokenizer
from prompt_tuning_jax.bundled.recipe import train_vocabulary
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED

CARD = """# The bundled T5 1.1

It is small, knows little of the world, and is meant for trying prompt tuning on a laptop and for
tests; for real work load a published T5.

- Parameters: {parameters:,}, stored as bfloat16 in Hugging Face's format.
- Width {config.emb_dim}, {config.num_heads} heads of {config.head_dim}, gated-gelu MLP of
  {config.mlp_dim}; {config.num_encoder_layers} encoder and {config.num_decoder_layers} decoder
  layers.
- Vocabulary: SentencePiece unigram, {pieces:,} pieces and 100 sentinels; {config.vocab_size:,}
  embedding rows.
- Fingerprint: `{fingerprint}`

## How it was made

By this project's trainer, with `scripts/prepare_bundled_model.py{control}`:

1. a vocabulary from the prose and generated documents (`bundled/recipe.py`, `train_vocabulary`);
2. span corruption: {spans} steps of 48 rows, validation loss {spans_loss:.3f} nats a token;
3. LM adaptation: {adapted} steps of 48 rows, validation loss {adapted_loss:.3f}; the learning rate
   falls to 0 over the last 40 percent.

Adam (0.9, 0.99), clipping 1.0, rates 1e-3 (weights), 4e-3 (embeddings), 1.25e-4 (query kernels), no
dropout, seed 0. Rows are mixed
{mixture}.

{prose}
Generated text: `bundled/worlds.py` and `bundled/skills.py`, without limit, from the pre-training
half of their names and phrasings. The bundled tasks use the other half.

Machine: {machine}; jax {jax_version}.
"""
PROSE = """\
Prose, {characters:.1f} million characters in {files} files, none of it in this package: English
novels that are out of copyright and Wikipedia text.

{names}
"""
CAUSAL_CARD = """# The bundled causal model

A sibling of the bundled T5 for trying the causal family: a Llama, small, that knows little of the
world; for real work load a published model. Unprompted it answers questions hardly better than by
chance: it was trained far less than the T5.

- Parameters: {parameters:,}, stored as bfloat16 in Hugging Face's format.
- Width {config.emb_dim}, {config.num_heads} heads of {config.head_dim}, gated-silu MLP of
  {config.mlp_dim}; {layers} layers; tied embeddings.
- Vocabulary: the {pieces:,} pieces of the bundled T5's, without sentinels, as a tokenizer.json.
- Fingerprint: `{fingerprint}`

## How it was made

By this project's trainer, with `scripts/prepare_bundled_model.py --causal`: {step} steps of
24 examples, packed, from random weights. Each token is predicted from those before it: of
prose, of generated documents with questions and answers behind them, and, of single questions, the
answer alone; mixed {mixture[0]} : {mixture[1]} : {mixture[2]}.

Validation loss {loss:.3f} nats a token; knowing only how often each token occurs leaves
{unigram:.3f}.

Adam (0.9, 0.99), clipping 1.0, rate 2e-3, which falls to 0 over the last 80 percent, no dropout,
seed 0.

{prose}
Generated text: `bundled/worlds.py` and `bundled/skills.py`, without limit, from the pre-training
half of their names and phrasings. The bundled tasks use the other half.

Machine: {machine}; jax {jax_version}.
"""


def run_experiment(
    name: str, folder: Path, steps: int | None, *settings: str
) -> list[dict[str, Any]]:
    """Trains by one of the installed experiments; returns its history."""
    command = [sys.executable, "-m", "prompt_tuning_jax", "train"]
    command += [f"--gin_file=experiments/{name}.gin", f"--model_dir={folder}", *settings]
    if steps is not None:
        command.append(f"--train_steps={steps}")
    subprocess.run(command, check=True)
    return json.loads((folder / "history.json").read_text())


def prepare(args: argparse.Namespace) -> None:
    args.work.mkdir(parents=True, exist_ok=True)
    vocabulary = args.work / "spiece.model"
    if not vocabulary.exists():
        with new_file(vocabulary) as partial:
            partial.write_bytes(train_vocabulary(args.prose).model_bytes)
    given = [f"--gin.PROSE={args.prose}", f"--gin.VOCABULARY_FILE={vocabulary}"]
    if args.control:
        given.append("--gin.prompt_tuning_jax.bundled.recipe.pretraining_task.control=True")
    spans_folder, adapted_folder = args.work / "spans", args.work / "adapted"
    spans = run_experiment("pretrain_span_corruption", spans_folder, args.span_steps, *given)
    start = f"--model={spans_folder / 'last'}"
    adapted = run_experiment(
        "pretrain_lm_adaptation", adapted_folder, args.adaptation_steps, start, *given
    )
    model = pt.load_model(adapted_folder / "last", dtype=jnp.bfloat16)
    huggingface.save(args.output, model.config, model.params, model.vocabulary)
    (args.output / "CARD.md").write_text(card(args, model, spans, adapted))
    print(f"{args.output}: {model.fingerprint}")


def prepare_causal(args: argparse.Namespace) -> None:
    vocabulary = BUNDLED / "spiece.model"
    given = [f"--gin.PROSE={args.prose}", f"--gin.VOCABULARY_FILE={vocabulary}"]
    history = run_experiment("pretrain_causal", args.work / "causal", args.causal_steps, *given)
    model = pt.load_model(args.work / "causal" / "last", dtype=jnp.bfloat16)
    huggingface.save(args.output, model.config, model.params)
    save_tokenizer(args.output, vocabulary.read_bytes())
    task = causal_recipe.causal_pretraining_task(str(args.prose), str(vocabulary))
    text = CAUSAL_CARD.format(
        parameters=sum(np.size(x) for x in jax.tree.leaves(model.params)),
        config=model.config,
        layers=len(model.config.layers),
        pieces=model.vocabulary.size,
        fingerprint=model.fingerprint,
        step=history[-1]["step"],
        mixture=(causal_recipe.PROSE, causal_recipe.DOCUMENTS, causal_recipe.QUESTIONS),
        loss=history[-1]["loss"],
        unigram=causal_recipe.unigram_loss(task, model.vocabulary),
        **circumstances(args.prose),
    )
    (args.output / "CARD.md").write_text(text)
    print(f"{args.output}: {model.fingerprint}")


def card(
    args: argparse.Namespace,
    model: pt.FrozenModel,
    spans: list[dict[str, Any]],
    adapted: list[dict[str, Any]],
) -> str:
    mixture = (
        "8 prose : 48 generated documents"
        if args.control
        else ("8 prose : 8 generated documents : 40 questions about generated documents")
    )
    return CARD.format(
        parameters=sum(np.size(x) for x in jax.tree.leaves(model.params)),
        config=model.config,
        pieces=model.vocabulary.size - model.vocabulary.extra_ids,
        fingerprint=model.fingerprint,
        control=" --control" if args.control else "",
        spans=spans[-1]["step"],
        spans_loss=spans[-1]["loss"],
        adapted=adapted[-1]["step"],
        adapted_loss=adapted[-1]["loss"],
        mixture=mixture,
        **circumstances(args.prose),
    )


def circumstances(prose: Path) -> dict[str, str]:
    """What both cards say of the text and of the machine."""
    files = sorted(prose.rglob("*.txt"))
    return {
        "prose": PROSE.format(
            files=len(files),
            characters=sum(file.stat().st_size for file in files) / 1e6,
            names="\n".join(f"- {file.relative_to(prose)}" for file in files),
        ),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax_version": jax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prose", type=Path, required=True, help="a directory of .txt files")
    parser.add_argument("--work", type=Path, default=Path("runs/bundled"), help="where to train")
    parser.add_argument("--output", type=Path, required=True, help="where the model goes")
    parser.add_argument("--control", action="store_true", help="leave the questions out")
    parser.add_argument("--span_steps", type=int, help="instead of the experiment's own")
    parser.add_argument("--adaptation_steps", type=int, help="instead of the experiment's own")
    parser.add_argument("--causal", action="store_true", help="the causal sibling instead")
    parser.add_argument("--causal_steps", type=int, help="instead of the experiment's own")
    args = parser.parse_args()
    (prepare_causal if args.causal else prepare)(args)


if __name__ == "__main__":
    main()
