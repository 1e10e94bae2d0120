"""What a retrieval run is set up from, before its first step."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prompt_tuning_jax.checkpoints.run_state import Digest
from prompt_tuning_jax.data.collection import Collection, read_collection
from prompt_tuning_jax.data.records.digest import FilesDigest
from prompt_tuning_jax.embedding import EmbeddingModel, load_embedding_model
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.evaluation.retrieval.metrics import CLUSTERS, OF_PAIRS, parse_metric
from prompt_tuning_jax.evaluation.retrieval.sides import check_search, embed_documents
from prompt_tuning_jax.evaluation.retrieval.store import (
    FILE,
    Store,
    digest,
    load_store,
    make_store,
)
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.identity import PromptStart, settings_identity
from prompt_tuning_jax.training.outputs import Outputs
from prompt_tuning_jax.training.retrieval.batches import (
    Examples,
    RetrievalBatches,
    check_batch_size,
)
from prompt_tuning_jax.training.retrieval.hard_negatives import MISSING, mine
from prompt_tuning_jax.training.retrieval.query_side import (
    check_query_side,
    divided_params,
    rows_before,
    trains_weights,
)
from prompt_tuning_jax.training.retrieval.scoring import (
    RetrievalScoring,
    TextNames,
    check_evaluation,
    metrics_of,
)
from prompt_tuning_jax.training.runs import Run
from prompt_tuning_jax.training.set_up import Prepared, on_mesh, place
from prompt_tuning_jax.training.step_types import Params

# The rate of a prompt, as a share of the size of the numbers that it stands among. The paper's 0.3
# is that for T5's embeddings; BERT's are some thirty times smaller.
RATE = 0.2
INDEX = "index"


def open_embedding_model(config: TrainConfig, mesh: Mesh) -> EmbeddingModel:
    """The model that is given or named, to run on the mesh."""
    model = config.model
    if not isinstance(model, EmbeddingModel):
        model = load_embedding_model(model, dtype=config.model_dtype, mesh=mesh)
    return model.replace(mesh=mesh if mesh.size > 1 else None)


def with_rate(config: TrainConfig, model: EmbeddingModel) -> TrainConfig:
    """The settings with a prompt's learning rate, which follows from the model's embeddings."""
    if config.learning_rate is not None or not config.input_rows:
        return config
    size = float(jnp.sqrt(jnp.mean(jnp.square(model.embeddings.astype(jnp.float32)))))
    return dataclasses.replace(config, learning_rate=float(f"{RATE * size:.2g}"))


def prepare_retrieval(
    common: TrainConfig,
    configs: Mapping[str, TrainConfig],
    model: EmbeddingModel,
    mesh: Mesh,
    check: Callable[[Params], None],
) -> Prepared:
    """The runs in order of their names; see `training.set_up.prepare`.

    Args:
      common: what they have in common, the documents among it.
    """
    check_retrieval_runs(common, configs.values())
    collection = read_collection(common.data_dir, common.similar_from)
    names = text_names(common, model)
    for config in configs.values():
        check_evaluation(config, collection)
        examples = examples_of(config, collection)
        check_batch_size(config.batch_size, config.hard_negatives, examples)
    runs, starts, placed, frozen = [], [], model, {}
    divided = {name: divided_params(config, model, check) for name, config in configs.items()}
    # Nothing above takes long, and nothing is written before the first step.
    store, new_index = documents_store(common, collection, model, names)
    if common.index is not None:
        names = names._replace(document=store.facts["name"])
    examples = examples_of(common, collection, store, model, names.query)
    for name, config in sorted(configs.items()):
        trainable, others = divided[name]
        read = {
            "train_examples": len(examples.pairs),
            "index": [store.facts["dtype"] if not config.tunes_documents else None, names.document],
        }
        told = model.fingerprint, model.embeddings.dtype, trainable, read
        identity = run_inputs(config, collection) | settings_identity(config, *told)
        trainable, frozen = place(mesh, model, trainable, frozen or others)
        if not runs and not trains_weights(config):  # else the model stays beside what trains
            placed = on_mesh(model, frozen)
        batches = batches_of(config, examples, store, model, names)
        scoring = RetrievalScoring(
            config,
            collection,
            None if config.tunes_documents else store,
            Path(config.data_dir).resolve().name,
            model.config,
            names,
            new_index,
        )
        runs.append(
            Run(
                name=name,
                config=config,
                identity=identity,
                key=jax.random.key(config.seed),
                batches=batches,
                outputs=Outputs(config, placed, scoring, frozen),
                data=batches.get_state(),
            )
        )
        starts.append(trainable)
    return Prepared(runs, starts, placed, frozen)


def text_names(config: TrainConfig, model: EmbeddingModel) -> TextNames:
    """Which of the model's text prompts stand before queries, and before documents.

    Where both sides pass the prompt, these are texts of one kind, and have the same unasked.

    Raises:
      ValueError: it has none of this name.
    """
    prompts, given = model.text_prompts, config.document_name
    of_queries, of_documents = prompts.of_queries(config.query_name), prompts.of_documents(given)
    if config.tunes_documents:
        of_documents = given or of_queries
    names = TextNames(of_queries, of_documents)
    for name in names:
        prompts.before(name, None)
    return names


def batches_of(
    config: TrainConfig,
    examples: Examples,
    store: Store | None,
    model: EmbeddingModel,
    names: TextNames,
) -> RetrievalBatches:
    """A run's batches, in its own order."""
    tokenize = functools.partial(model.tokenize, prompt_length=rows_before(config))
    of_documents = functools.partial(tokenize, name=names.document)
    return RetrievalBatches(
        examples,
        functools.partial(tokenize, name=names.query),
        None if config.tunes_documents else store.rows,
        of_documents if config.tunes_documents else None,
        batch_size=config.batch_size,
        hard_negatives=config.hard_negatives,
        seed=config.seed,
    )


def check_retrieval_runs(common: TrainConfig, configs: Iterable[TrainConfig]) -> None:
    """Refuses what these runs cannot be.

    Raises:
      ValueError: several hosts, collections of their own, what is no query side to train, an
        unknown metric.
    """
    if (count := jax.process_count()) > 1:
        raise ValueError(f"Retrieval trains on one host, and these are {count}: start one.")
    for config in configs:
        if config.data_dir != common.data_dir:
            raise ValueError(
                f"{spelled('runs')} of {spelled('task_kind', 'retrieval')} have one "
                f"{spelled('data_dir')} in common: start another command for {config.data_dir}."
            )
        check_query_side(config)
        if config.dropout:
            raise ValueError(f"An embedding model has no dropout: leave {spelled('dropout_rate')}.")
        for metric in metrics_of(config):
            if metric not in (*OF_PAIRS, CLUSTERS):
                parse_metric(metric)


def documents_store(
    config: TrainConfig, collection: Collection, model: EmbeddingModel, names: TextNames
) -> tuple[Store | None, Path | None]:
    """The documents' vectors, those of `index` or made now, and where these are still to be kept.

    Where documents pass the prompt too, only hard negatives are found by vectors without it; these
    are not kept.
    """
    place = Path(config.model_dir) / INDEX if config.index is None else Path(config.index)
    if config.tunes_documents:
        if not config.hard_negatives:
            return None, None
    elif config.index is not None or (place / FILE).is_file():
        return opened_store(config, collection, model, place), None
    vectors = embed_documents(model, list(collection.documents.values()), name=names.document)
    store = make_store(collection.documents, vectors, model, name=names.document)
    return store, None if config.tunes_documents else place


def opened_store(
    config: TrainConfig, collection: Collection, model: EmbeddingModel, place: Path
) -> Store:
    """That of a folder, if it is of the model and of the collection's documents."""
    remedy = "Make it again with `prompt-tuning index`."
    if config.index is None:
        remedy = f"Another run made them: choose another {spelled('model_dir')}."
    store = load_store(place)
    store.check(model, place, remedy)
    check_search(store, None, place)
    if store.facts["corpus"] != digest(collection.documents):
        raise ValueError(f"{place} is of other documents than {config.data_dir} holds. {remedy}")
    if config.document_name not in (None, store.facts["name"]):
        raise ValueError(
            f"{place} has documents behind the text prompt {store.facts['name']!r}, and "
            f"{spelled('document_name')} is {config.document_name!r}. {remedy}"
        )
    return store


def examples_of(
    config: TrainConfig,
    collection: Collection,
    store: Store | None = None,
    model: EmbeddingModel | None = None,
    query_name: str | None = None,
) -> Examples:
    """The training queries, what answers them, and what is near them and does not.

    Args:
      store, model: by which hard negatives are found; None for none.
    """
    grades = collection.split("train")
    queries = [collection.queries[query] for query in grades]
    number = {identifier: row for row, identifier in enumerate(collection.documents)}
    answers, refused = [], []
    for query, judged in grades.items():
        rows = {number[document]: grade for document, grade in judged.items()}
        answers.append(frozenset(row for row, grade in rows.items() if grade > 0))
        refused.append([row for row, grade in rows.items() if grade <= 0])
        if len(answers[-1]) == len(number):
            raise ValueError(
                f"{config.data_dir}: every document answers the query {query!r}, so that there is "
                "none to tell them from. Leave it out."
            )
    pairs = [(query, row) for query, rows in enumerate(answers) for row in sorted(rows)]
    negatives = np.zeros((len(queries), 0), np.int32)
    if config.hard_negatives and store is not None:
        vectors = model.embed(queries, name=query_name)
        how = config.negative_depth, config.negative_ceiling
        negatives = mine(store, vectors, answers, refused, *how)
    documents = list(collection.documents.values())
    for query, same in enumerate(same_texts(queries, documents)):
        answers[query] |= same
        negatives[query] = np.where(
            np.isin(negatives[query], list(same)), MISSING, negatives[query]
        )
    counts = np.array([len(rows) for rows in refused])
    return Examples(queries, np.array(pairs), answers, negatives, counts, documents)


def same_texts(queries: Sequence[str], documents: Sequence[str]) -> list[frozenset[int]]:
    """Which documents are the very text of each query: nothing says that they do not answer it."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(documents):
        rows.setdefault(text, []).append(row)
    return [frozenset(rows.get(query, ())) for query in queries]


def run_inputs(config: TrainConfig, collection: Collection) -> dict[str, Digest]:
    """What a run reads, to be compared with what it read when it began."""
    return {
        "TRAIN_DATA": FilesDigest(collection.files, "collection's"),
        "PROMPT_START": PromptStart(config.prompt_init if config.input_rows else None),
    }
