"""What gin_configs/t5x/README.md says is there: its files, its links, and its commands."""

import re
import subprocess
from pathlib import Path

import documented
import gin
import pytest
import shell

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "gin_configs" / "t5x"
README = (FOLDER / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = shell.commands("\n".join(text for language, text in BLOCKS if language == "bash"))
T5X_COMMANDS = [w for w in COMMANDS if w[1:2] == ["-m"] and w[2].startswith("t5x.")]


@pytest.fixture(autouse=True)
def clean():
    yield
    gin.clear_config()


def expand(name):
    """`a{b,c}` as `ab` and `ac`."""
    match = re.search(r"\{([^{}]*)\}", name)
    if match is None:
        return {name}
    head, tail = name[: match.start()], name[match.end() :]
    return {each for option in match[1].split(",") for each in expand(head + option + tail)}


def test_every_gin_file_it_names_is_there_and_every_one_there_is_named():
    named = re.findall(r"(?<![\w/])(?:prompt_tuning_jax/gin_configs/)?t5x/([\w/{},]+\.gin)", README)
    named = set().union(*map(expand, named))
    assert named == {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.gin")}


def settings(words):
    """(gin files, macro -> value as gin reads it) of a command line."""
    files = [word.split("=", 1)[1] for word in words if word.startswith("--gin_file=")]
    pairs = [word[6:].split("=", 1) for word in words if word.startswith("--gin.")]
    return files, dict(pairs)


def check_t5x(program, files, bindings):
    """Gin reads them as T5X does, and every macro that is used has a value."""
    import t5x_runs

    t5x_runs.parse(program, tuple(files), {k: t5x_runs.Gin(v) for k, v in bindings.items()})
    text = gin.config_str(max_line_length=10_000)
    used = set(re.findall(r"%([A-Z_]+)\b", text))
    assert used - set(re.findall(r"^([A-Z_]+) =", text, re.MULTILINE)) == set()
    assert "gin.REQUIRED" not in text


@pytest.mark.t5x
@pytest.mark.parametrize("words", T5X_COMMANDS, ids=lambda words: words[2])
def test_t5x_reads_its_commands(words):
    check_t5x(words[2].removeprefix("t5x."), *settings(words))


@pytest.mark.t5x
def test_t5x_reads_its_example_of_another_model(tmp_path):
    (text,) = [text for language, text in BLOCKS if language == "gin"]
    (tmp_path / "mine.gin").write_text(text)
    (command_line,) = [words for words in T5X_COMMANDS if "lm100k" in " ".join(words)]
    files, bindings = settings(command_line)
    files = [str(tmp_path / "mine.gin") if "/models/" in name else name for name in files]
    check_t5x("train", files, bindings)


def test_the_other_commands_parse():
    seen = set()
    for words in COMMANDS:
        match words:
            case ["prompt-tuning", "train", *_]:
                config = documented.config_of(words[1:])
                assert (config.dropout, config.averaging) == (0.1, 0)  # as the reference trains
                assert gin.query_parameter("paper_adafactor.start_step") == 1_100_000
                gin.clear_config()
            case ["prompt-tuning", *rest]:
                documented.config_of(rest)
            case ["scripts/install_t5x.sh" | "scripts/test.sh", *_]:
                assert (ROOT / words[0]).exists()
            case ["scripts/launch_tpu_pod.sh", *_]:
                line = [ROOT / words[0], words[1], "--dry_run", *words[2:]]
                subprocess.run(line, check=True, capture_output=True)
            case _:
                assert words in T5X_COMMANDS
        seen.add(" ".join(words[:3] if words[0] == "python" else words[:2]))
    assert len(seen) == 9


@pytest.mark.t5x
def test_t5x_reads_the_command_on_a_slice():
    (words,) = [words for words in COMMANDS if words[0] == "scripts/launch_tpu_pod.sh"]
    check_t5x("train", *settings(words[words.index("--") :]))
