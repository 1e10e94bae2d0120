"""`prompt-tuning`: every command is there, explains itself, and fails in one line."""

import ast
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from common import HANG, slow

import prompt_tuning_jax
from prompt_tuning_jax.commands import cli, command, completion

# What keeps an example short.
SHORT = {
    "train": ["--train_steps=2", "--eval_limit=8"],
    "evaluate": ["--limit=20"],
    "show-task": ["--limit=20"],
}


@pytest.fixture(autouse=True)
def program_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prompt-tuning"])


def shell(line, folder=None, program="bash"):
    """Runs a line in which `prompt-tuning` is this environment's."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [program, "-c", line], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True
    )


def help_of(capsys, name):
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert not stopped.value.code
    return capsys.readouterr().out


def refusal(capsys, *arguments):
    """The status and the one line of a command that fails."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return stopped.value.code, captured.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_told_nothing_it_lists_all_commands_and_a_first_example(capsys, arguments):
    cli.main(arguments)
    printed = capsys.readouterr().out
    for name, one in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(one.summary)}$", printed, re.MULTILINE)
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.slow
def test_the_first_example_runs(capsys, tmp_path):
    cli.main([])
    printed = capsys.readouterr().out
    done = shell(printed[printed.index("    echo") :], tmp_path)
    assert json.loads(done.stdout)["prediction"] == "restaurant"


def test_the_list_does_not_wait_for_jax():
    script = "import sys; from prompt_tuning_jax.commands import cli; cli.main([])"
    script += "; print('jax' in sys.modules)"
    assert shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}").stdout.endswith(
        b"False\n"
    )


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"prompt-tuning {prompt_tuning_jax.__version__}\n"


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("trian", "mean train?"),
        ("show_task", "mean show-task?"),
        ("complete", "mean completion?"),
        ("xyzzy", "there are train, "),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(capsys, word, answer):
    code, line = refusal(capsys, word)
    assert code == 2
    assert answer in line


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_with_an_example(capsys, name):
    printed = help_of(capsys, name)
    assert printed.startswith(f"usage: prompt-tuning {name}")
    assert f"prompt-tuning {name} " in example(printed, name)[-1]


def example(printed, name):
    """The first lines of a command's help that stand indented, up to one that has the command."""
    block = re.search(r"\n\n((?:    .*\n)+)", printed)[1]
    lines = re.sub(r"\\\n\s*|^ +| +$", "", block, flags=re.MULTILINE).splitlines()
    last = next(i for i, line in enumerate(lines) if f"prompt-tuning {name} " in line)
    return lines[: last + 1]


@pytest.mark.parametrize(
    "name",
    # Training and evaluating are in the README's examples too. A plan compiles for minutes, with a
    # compiler that is often not here: see test_plan. A server does not end: see test_serve_command.
    [
        slow(name) if name in ("train", "evaluate", "sweep", "compare") else name
        for name in cli.COMMANDS
        if name not in ("plan", "serve")
    ],
)
def test_the_example_runs(capsys, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    for line in example(help_of(capsys, name), name):
        given, _, line = line.rpartition(" | ")
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(shlex.split(given)[1:])))
        cli.main([*shlex.split(line)[1:], *SHORT.get(name, [])])
        assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_a_module_calls_itself_a_module():
    done = shell("prompt-tuning combine --help")
    assert done.stdout.startswith(b"usage: prompt-tuning combine ")
    done = shell("python -m prompt_tuning_jax combine --help")
    assert done.stdout.startswith(b"usage: prompt-tuning combine ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--gin.TRAIN_STEP=3"], 2, "did you mean TRAIN_STEPS"),
        (["train", "--train_step=3"], 2, "did you mean --train_steps"),
        (["train", "--train_steps", "many"], 2, "--train_steps must be a whole number"),
        (["train", "bundled_topic"], 1, "Set --model_dir"),
        (["train", "--gin_file=nowhere.gin"], 1, "nowhere.gin"),
        (["infer", "--prompt=nowhere"], 1, "nowhere"),
        (["combine", "averege"], 2, "did you mean average?"),
        (["combine", "average"], 2, "needs PROMPTS; prompt-tuning combine average --help"),
        (["combine", "average", "bundled_topic"], 2, "needs --output"),
        (["export", "nowhere", "out.npy"], 1, "nowhere"),
        (["import", "nowhere", "out"], 1, "nowhere"),
        (["interpret"], 2, "needs PROMPT"),
        (["interpret", "nowhere"], 1, "nowhere"),
        (["show-task", "nowhere"], 1, "nowhere"),
        (["show-task", "bundled_topic", "--feature_lengths", "3"], 2, "takes NAME=VALUE, not '3'"),
        (["checkpoint", "list", "nowhere"], 1, "nowhere"),
        (["checkpoint", "diff", "nowhere", "bundled"], 1, "nowhere"),
        (["checkpoint", "convert", "a", "b", "--to=t5x", "--vocabulary=c"], 2, "leave it out"),
        (["completion"], 2, "needs SHELL"),
        (["completion", "dos"], 2, "must be one of bash, zsh, fish, got 'dos'"),
    ],
)
def test_a_mistake_ends_in_one_line(capsys, monkeypatch, tmp_path, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("text"))
    found, line = refusal(capsys, *arguments)
    assert words in line
    assert found == code


def test_a_closed_pipe_is_quiet():
    done = shell("set -o pipefail; prompt-tuning train --help | head -c 1")
    assert (done.stdout, done.stderr) == (b"u", b"")
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "written", "reader"),
    [
        ("checkpoint convert bundled out --to huggingface", "out/model.safetensors", "| true"),
        ("export bundled_topic out.npy", "out.npy", ">&-"),
    ],
    ids=["convert", "export"],
)
def test_files_are_written_whether_or_not_somebody_reads(tmp_path, command, written, reader):
    done = shell(f"set -o pipefail; prompt-tuning {command} {reader}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / written).exists()


@pytest.mark.slow
def test_answers_end_with_their_reader():
    done = shell(
        f"set -o pipefail; yes 'A long wait.' | timeout {HANG} prompt-tuning infer "
        "--prompt bundled_topic | head -n 1"
    )
    assert done.stdout.count(b"\n") == 1
    assert done.returncode == 141


def test_an_interruption_is_quiet():
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        command.run(main)
    assert stopped.value.code == 130


def test_public_names_are_the_same_for_people_and_for_static_tools():
    tree = ast.parse(Path(prompt_tuning_jax.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {name.name for node in block.body for name in node.names}
    assert imported == set(prompt_tuning_jax.__all__) == set(prompt_tuning_jax._HOME)
    for name in prompt_tuning_jax.__all__:
        assert name in dir(prompt_tuning_jax)
        assert getattr(prompt_tuning_jax, name) is not None


@pytest.mark.slow
def test_train_is_the_function_whatever_is_imported_first():
    script = """
import prompt_tuning_jax.train, prompt_tuning_jax.commands.train, prompt_tuning_jax as pt
assert pt.train is prompt_tuning_jax.train and pt.train.__name__ == "train"
assert callable(pt.train_many)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Each shell's script, by the shell's name."""
    folder = tmp_path_factory.mktemp("completion")
    for name in completion.SHELLS:
        (folder / name).write_text(getattr(completion, name)(*completion.collect()))
    return folder


COMPLETED = [
    ("", {"train", "show-task", "--version"}),
    ("tr", {"train"}),
    ("train --train_s", {"--train_steps"}),
    ("train --gin_file=experiments/bundled_t", {"experiments/bundled_topic.gin"}),
    ("train --gin_file experiments/bundled_t", {"experiments/bundled_topic.gin"}),
    ("train --prompt_layout=suf", {"suffix", "suffix_before_eos"}),
    ("train --prompt_layout suf", {"suffix", "suffix_before_eos"}),
    ("train --pack ", {"True", "False"}),
    ("evaluate --task bundled_n", {"bundled_narrator"}),
    ("evaluate bundled_n", {"bundled_narrator"}),
    ("show-task bundled_w", {"bundled_woman"}),
    ("show-task bundled_woman --prompt_lay", {"--prompt_layout"}),
    ("show-task bundled_woman --prompt_layout aft", {"after_bos"}),
    ("train --model bundled_", {"bundled_causal"}),
    ("show-task --li", {"--limit", "--list"}),
    ("plan --remat_policy f", {"full"}),
    ("checkpoint ad", {"add-prompt"}),
    ("checkpoint diff --tol", {"--tolerance"}),
    ("checkpoint convert a b --to h", {"huggingface"}),
    ("completion z", {"zsh"}),
    ("combine inter", {"interpolate"}),
    ("combine interpolate --a", {"--at"}),
    ("combine average bundled_verd", {"bundled_verdict"}),
    ("infer --prompt=bundled_verd", {"bundled_verdict"}),
    ("infer --prompts bundled_verd", {"bundled_verdict"}),
    ("interpret bundled_verd", {"bundled_verdict"}),
]


@pytest.mark.parametrize(("typed", "words"), COMPLETED)
def test_bash_completes(scripts, typed, words):
    line = f"prompt-tuning {typed}"
    ask = f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}; _prompt_tuning"
    done = shell(f"source {scripts / 'bash'}; {ask}; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    assert done.stderr == b""
    found = set(done.stdout.decode().split())
    assert words <= found
    assert words == found or not typed


def test_bash_leaves_files_to_readline(scripts):
    line = "prompt-tuning infer --prompt=runs/mi"
    ask = f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}; _prompt_tuning"
    done = shell(f"source {scripts / 'bash'}; {ask}; echo ${{#COMPREPLY[@]}}; complete -p")
    assert done.stdout.decode().split("\n")[0] == "0"
    assert b"complete -o default -F _prompt_tuning prompt-tuning" in done.stdout


@pytest.mark.skipif(not shutil.which("fish"), reason="need fish, the shell")
@pytest.mark.parametrize(("typed", "words"), COMPLETED[1:])
def test_fish_completes(scripts, typed, words):
    ask = f"complete -C {shlex.quote(f'prompt-tuning {typed}')}"
    done = shell(f"source {scripts / 'fish'}; {ask}", scripts, "fish")
    assert done.stderr == b""
    found = {line.split("\t")[0] for line in done.stdout.decode().splitlines()}
    assert words <= {word if word.endswith("=") else word.split("=")[-1] for word in found}


@pytest.mark.parametrize("name", completion.SHELLS)
def test_the_scripts_are_well_formed(scripts, name):
    if not shutil.which(name):
        pytest.skip(f"need {name}, the shell")
    done = subprocess.run([name, "-n", scripts / name], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
