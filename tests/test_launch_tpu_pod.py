"""The TPU pod launcher, against a stand-in for gcloud whose two hosts are directories here."""

import os
import re
import shlex
import stat
import subprocess
import time
from pathlib import Path

import pytest
from common import HANG

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "launch_tpu_pod.sh"
PROGRAM = (
    "--gin_file=a run.gin",
    "--gin.MODEL_DIR='gs://bucket/run'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 8}",
)

OWN = "prompt_tuning_jax"
OWN_ENGINE = ("run", "--name", "a", "--zone", "b", "--dry_run", "--module", OWN)

# The slice's state is a file. A host's Python is a program of the test's choosing.
GCLOUD = r"""#!/usr/bin/env bash
printf '%q ' "$@" >> "$CLOUD/calls"; echo >> "$CLOUD/calls"
[ "$1 $2 $3" = "compute tpus tpu-vm" ] || exit 2
case $4 in
  describe) [ -f "$CLOUD/state" ] || { echo NOT_FOUND >&2; exit 1; }
    [ ! -f "$CLOUD/broken" ] || { echo "login needed" >&2; exit 1; }
    cat "$CLOUD/state" ;;
  create) echo READY > "$CLOUD/state"; mkdir -p "$CLOUD/host0" "$CLOUD/host1" ;;
  delete) rm -rf "$CLOUD/state" "$CLOUD/host0" "$CLOUD/host1" ;;
  scp) shift 4
    files=(); for word in "$@"; do case $word in
      --*) ;; pod:*) target=${word#pod:} ;; *) files+=("$word") ;; esac; done
    for host in "$CLOUD"/host?; do cp "${files[@]}" "$host/$target"; done ;;
  ssh) for word in "$@"; do case $word in --command=*) command=${word#--command=} ;; esac; done
    case $command in *"uv venv"*) command=${command%% && cd*}
      command+=" && mkdir -p prompt_tuning_jax/.venv/bin"
      command+=' && cp "$CLOUD/python" prompt_tuning_jax/.venv/bin/python' ;; esac
    for host in "$CLOUD"/host?; do (cd "$host" && HOME=$host bash -c "$command"); done ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "gcloud", GCLOUD)
    python(tmp_path, "exit 0")
    yield tmp_path
    launch(tmp_path, "stop")


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def python(cloud, text):
    """What the program on each host is."""
    body = 'printf "%s\\n" "$@" > "$CLOUD/received.$(basename "$HOME")"\n'
    executable(cloud / "python", f"#!/usr/bin/env bash\n{body}{text}\n")


def command_line(cloud, action, *options, program=()):
    where = ("--name", "pod", "--zone", "zone-a", "--poll", "0.2")
    line = [str(SCRIPT), action, *where, *options, *(("--", *program) if program else ())]
    path = f"{cloud / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return line, os.environ | {"PATH": path, "CLOUD": str(cloud)}


def launch(cloud, action, *options, program=()):
    line, environment = command_line(cloud, action, *options, program=program)
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=HANG)


def calls(cloud):
    return (cloud / "calls").read_text().splitlines()


def actions(cloud):
    """What was asked of gcloud, in order: create, scp, ssh, describe, delete."""
    return [line.split()[3] for line in calls(cloud)]


def wait_for(condition):
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_run_starts_the_same_program_on_every_host_and_ends_with_it(cloud):
    done = launch(cloud, "run", program=PROGRAM)
    assert done.returncode == 0, done.stderr
    assert "t5x.train has ended" in done.stderr
    expected = ["scripts/run_on_host.py", "t5x.train", *PROGRAM]
    for host in ("host0", "host1"):
        assert (cloud / f"received.{host}").read_text().splitlines() == expected
        assert (cloud / host / "prompt_tuning_jax" / "pyproject.toml").exists()
    assert actions(cloud).count("create") == 1
    assert "delete" not in actions(cloud)


@pytest.mark.slow
def test_a_pre_empted_slice_is_made_again_and_the_program_started_again(cloud):
    python(cloud, '[ -f "$CLOUD/again" ] || sleep 600')
    line, environment = command_line(cloud, "run", "--delete_after", program=PROGRAM)
    running = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (cloud / "received.host1").exists())
    (cloud / "again").touch()
    launch(cloud, "stop")
    (cloud / "state").write_text("PREEMPTED\n")
    _, errors = running.communicate(timeout=HANG)
    assert running.returncode == 0, errors
    assert "PREEMPTED" in errors
    order = [a for a in actions(cloud) if a in ("create", "delete")]
    assert order == ["create", "delete", "create", "delete"]


@pytest.mark.slow
def test_a_program_that_fails_is_not_started_again(cloud):
    python(cloud, 'echo "no such task" >&2; exit 3')
    done = launch(cloud, "run", program=PROGRAM)
    assert done.returncode == 1
    assert "t5x.train failed" in done.stderr
    assert "no such task" in done.stdout
    assert actions(cloud).count("create") == 1
    assert "delete" not in actions(cloud)


@pytest.mark.slow
def test_an_interrupted_run_is_followed_by_the_next(cloud):
    python(cloud, 'while [ ! -f "$CLOUD/finish" ]; do sleep 0.1; done')
    launch(cloud, "create")
    launch(cloud, "install")
    launch(cloud, "start", program=PROGRAM)
    assert launch(cloud, "status").stdout.split() == ["state=running"] * 2
    line, environment = command_line(cloud, "run", program=PROGRAM)
    running = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    # It asks for the slice's state once, then for the program's; again when it follows that.
    wait_for(lambda: actions(cloud).count("describe") > 1)
    (cloud / "finish").touch()
    _, errors = running.communicate(timeout=HANG)
    assert running.returncode == 0
    assert "following the program" in errors
    assert sum("run.sh" in call and " scp " in call for call in calls(cloud)) == 1


@pytest.mark.slow
def test_stop_ends_the_program_on_every_host(cloud):
    python(cloud, "sleep 600")
    for action, program in (("create", ()), ("install", ()), ("start", PROGRAM)):
        launch(cloud, action, program=program)
    launch(cloud, "stop")
    assert launch(cloud, "status").stdout.split() == ["state=none"] * 2


def test_gcloud_that_cannot_answer_makes_no_slice(cloud):
    launch(cloud, "create")
    (cloud / "broken").touch()
    done = launch(cloud, "run", program=PROGRAM)
    assert done.returncode == 1
    assert "login needed" in done.stderr
    assert actions(cloud).count("create") == 1


@pytest.mark.parametrize(
    ("module", "way", "program", "installer"),
    [
        (
            "t5x.train",
            "scripts/run_on_host.py",
            PROGRAM,
            "scripts/install_t5x.sh --venv .venv --accelerator tpu",
        ),
        (OWN, "-m", ("train", "--input_template", "{a} b", "--model_dir", "/mnt/a"), "jax[tpu]"),
    ],
)
def test_a_dry_run_prints_every_command_and_runs_none(cloud, module, way, program, installer):
    options = ("--dry_run", "--spot", "--type", "v4-8", "--module", module, "--delete_after")
    done = launch(cloud, "run", *options, program=program)
    assert done.returncode == 0
    assert not (cloud / "calls").exists()
    printed = [shlex.split(block) for block in done.stdout.split("\n\n") if "gcloud" in block]
    assert [words[4] for words in printed] == [
        "create",
        "scp",
        "ssh",
        "scp",
        "ssh",
        *["ssh"] * 2,
        "delete",
    ]
    for words in printed:
        assert words[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
        assert "--zone=zone-a" in words
        assert ("--worker=all" in words) == (words[4] in ("ssh", "scp"))
    assert {"--accelerator-type=v4-8", "--spot"} <= set(printed[0])
    assert installer in done.stdout
    (script,) = re.findall(r"<<'END'\n(.*)\necho", done.stdout)
    assert shlex.split(script) == [".venv/bin/python", way, module, *program]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("run",), "--name and --zone"),
        (("fly", "--name", "a", "--zone", "b"), "unknown action fly"),
        (("run", "--name", "a", "--zone", "b", "--dry_run"), "needs arguments, after --"),
        (("run", "--name", "a", "--zone"), "--zone needs a value"),
        (("run", "--name", "a", "--zone", "b", "--gin_file=x"), "follow --"),
        (("run", "--name", "a", "--zone", "b", "--poll", "often"), "--poll must be a number"),
        (("create", "--name", "a", "--zone", "b", "--copy", "absent.py"), "no such file"),
        ((*OWN_ENGINE, "--", "train", "--gin.MODEL_DIR='gs://bucket/run'"), "mount the bucket"),
        ((*OWN_ENGINE, "--", "train", "--model_dir", "gs://bucket/run"), "mount the bucket"),
        ((*OWN_ENGINE, "--", "train", "--model-dir=gs://bucket/run"), "mount the bucket"),
    ],
)
def test_mistakes_are_named(line, message):
    done = subprocess.run([SCRIPT, *line], capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    "program", [("--gin.MODEL_DIR='runs/x'",), ("train", "--model_dir", "runs/x")]
)
def test_a_model_directory_on_the_hosts_disk_is_warned_about(cloud, program):
    done = launch(cloud, "run", "--dry_run", program=program)
    assert "lost with the slice" in done.stderr


def test_help_documents_every_option():
    text = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True).stdout
    options = set(re.findall(r"--\w+(?= \|)|(?<=\| )--\w+", SCRIPT.read_text())) - {"--help"}
    assert len(options) > 8
    assert not [option for option in options if option not in text]
