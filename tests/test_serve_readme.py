"""What the page on serving shows of its HTTP interface works as it is written."""

import contextlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import serving_stand_in

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.prompt_file import PREBUILT
from prompt_tuning_jax.serving.library import PromptLibrary

PAGE = Path(pt.__file__).parent / "serving" / "README.md"
HERE = "http://127.0.0.1:8000"
BLOCKS = [
    (language, text)
    for language, text in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    if HERE in text
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    model = pt.load_model("bundled")
    folder = tmp_path_factory.mktemp("prompts")
    for name in ("sentiment", "topic"):
        shutil.copytree(PREBUILT / f"bundled_{name}", folder / f"bundled_{name}")
    shutil.copytree(PREBUILT / "bundled_topic", folder / "topic" / "best")
    library = PromptLibrary(folder, model, max_prompt_length=32, memory=2**24)
    engine = serving_stand_in.StandIn(model, library, answer="negative")
    with serving_stand_in.served(engine, serving_stand_in.SETTINGS) as address:
        yield address
    engine.close()


def test_there_are_some():
    assert [language for language, _ in BLOCKS].count("bash") == 3
    assert [language for language, _ in BLOCKS].count("py") == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="need curl")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block(address, tmp_path, number):
    language, text = BLOCKS[number]
    shutil.copytree(PREBUILT / "bundled_topic", tmp_path / "runs" / "topic" / "best")
    np.save(tmp_path / "values.npy", pt.load_prompt("bundled_topic").values)
    text = text.replace(HERE, address)
    if language == "py":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(text, {})
        assert printed.getvalue() == "negative"
        return
    script = "set -e\n" + text.replace("curl ", "curl -sf ")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stdout
    for line in done.stdout.replace("}{", "}\n{").splitlines():
        json.loads(line)
