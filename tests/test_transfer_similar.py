"""How near prompts are: the measures, what is found below a folder, and what is shown of it."""

import itertools
import json

import numpy as np
import pytest

from prompt_tuning_jax import TunedPrompt, save_prompt, similar
from prompt_tuning_jax.commands.transfer import similar as command
from prompt_tuning_jax.errors import spelling
from prompt_tuning_jax.training.transfer.similarity import similarity
from prompt_tuning_jax.training.transfer.sources import find_prompts


def values(seed, length=3, width=4):
    return np.random.default_rng(seed).normal(size=(length, width)).astype(np.float32)


def save(path, seed=0, model="a", length=3, width=4, task=None, **facts):
    return save_prompt(
        path,
        values(seed, length, width),
        base_model=model,
        fingerprint=None if model is None else f"weights of {model}",
        task=task,
        **facts,
    )


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


# --- the measures


@pytest.mark.parametrize("length", [3, 5])
def test_measures_are_those_of_the_paper(length):
    one, other = values(0).astype(float), values(1, length).astype(float)
    pooled = cosine(one.mean(axis=0), other.mean(axis=0))
    assert similarity(one, other) == pytest.approx(pooled, abs=1e-12)
    pairs = [cosine(a, b) for a, b in itertools.product(one, other)]
    assert similarity(one, other, "tokens") == pytest.approx(np.mean(pairs), abs=1e-12)


@pytest.mark.parametrize("measure", ["pooled", "tokens"])
def test_laws_of_a_cosine(measure):
    one, other = values(0), values(1)
    found = similarity(one, other, measure)
    assert found == pytest.approx(similarity(other, one, measure))
    assert found == pytest.approx(similarity(3 * one, other[::-1], measure), abs=1e-7)
    assert found == pytest.approx(-similarity(-one, other, measure))
    assert similarity(one, one) == pytest.approx(1)
    assert similarity(np.zeros_like(one), other, measure) == 0


def test_there_are_two_measures():
    with pytest.raises(ValueError, match="measure is one of pooled, tokens, not 'euclid'"):
        similarity(values(0), values(1), "euclid")


# --- the folder


@pytest.fixture
def folder(tmp_path):
    """Two runs and two files of model a, one prompt of model b."""
    for name, seed in (("topic", 0), ("deep/er/mood", 1)):
        for step in (0, 5):
            save(tmp_path / name / "prompts" / str(step), 10 * seed + step, task=name)
        save(tmp_path / name / "best", seed, task=name, step=5)
        save(tmp_path / name / "last", seed + 20, task=name)
        np.save(tmp_path / name / "prompts" / "0" / "junk.npy", values(3))
    save(tmp_path / "longer", 2, length=7, task="topic")
    save(tmp_path / "other", 3, model="b")
    save(tmp_path / "third", 4)
    return tmp_path


def test_of_a_run_the_best_prompt_counts(folder):
    sources, notes = find_prompts(folder)
    assert [one.name for one in sources] == ["deep/er/mood", "longer", "other", "third", "topic"]
    assert not notes
    by_name = {one.name: one for one in sources}
    np.testing.assert_array_equal(by_name["topic"].prompt.values, values(0))
    assert by_name["deep/er/mood"].task == "deep/er/mood"
    # the run itself may be the folder
    assert [one.name for one in find_prompts(folder / "topic").sources] == ["topic"]


def test_links_are_followed_once(folder):
    (folder / "round").symlink_to(folder)
    (folder / "linked").symlink_to(save(folder.parent / "outside" / "prompt", 6))
    names = [one.name for one in find_prompts(folder).sources]
    assert names == ["deep/er/mood", "linked", "longer", "other", "third", "topic"]


def test_a_step_is_of_runs_alone(folder):
    sources, _ = find_prompts(folder, step=5)
    assert [one.name for one in sources] == ["deep/er/mood", "topic"]
    np.testing.assert_array_equal(sources[1].prompt.values, values(5))
    with pytest.raises(FileNotFoundError, match="no prompt that a run kept at step=6 below"):
        find_prompts(folder, step=6)


def test_other_files_of_prompts_and_what_cannot_be_read(tmp_path):
    np.save(tmp_path / "bare.npy", values(0))
    np.save(tmp_path / "table.npy", np.zeros(3, np.float32))
    (tmp_path / "lora").mkdir()
    config = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "prompt.safetensors").write_bytes(b"no")
    sources, notes = find_prompts(tmp_path)
    assert [one.name for one in sources] == ["bare.npy"]
    assert [note.split(" is left out: ")[0] for note in notes] == [
        str(tmp_path / name) for name in ("broken", "lora", "table.npy")
    ]


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere", "There is no folder .*nowhere"), ("", "There is no prompt below")],
)
def test_a_folder_without_prompts(tmp_path, place, message):
    with pytest.raises(FileNotFoundError, match=message):
        similar(tmp_path / place)


# --- all against all, and all against one


def test_models_stand_apart(folder):
    found = similar(folder)
    assert [group.model for group in found.groups] == ["a", "b"]
    first, second = found.groups
    assert set(first.names) == {"deep/er/mood", "longer", "third", "topic"}
    assert second.names == ("other",)
    named = dict(zip(first.names, first.similarity, strict=True))
    i = first.names.index("longer")
    expected = similarity(values(0), values(2, 7))
    assert named["topic"][i] == pytest.approx(expected)
    assert not found.given
    assert not found.ranking
    assert json.loads(json.dumps(found.to_json()))["groups"][0]["tasks"][i] == "topic"


def test_without_weights_a_model_is_known_by_its_name(tmp_path):
    for i, model in enumerate(("one", "other", "one", None)):
        save_prompt(tmp_path / f"{i}", values(i), base_model=model)
    found = similar(tmp_path)
    assert [sorted(group.names) for group in found.groups] == [["0", "2"], ["1"], ["3"]]
    assert [group.model for group in found.groups] == ["one", "other", None]
    assert [one.name for one in similar(tmp_path, prompt=tmp_path / "0").ranking] == ["2"]
    with pytest.raises(ValueError, match="names other, but not its weights"):
        similar(tmp_path, prompt=tmp_path / "1")


def test_near_prompts_stand_together(tmp_path):
    for i, seed in enumerate((0, 1, 2, 0, 1, 2)):
        noise = 0.05 * values(10 + i)
        save_prompt(tmp_path / f"{i}", values(seed) + noise, fingerprint="one")
    names = similar(tmp_path).groups[0].names
    assert {frozenset(map(int, names[i : i + 2])) for i in (0, 2, 4)} == {
        frozenset(pair) for pair in ((0, 3), (1, 4), (2, 5))
    }


def test_ranking_by_a_prompt(folder, tmp_path):
    found = similar(folder, prompt=folder / "topic" / "best", measure="tokens")
    assert found.given == ("topic",)
    by_hand = {
        "deep/er/mood": similarity(values(0), values(1), "tokens"),
        "longer": similarity(values(0), values(2, 7), "tokens"),
        "third": similarity(values(0), values(4), "tokens"),
    }
    assert {one.name: one.similarity for one in found.ranking} == pytest.approx(by_hand)
    assert [one.similarity for one in found.ranking] == sorted(by_hand.values(), reverse=True)
    assert found.notes == ("1 prompts of other models are not compared.",)


def test_ranking_by_a_prompt_from_elsewhere(folder, tmp_path_factory):
    place = save(tmp_path_factory.mktemp("elsewhere") / "mine", 9)
    found = similar(folder, prompt=place)
    assert len(found.ranking) == 4
    assert found.ranking[0].similarity == max(
        similarity(values(9), values(seed, length))
        for seed, length in ((0, 3), (1, 3), (2, 7), (4, 3))
    )


def test_ranking_by_a_task_takes_the_mean_of_its_prompts(folder):
    found = similar(folder, task="topic")
    assert set(found.given) == {"longer", "topic"}
    third = next(one for one in found.ranking if one.name == "third")
    pair = (similarity(values(0), values(4)), similarity(values(2, 7), values(4)))
    assert third.similarity == pytest.approx(np.mean(pair))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "weather"}, "of 'weather'; tasks: deep/er/mood, topic"),
        ({"task": "topic", "prompt": "bundled_topic"}, "Give either --prompt or --task"),
        ({"prompt": "bundled_topic"}, "bundled_topic is of bundled, and the other prompts"),
        ({"prompt": "other"}, "other is of b, and the other prompts are of others"),
        (
            {"prompt": "bare.npy"},
            "does not say which model it is of, and the other",
        ),
    ],
)
def test_nothing_to_compare(folder, tmp_path_factory, options, message):
    if options.get("prompt") == "other":
        options = {"prompt": folder / "other"}
    if options.get("prompt") == "bare.npy":
        options = {"prompt": tmp_path_factory.mktemp("bare") / "bare.npy"}
        save_prompt(options["prompt"], values(30))
    with spelling("--{}".format), pytest.raises(ValueError, match=message):
        similar(folder, **options)


def test_the_prompts_that_come_with_the_package():
    """Seeds of one task are nearer to each other than to other tasks."""
    ranking = similar("bundled", task="bundled_sentiment").ranking
    assert ranking[0].name == "bundled_sentiment_shift"
    women = similar("bundled", prompt="bundled_woman_seed4").ranking[:4]
    assert {one.task for one in women} == {"bundled_woman"}


def test_one_prompt_alone_has_no_ranking(tmp_path):
    save(tmp_path / "only", 0)
    with pytest.raises(ValueError, match="only: there is nothing else to compare with"):
        similar(tmp_path, prompt=tmp_path / "only")
    assert similar(tmp_path).groups[0].similarity == pytest.approx(1)


# --- what is shown


def test_the_command_prints_a_table_and_draws_a_map(folder, tmp_path_factory, capsys):
    output = tmp_path_factory.mktemp("output")
    command.main([str(folder), "--output", str(output)])
    shown = capsys.readouterr().out
    assert f"{similarity(values(0), values(4)):.2f}" in shown
    assert "similarity.png" in shown
    assert (output / "similarity.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((output / "similarity.json").read_text())
    assert written == json.loads(json.dumps(similar(folder).to_json()))


def test_the_command_ranks(folder, capsys):
    command.main([str(folder), "--task", "topic"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    ranking = similar(folder, task="topic").ranking
    assert [line.split("│")[1].strip() for line in lines] == [one.name for one in ranking]


def test_many_prompts_each_show_their_nearest(tmp_path, capsys):
    for i in range(9):
        save_prompt(tmp_path / f"[{i}]", values(i % 5) * (1 + i), fingerprint="one")
    command.main([str(tmp_path)])
    rows = [line.split("│")[1:4] for line in capsys.readouterr().out.splitlines() if "│" in line]
    nearest = {name.strip(): other.strip() for name, other, _ in rows}
    assert nearest["[1]"] == "[6]"
    assert len(nearest) == 9


def test_prompts_are_not_changed(folder):
    prompt = TunedPrompt(values(0))
    before = prompt.values.copy()
    similarity(prompt.values, prompt.values, "tokens")
    np.testing.assert_array_equal(prompt.values, before)
