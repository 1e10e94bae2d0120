"""Every registered task: made-up records of its release through SeqIO's own test helpers.

A task is registered in several forms. All records go through one of them, the paper's where there
is one, and a record through every other; these must have the same data, answers and scores.
"""

import functools
import importlib
import inspect
import itertools
import re

import numpy as np
import pytest
import task_records
from common import NEEDS_DATA_EXTRA, slow

from prompt_tuning_jax.checkpoints.huggingface import BUNDLED

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
seqio_source = pytest.importorskip("prompt_tuning_jax.data.seqio_source")
registration = pytest.importorskip("prompt_tuning_jax.tasks.registration")
settings = pytest.importorskip("prompt_tuning_jax.tasks.settings")

MODULES = (
    "super_glue",
    "glue",
    "qa",
    "glue_transfer",
    "summarization",
    "language_modeling",
    "sentinel",
)
FORM = re.compile(r"^(taskless_|task_index_)?(.*?)(_v200)?(_examples)?$")
LENGTHS = {"inputs": 256, "targets": 32}
EOS = 1


def registered() -> dict[str, str]:
    """Each task and mixture of MODULES -> the module that registers it."""
    owners = {}
    for module in MODULES:
        name = f"prompt_tuning_jax.tasks.{module}"
        importlib.import_module(name)
        names = (*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names())
        owners |= {each: name for each in names if each not in owners}
    return {each: name for each, name in owners.items() if not each.startswith("bundled_")}


OWNERS = registered()
TASKS = {
    name: seqio.TaskRegistry.get(name) for name in OWNERS if name in seqio.TaskRegistry.names()
}
MIXTURES = [name for name in OWNERS if name in seqio.MixtureRegistry.names()]


def main_form(name: str) -> str:
    """The form of a task whose records are tried: the paper's, else T5's."""
    bare = FORM.fullmatch(name).group(2)
    version = FORM.fullmatch(name).group(3)
    names = (f"taskless_{bare}", bare, f"{bare}_v002", f"taskless_{bare}_v002")
    found = [each for each in names if each in TASKS]
    return found[-1] if version else found[0]


MAIN = sorted({main_form(name) for name in TASKS})


def first_of_each(kind, names) -> list:
    """The names as cases; those after the first of their kind are only run with the slow tests."""
    first = {}
    for name in names:
        first.setdefault(kind(name), name)
    return [name if first[kind(name)] == name else slow(name) for name in names]


def of_each_main_form(names) -> list:
    """Of tasks that differ in words or files alone, one for each kind of score; all others."""

    def kind(name):
        alike = re.match("sentinel_|mrqa_|spot_|c4_", name)
        return (alike[0], metrics_of(name)) if alike else name

    return first_of_each(kind, names)


def metrics_of(name) -> tuple[str, ...]:
    return tuple(str(metric) for metric in TASKS[name].predict_metric_fns)


@pytest.fixture(scope="module", autouse=True)
def release(tmp_path_factory):
    """The made-up release, and the bundled model's vocabulary, for every task."""
    root = task_records.write_release(tmp_path_factory.mktemp("release"))
    with settings.using(data_dir=str(root), vocabulary=str(BUNDLED / "spiece.model")):
        yield root


def scored_split(task) -> str:
    """A split with labels, where the task has one."""
    known = ("validation", "validation_matched", "train")
    return next((split for split in known if split in task.splits), "test")


def first_record(task, split):
    if isinstance(task.source, seqio.TfdsDataSource):
        return task_records.TFDS[task.source.tfds_dataset.name.split(":")[0]]
    return next(task.source.get_dataset(split, shuffle=False).as_numpy_iterator())


def of_record(name, split, record):
    """What SeqIO's helper makes of a raw record."""
    return list(
        seqio.test_utils.test_preprocessing(name, {split: record}, seed=0, sequence_length=LENGTHS)
    )


@functools.cache
def examples_of(name):
    """All examples of the made-up release; of a data set that only TFDS has, those of a record."""
    task = TASKS[name]
    split = scored_split(task)
    if isinstance(task.source, seqio.TfdsDataSource):
        return of_record(name, split, first_record(task, split))
    return list(task.get_dataset(LENGTHS, split, shuffle=False, seed=0).as_numpy_iterator())


@functools.cache
def first_record_of(name):
    """The record that all forms of a task are tried with, and its split."""
    task = TASKS[name]
    split = scored_split(task)
    return split, first_record(task, split)


def assert_ids_end_in_eos(name, found):
    assert found
    for example, (feature, output) in itertools.product(found, TASKS[name].output_features.items()):
        ids = example[feature].tolist()
        assert ids[-1] == EOS
        assert ids.count(EOS) == 1
        assert 0 < min(ids) <= max(ids) < output.vocabulary.vocab_size
        assert 1 < len(ids) <= LENGTHS[feature]


EVERY = of_each_main_form(MAIN)


@pytest.mark.parametrize("name", [x if i % 4 == 0 else slow(x) for i, x in enumerate(EVERY)])
def test_records_become_ids_that_end_in_eos(name):
    assert_ids_end_in_eos(name, examples_of(name))


WITH_EXAMPLES = sorted(name for name in TASKS if name.endswith("_examples"))


OTHERS = sorted({*TASKS} - {*MAIN} - {*WITH_EXAMPLES})


def form(name):
    """In which form a module registers a task."""
    prefix, _, version, _ = FORM.fullmatch(name).groups()
    return OWNERS[name], prefix, version


@pytest.mark.slow
@pytest.mark.parametrize("name", first_of_each(form, OTHERS))
def test_a_record_becomes_ids_that_end_in_eos_in_every_other_form(name):
    split, record = first_record_of(main_form(name))
    assert_ids_end_in_eos(name, of_record(name, split, record))


def recipe(step):
    """What a preprocessor does: its code, and what that closes over."""
    if isinstance(step, seqio.CacheDatasetPlaceholder):
        return seqio.CacheDatasetPlaceholder
    if isinstance(step, functools.partial):
        return recipe(step.func), step.args, step.keywords
    if inspect.isfunction(step):
        cells = step.__closure__ or ()
        return step.__code__, step.__kwdefaults__, [recipe(cell.cell_contents) for cell in cells]
    return step


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_tasks_that_show_examples_have_the_data_of_those_that_do_not(name):
    ours, theirs = TASKS[name], TASKS[name.removesuffix("_examples")]
    assert ours.source is theirs.source
    assert [*map(recipe, ours.preprocessors)] == [*map(recipe, theirs.preprocessors)]
    assert ours.output_features == theirs.output_features


@pytest.mark.slow
@pytest.mark.parametrize("name", first_of_each(OWNERS.get, MAIN))
def test_the_release_gives_what_its_first_record_becomes(name):
    task = TASKS[name]
    split, record = first_record_of(name)
    alone = of_record(name, split, record)
    for one, other in zip(alone, examples_of(name), strict=False):
        for feature in task.output_features:
            np.testing.assert_array_equal(one[feature], other[feature])


# Tasks whose predictions are in the words of the task that the prompt was tuned on.
OTHER_WORDS = {
    "mrpc_from_qqp": {"equivalent": "duplicate", "not_equivalent": "not_duplicate"},
    "qqp_from_mrpc": {"duplicate": "equivalent", "not_duplicate": "not_equivalent"},
}


def best_prediction(name: str, target) -> str:
    """The text that scores best: the target, but for tasks that ask for another."""
    if name.startswith("sentinel_"):
        return f"<extra_id_0> {best_prediction(name.removeprefix('sentinel_'), target)}"
    if "wsc" in name and "eval" in name:  # a referent that is not the one proposed
        return str(target) if target.example["label"] else "nobody"
    words = next((words for pair, words in OTHER_WORDS.items() if pair in name), {})
    return words.get(str(target), str(target))


def targets_of(name):
    return [
        seqio_source.SeqioTarget(e["targets_pretokenized"].decode(), TASKS[name], e)
        for e in examples_of(name)
    ]


CLASSIFIED = [name for name in MAIN if name in registration.VERBALIZERS]


@pytest.mark.parametrize("name", of_each_main_form(CLASSIFIED))
def test_verbalizers_cover_what_a_model_should_say(name):
    answers = registration.VERBALIZERS[name]
    assert len(set(answers)) == len(answers) > 1
    if scored_split(TASKS[name]) != "test" or "super_glue" in name:
        assert {best_prediction(name, target) for target in targets_of(name)} <= set(answers)


SCORED = [name for name in MAIN if TASKS[name].predict_metric_fns]
UNLABELLED = ("taskless_glue_ax_v002",)


LABELLED = [name for name in SCORED if name not in UNLABELLED]


@pytest.mark.parametrize("name", of_each_main_form(LABELLED))
def test_a_perfect_prediction_has_the_best_score_and_nonsense_has_not(name):
    targets = targets_of(name)
    best = seqio_source.seqio_metrics(targets, [best_prediction(name, t) for t in targets])
    assert best == pytest.approx(dict.fromkeys(best, 100.0)), best
    worst = seqio_source.seqio_metrics(targets, ["zzz"] * len(targets))
    assert set(worst) == set(best)
    assert worst["mean"] < 100


def one_for_each_kind_of_score() -> list[str]:
    kinds = {}
    for name in SCORED:
        if "validation" in TASKS[name].splits:
            kinds.setdefault(metrics_of(name), name)
    return list(kinds.values())


KINDS = one_for_each_kind_of_score()


@pytest.mark.parametrize("name", [*KINDS[:2], *map(slow, KINDS[2:])])
def test_seqios_evaluator_scores_a_record(name):
    """T5X evaluates so: token ids in, the task's own postprocessor and metrics out."""
    task = TASKS[name]
    record = first_record(task, "validation")
    found = of_record(name, "validation", record)
    metrics = seqio.test_utils.test_postprocessing(
        name,
        {"validation": record},
        predict_output=[found[0]["targets_pretokenized"].decode()] * len(found),
        sequence_length=LENGTHS,
    )
    assert metrics


@pytest.mark.parametrize("module", MODULES)
def test_every_form_of_a_task_has_its_data_answers_and_scores(module):
    for name, task in TASKS.items():
        if OWNERS[name].endswith(f".{module}"):
            main = TASKS[main_form(name)]
            assert set(task.splits) == set(main.splits), name
            assert registration.VERBALIZERS.get(name) == registration.VERBALIZERS.get(main.name)
            assert len(task.predict_metric_fns) >= len(main.predict_metric_fns), name
            assert list(task.output_features) == ["inputs", "targets"]


@pytest.mark.parametrize("module", [*MODULES[:-1], slow(MODULES[-1])])
def test_mixtures_have_rates_and_one_of_them_gives_examples(module):
    mixtures = {
        name: seqio.MixtureRegistry.get(name)
        for name in MIXTURES
        if OWNERS[name].endswith(f".{module}")
    }
    for mixture in mixtures.values():
        rates = seqio_source.SeqioSource(mixture, "train", LENGTHS).rates
        assert min(rates.values()) >= 0
        assert sum(rates.values()) > 0
    if mixtures:
        smallest = min(mixtures.values(), key=lambda mixture: len(mixture.tasks))
        source = seqio_source.SeqioSource(smallest, "train", LENGTHS)
        for example in itertools.islice(source.stream(seed=0, epoch=0), 3):
            assert example["inputs"][-1] == example["targets"][-1] == EOS
