"""The facts of a task: what is shown is what training sees."""

import json
import subprocess
import sys

import numpy as np
import pytest
from common import NEEDS_DATA_EXTRA

from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.commands import command, show_task
from prompt_tuning_jax.data.encoding import Encoder
from prompt_tuning_jax.data.task import ExampleList, Task
from prompt_tuning_jax.data.task_facts import DIFFERENT_TARGETS, task_facts
from prompt_tuning_jax.layout import LAYOUTS, place_prompt
from prompt_tuning_jax.settings.task_config import LENGTHS
from prompt_tuning_jax.tuned_prompt import TunedPrompt

WORDS = {"0": "negative", "1": "positive"}
ROWS = (("a dull film", 0), ("a bright and a long film of many many words", 1), ("fine", 1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with a train and a dev file."""
    folder = tmp_path_factory.mktemp("files")
    for stem, rows in (("train", ROWS), ("dev", ROWS[:1])):
        lines = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        (folder / f"{stem}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def of_files(files, *arguments):
    return [
        *("--data_dir", str(files), "--input_template", "sentence: {sentence}"),
        *("--verbalizers", *(f"{label}={word}" for label, word in WORDS.items()), *arguments),
    ]


def facts_of(capsys, *arguments):
    show_task.main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *arguments, code=1):
    with pytest.raises(SystemExit) as stopped:
        command.run(lambda: show_task.main([*map(str, arguments)]))
    captured = capsys.readouterr()
    assert stopped.value.code == code
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("layout", ["prefix", "suffix_before_eos"])
def test_the_row_is_the_one_the_encoder_gets(capsys, files, layout):
    facts = facts_of(
        capsys,
        *of_files(
            files,
            "--prompt_length",
            4,
            "--prompt_layout",
            layout,
            "--feature_lengths",
            "inputs=8",
            "targets=64",
        ),
    )
    vocabulary = show_task.read_vocabulary()
    cut = Encoder(vocabulary, {"inputs": 8, "targets": 64})
    for (text, _), shown in zip(ROWS, facts["examples"], strict=False):
        inputs = f"sentence: {text}"
        assert shown["inputs"]["text"] == inputs
        assert shown["inputs"]["ids"] == [*vocabulary.encode(inputs), 1]
        assert shown["inputs"]["pieces"][-1] == "</s>"
        row = np.array([cut({"inputs": inputs}, "inputs")], np.int32)
        tokens, positions = place_prompt(row, 4, layout)
        assert shown["row"]["ids"] == tokens[0].tolist()
        assert shown["row"]["prompt_positions"] == positions[0].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompts_positions_hold_the_vocabularys_padding(vocabulary, layout):
    task = Task("t", {"train": ExampleList([{"inputs": "a film", "targets": "good"}])})
    other = vocabulary.with_ids(pad_id=7)
    facts = task_facts(task, "train", other, LENGTHS, prompt_length=2, layout=layout)
    row = facts["examples"][0]["row"]
    held = zip(row["ids"], row["prompt_positions"], strict=True)
    assert [token for token, position in held if position >= 0] == [7, 7]


def test_files_give_records_labels_and_the_share_cut(capsys, files):
    facts = facts_of(capsys, *of_files(files, "--feature_lengths", "inputs=10", "targets=1"))
    vocabulary = show_task.read_vocabulary()
    assert facts["records"][0] == {"sentence": "a dull film", "label": "0"}
    assert facts["targets"]["counts"] == {"positive": 2, "negative": 1}
    assert facts["targets"]["not_verbalizers"] == 0
    assert [word["text"] for word in facts["verbalizers"]] == ["negative", "positive"]
    assert (facts["counted"], facts["complete"]) == (3, True)
    lengths = [len(vocabulary.encode(f"sentence: {text}")) + 1 for text, _ in ROWS]
    inputs = facts["lengths"]["inputs"]
    assert inputs["truncated"] == np.mean(np.array(lengths) > 10)
    assert inputs["longest"] == max(lengths)
    assert inputs["mean"] == pytest.approx(np.mean(lengths))
    assert inputs["median"] == sorted(lengths)[1]
    assert sum(count for _, count in inputs["histogram"]) == 3
    assert facts["lengths"]["targets"]["truncated"] == 1.0


def test_a_limit_bounds_what_is_counted(capsys):
    some = facts_of(capsys, "bundled_topic", "--limit", 10, "--examples", 12)
    assert (some["counted"], some["complete"], len(some["examples"])) == (10, False, 10)
    whole = facts_of(capsys, "bundled_topic", "--split", "validation", "--limit", None)
    assert (whole["counted"], whole["complete"]) == (500, True)
    assert whole["splits"] == ["test", "train", "validation"]


def test_free_text_takes_bounded_memory(vocabulary):
    size = DIFFERENT_TARGETS + 50
    examples = ExampleList({"inputs": "a", "targets": f"b {i}"} for i in range(size))
    task = Task("free", {"train": examples})
    facts = task_facts(
        task, "train", vocabulary, LENGTHS, prompt_length=2, layout="prefix", limit=None
    )
    assert len(facts["targets"]["counts"]) == DIFFERENT_TARGETS
    assert facts["targets"]["others"] == 50
    assert facts["verbalizers"] is None
    assert facts["counted"] == size


def test_what_the_vocabulary_loses_is_shown(capsys, tmp_path):
    rows = ["text\tlabel", "fine\tso  good", "a \u6f22\tbad", "dull\tbad"]
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    arguments = ("--data_dir", tmp_path, "--input_template", "{text}")
    lost = facts_of(capsys, *arguments)["lost"]
    assert lost["unknown"]["inputs"] == {
        "examples": 1,
        "characters": {"\u6f22": 1},
        "first": "a \u6f22",
    }
    assert lost["changed_targets"] == 1
    assert lost["first_changed"] == ["so  good", "so good"]
    words = ("--verbalizers", "so  good=\u6f22", "bad=\u5b57")
    assert "are the same tokens" in facts_of(capsys, *arguments, *words)["alike"]
    show_task.main([*map(str, arguments + words)])
    shown = capsys.readouterr().out
    assert "1 of 3 inputs hold characters" in shown
    assert "are the same tokens to this model" in shown


def test_a_prompt_file_gives_length_and_layout(capsys, files, tmp_path):
    save_prompt(tmp_path / "p", TunedPrompt(np.ones((6, 8), np.float32), "suffix"))
    facts = facts_of(capsys, *of_files(files, "--prompt", tmp_path / "p"))
    assert facts["prompt"] == {"length": 6, "layout": "suffix"}
    assert facts["examples"][0]["row"]["prompt_positions"][-6:] == list(range(6))
    given = of_files(files, "--prompt", tmp_path / "p", "--prompt_layout", "after_bos")
    assert "leave out --prompt_layout" in refusal(capsys, *given)


def test_the_report_for_people_shows_everything(capsys, files):
    show_task.main(of_files(files, "--prompt_length", "4"))
    shown = capsys.readouterr().out
    for text in ("record 0", "[prompt 0..3]", "positive", "66.7%", "cut at 512: 0.00%"):
        assert text in shown


def test_mistakes_end_in_one_line(capsys, files, tmp_path):
    own = refusal(capsys, "bundled_sentiment", "--input_template", "{text}")
    assert "'bundled_sentiment' has its own" in own
    assert "--task_module" in refusal(capsys, "super_glue_rte")
    assert "has no split 'dev'" in refusal(capsys, "bundled_topic", "--split", "dev")
    assert "no directory" in refusal(
        capsys, "--data_dir", tmp_path / "absent", "--input_template", "{a}"
    )
    assert "did you mean 'sentence'" in refusal(
        capsys, "--data_dir", files, "--input_template", "{sentense}"
    )
    assert "inputs=512 targets=16" in refusal(
        capsys, "bundled_topic", "--feature_lengths", "input=3"
    )
    assert "no Python list or mapping" in refusal(
        capsys, "bundled_topic", "--verbalizers", "{no: 1}", code=2
    )
    assert "--vocabulary" in refusal(capsys, "bundled_topic", "--model", tmp_path)
    assert "no tokenizer.json or spiece" in refusal(
        capsys, "bundled_topic", "--vocabulary", tmp_path
    )
    assert refusal(capsys, "bundled_topic", "--prompt", tmp_path / "absent")


@pytest.mark.slow
def test_tensorflow_is_not_needed():
    blocked = "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'seqio', 't5x']));"
    program = "from prompt_tuning_jax.commands.show_task import main;"
    program += "main(['bundled_place', '--limit=5'])"
    done = subprocess.run([sys.executable, "-c", blocked + program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the first 5 examples" in done.stdout


@pytest.mark.data
class TestSeqio:
    @pytest.fixture(autouse=True)
    def needs(self):
        pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)

    @pytest.mark.slow
    def test_a_seqio_task_shows_what_the_bundled_task_does(self, capsys):
        """The same task registered with SeqIO, through its ids, has the same facts."""
        arguments = ("bundled_season", "--limit", 20, "--split", "validation")
        ours = facts_of(capsys, *arguments)
        module = "prompt_tuning_jax.tasks.bundled"
        from prompt_tuning_jax.data.seqio_source import seqio_task
        from prompt_tuning_jax.tasks.bundled import VOCABULARY_FILE

        vocabulary = show_task.read_vocabulary(vocabulary=VOCABULARY_FILE)
        task = seqio_task("bundled_season", module=module, vocabulary=vocabulary)
        theirs = task_facts(task, "validation", vocabulary, LENGTHS, prompt_length=100, limit=20)
        assert theirs["records"][0] == {
            feature: ours["examples"][0][feature]["text"] for feature in ("inputs", "targets")
        }
        for name in ("examples", "lengths", "counted"):
            assert theirs[name] == ours[name]
        assert theirs["targets"]["counts"] == ours["targets"]["counts"]

    @pytest.mark.slow
    def test_a_mixture_is_sampled_at_its_rates(self):
        import seqio

        from prompt_tuning_jax.data.seqio_source import seqio_task

        names = {"bundled_topic": 3.0, "bundled_season": 1.0}
        module = "prompt_tuning_jax.tasks.bundled"
        seqio_task("bundled_topic", module=module)
        seqio.MixtureRegistry.add("topics_and_seasons", list(names.items()))
        try:
            task = seqio_task("topics_and_seasons", module=module)
            options = {"vocabulary": show_task.read_vocabulary(), "prompt_length": 1}
            facts = task_facts(task, "train", lengths=LENGTHS, limit=400, **options)
            seasons = sum(facts["targets"]["counts"][s] for s in ("spring", "winter", "autumn"))
            assert facts["rates"] == names
            assert seasons + facts["targets"]["counts"]["summer"] == pytest.approx(100, abs=30)
            with pytest.raises(ValueError, match="no end: give a limit"):
                task_facts(task, "train", lengths=LENGTHS, limit=None, **options)
        finally:
            seqio.MixtureRegistry.remove("topics_and_seasons")

    def test_examples_that_are_made_to_the_lengths_are_not_cut(self, capsys, tmp_path):
        """Span corruption fills the rows it is told of, whatever the texts' lengths."""
        (tmp_path / "text/validation").mkdir(parents=True)
        prose = "The heron stood in the reeds and the gull took its fish. " * 60
        for folder in ("text", "text/validation"):
            (tmp_path / folder / "birds.txt").write_text(prose)
        facts = facts_of(
            capsys,
            *("text_span_corruption", "--task_module", "prompt_tuning_jax.tasks.language_modeling"),
            *("--data_dir", tmp_path, "--feature_lengths", "inputs=64", "targets=32"),
        )
        assert 32 < facts["lengths"]["inputs"]["longest"] <= 64
        assert facts["lengths"]["targets"]["truncated"] == 0
        assert facts["records"][0]["text"].startswith("The heron")
