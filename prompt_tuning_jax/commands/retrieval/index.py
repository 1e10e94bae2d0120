"""Documents' vectors, made once and kept: what `search` and retrieval training ask.

    echo '{"_id": "d7", "text": "The ferry leaves at noon."}' \\
      | prompt-tuning index --model bundled --output index
    prompt-tuning index --model all-MiniLM-L6-v2 --documents my_data/corpus.jsonl --output index \\
      --dtype int8

A document is a record with `_id` and `text`, and a `title` that stands before it. The frozen model
makes the vectors: a tuned query side needs no others. Only a prompt that was tuned for both sides
(`train --sides both`) stands before documents too: give it as --prompt, here and to `search`.
`vectors.npy` and `documents.jsonl` in the folder have a row each for a document, in the same order,
for whatever else is to read them.
"""

from prompt_tuning_jax.bounds import ROWS
from prompt_tuning_jax.commands.inference.infer_inputs import opened_lines
from prompt_tuning_jax.data.collection import read_texts, texts_of
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.embedding import load_embedding_model
from prompt_tuning_jax.evaluation.retrieval.sides import (
    check_documents,
    digest_of,
    embed_documents,
)
from prompt_tuning_jax.evaluation.retrieval.store import check_place, make_store, save_store
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.models.embedding.stored import DTYPES
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.common import MismatchConfig
from prompt_tuning_jax.settings.parts.embedding import EmbeddingModelConfig
from prompt_tuning_jax.settings.prompt_config import load_checked_prompt
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.tuned_prompt import DOCUMENT_NAME, SIDE


@settings
class IndexConfig(EmbeddingModelConfig, MismatchConfig):
    """What `prompt-tuning index` takes."""

    documents: PathLike | None = setting(
        default=None,
        help="""a .jsonl, .tsv or .csv file of records with `_id` and `text`. None: JSON lines on
        standard input.""",
        group="data",
        first=True,
    )
    output: PathLike = setting(help="the folder to write.", group="data", first=True)
    encoding: str | None = setting(
        default=None,
        help="of the documents, such as cp1252 or utf-16; None: UTF-8.",
        group="data",
    )
    prompt: PathLike | None = setting(
        default=None,
        help="a prompt that was tuned for both sides; None for the model alone.",
        group="prompt",
    )
    name: str | None = setting(
        default=None,
        help="""which of the model's text prompts stands before a document; None: that which the
        prompt was tuned with, else its "document", "passage" or "corpus", if it has one.""",
        group="model",
    )
    dtype: str = setting(
        default="float32",
        help="in which numbers the vectors are kept.",
        group="data",
        choices=DTYPES,
    )
    batch_size: int = setting(
        default=32, help="documents that are embedded at once.", group="devices", bounds=ROWS
    )


CONFIG = IndexConfig


def read_documents(path: PathLike | None, encoding: str | None = None) -> dict[str, str]:
    """Id -> text of a file's documents, or of those on standard input."""
    if path is not None:
        return read_texts(path, encoding)
    remedy = 'A line must be an object such as {"_id": "d7", "text": "..."}.'
    with opened_lines(None, encoding) as lines:
        records = (
            (where, json_object(line, where, remedy)) for line, where in lines if line.strip()
        )
        return texts_of(records, "Standard input")


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning index")
    check_place(config.output)
    with hosts.connected():
        documents = read_documents(config.documents, config.encoding)
        mesh = sharding.make_mesh(config.mesh)
        how = config.pooling, config.normalize
        model = load_embedding_model(config.model, *how, dtype=config.model_dtype, mesh=mesh)
        name, prompt = model.text_prompts.of_documents(config.name), config.prompt
        if prompt is not None:
            prompt = load_checked_prompt(prompt, model, config.allow_prompt_mismatch)
            check_documents(prompt, config.prompt)
            if SIDE in prompt.metadata:
                name = config.name or prompt.metadata.get(DOCUMENT_NAME)
        texts, size = list(documents.values()), config.batch_size
        vectors = embed_documents(model, texts, prompt, name, batch_size=size)
        digest = None if prompt is None else digest_of(prompt)
        store = make_store(documents, vectors, model, config.dtype, name, digest)
        if hosts.is_first():
            save_store(store, config.output)
            shape = f"{len(store):,} documents, {vectors.shape[1]} numbers each, {config.dtype}"
            print(f"{config.output}: {shape}")
