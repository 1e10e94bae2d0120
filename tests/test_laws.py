"""Laws of layouts, packing, banks, templates, records and settings, over random cases."""

import csv
import dataclasses
import io
import json
import tempfile
from pathlib import Path

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.data.files import file_task
from prompt_tuning_jax.data.packing import arrange, pack, row_counts
from prompt_tuning_jax.data.records import RecordFile
from prompt_tuning_jax.data.templates import Template, label_text
from prompt_tuning_jax.layout import LAYOUTS, place_prompt, place_prompts
from prompt_tuning_jax.settings.gin_files import given_macros
from prompt_tuning_jax.settings.setting import check_type, macro_name, macros
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.tuned_prompt import TunedPrompt

# The same cases in every run, whatever the machine's speed.
law = settings(derandomize=True, deadline=None, database=None, max_examples=200)

EOS = 1
IDS = st.integers(EOS, 9)
LAYOUT = st.sampled_from(LAYOUTS)


@st.composite
def token_rows(draw, rows=None, length=None):
    """[B, T] ids, 0 after each row's last token; a row may be empty, and may not end in EOS."""
    B = draw(st.integers(1, 5)) if rows is None else rows
    T = draw(st.integers(1, 7)) if length is None else length
    tokens_BxT = np.zeros((B, T), np.int32)
    for row in tokens_BxT:
        ids = draw(st.lists(IDS, max_size=T))
        row[: len(ids)] = ids
    return tokens_BxT


# --- layouts


def tokens_before(row: np.ndarray, layout: str) -> int:
    """How many of a row's tokens stand before its prompt, in the words of `place_prompt`."""
    length = np.count_nonzero(row)
    ends_with_eos = length > 0 and row[length - 1] == EOS
    return {
        "prefix": 0,
        "after_bos": min(length, 1),
        "suffix": length,
        "suffix_before_eos": length - ends_with_eos,
    }[layout]


@law
@given(token_rows(), st.integers(0, 4), LAYOUT)
def test_a_layout_keeps_the_tokens_and_gives_every_position_once(tokens_BxT, P, layout):
    joined_BxS, positions_BxS = place_prompt(tokens_BxT, P, layout, EOS)
    assert joined_BxS.shape == positions_BxS.shape == (len(tokens_BxT), tokens_BxT.shape[1] + P)
    for tokens, joined, positions in zip(tokens_BxT, joined_BxS, positions_BxS, strict=True):
        start = tokens_before(tokens, layout)
        assert positions.tolist() == [
            *[-1] * start,
            *range(P),
            *[-1] * (len(tokens) - start),
        ]
        # In their order, the padding at the end; a prompt's own positions hold no token.
        np.testing.assert_array_equal(joined[positions < 0], tokens)
        assert not joined[positions >= 0].any()


@law
@given(st.data(), token_rows(), st.integers(0, 3))
def test_rows_of_different_prompts_are_each_laid_out_as_alone(data, tokens_BxT, spare):
    B, T = tokens_BxT.shape
    lengths_B = np.array(data.draw(st.lists(st.integers(0, 4), min_size=B, max_size=B)), np.int32)
    layouts_B = data.draw(st.lists(LAYOUT, min_size=B, max_size=B))
    room = int(lengths_B.max()) + spare
    joined_BxS, positions_BxS = place_prompts(tokens_BxT, lengths_B, layouts_B, room, EOS, pad_id=0)
    assert joined_BxS.shape == positions_BxS.shape == (B, T + room)
    for b, (P, layout) in enumerate(zip(lengths_B.tolist(), layouts_B, strict=True)):
        joined_1xS, positions_1xS = place_prompt(tokens_BxT[b : b + 1], P, layout, EOS)
        np.testing.assert_array_equal(joined_BxS[b, : T + P], joined_1xS[0])
        np.testing.assert_array_equal(positions_BxS[b, : T + P], positions_1xS[0])
        assert not joined_BxS[b, T + P :].any()
        assert (positions_BxS[b, T + P :] == -1).all()


@law
@given(token_rows(), st.integers(0, 4), LAYOUT)
def test_one_layout_for_all_rows_is_the_same_as_one_for_each(tokens_BxT, P, layout):
    B = len(tokens_BxT)
    one = place_prompt(tokens_BxT, P, layout, EOS)
    each = place_prompts(tokens_BxT, np.full(B, P, np.int32), [layout] * B, P, EOS, pad_id=0)
    np.testing.assert_array_equal(one, each)


PLACE = jax.jit(place_prompt, static_argnums=(1, 2, 3))


@law
@given(token_rows(rows=4, length=6), LAYOUT)
def test_jit_places_as_numpy_does(tokens_BxT, layout):
    compiled = PLACE(jnp.asarray(tokens_BxT), 3, layout, EOS)
    np.testing.assert_array_equal(compiled, place_prompt(tokens_BxT, 3, layout, EOS))


# --- packing


PAIRS = st.lists(
    st.tuples(st.lists(IDS, min_size=1, max_size=9), st.lists(IDS, min_size=1, max_size=6)),
    min_size=1,
    max_size=12,
)


@law
@given(PAIRS, st.integers(0, 4), LAYOUT, st.integers(0, 6), st.integers(1, 3))
def test_unpacking_gives_every_example_once_and_as_alone(pairs, P, layout, spare, multiple):
    sizes = [(len(inputs) + P, len(targets)) for inputs, targets in pairs]
    row_length = max(inputs for inputs, _ in sizes) + spare
    counts = row_counts(len(pairs), multiple)
    rows, shape = arrange(sizes, row_length, [8, 16], counts)
    assert sorted(i for members in rows for i in members) == list(range(len(pairs)))
    for members in rows:
        assert sum(sizes[i][0] for i in members) <= shape.inputs == row_length
        assert sum(sizes[i][1] for i in members) <= shape.targets
    assert len(rows) <= shape.rows
    assert shape.rows in counts

    batch = pack(pairs, rows, shape, P, layout, prompt_ids=range(len(pairs)))
    for row, members in enumerate(rows):
        for number, i in enumerate(members, 1):
            check_segment(batch, row, number, pairs[i], P, layout)
            own = batch["encoder_segment_ids"][row] == number
            assert set(batch["prompt_ids"][row, own]) == {i}
    in_all = [len(members) for members in rows] + [0] * (shape.rows - len(rows))
    assert batch["encoder_segment_ids"].max(axis=1).tolist() == in_all
    assert batch["decoder_segment_ids"].max(axis=1).tolist() == in_all
    check_padding(batch)


def check_segment(batch, row, number, pair, P, layout):
    """Segment `number` of a row is the example as in a row of its own."""
    inputs, targets = (np.array([ids], np.int32) for ids in pair)
    joined_1xS, positions_1xS = place_prompt(inputs, P, layout, EOS)
    own = batch["encoder_segment_ids"][row] == number
    np.testing.assert_array_equal(batch["encoder_input_tokens"][row, own], joined_1xS[0])
    np.testing.assert_array_equal(batch["prompt_positions"][row, own], positions_1xS[0])
    own = batch["decoder_segment_ids"][row] == number
    np.testing.assert_array_equal(batch["decoder_target_tokens"][row, own], targets[0])
    shifted = [0, *targets[0, :-1]]
    np.testing.assert_array_equal(batch["decoder_input_tokens"][row, own], shifted)


def check_padding(batch):
    """Nothing where there is no segment, and all of that at the end of its row."""
    padding = batch["encoder_segment_ids"] == 0
    assert not batch["encoder_input_tokens"][padding].any()
    assert (batch["prompt_positions"][padding] == -1).all()
    weights = batch["decoder_loss_weights"]
    np.testing.assert_array_equal(weights, batch["decoder_segment_ids"] > 0)
    for name in ("encoder_segment_ids", "decoder_segment_ids"):
        is_padding = batch[name] == 0
        np.testing.assert_array_equal(is_padding, np.sort(is_padding, axis=1))


# --- banks


@st.composite
def banks(draw):
    """1 to 5 prompts of any length and layout, no two rows alike."""
    D, rows = 2, iter(range(1, 1000))
    prompts = {}
    for number in range(draw(st.integers(1, 5))):
        P = draw(st.integers(1, 4))
        values = np.array([[next(rows)] * D for _ in range(P)], np.float32)
        prompts[f"p{number}"] = TunedPrompt(values, draw(LAYOUT))
    return TunedBank(prompts)


@law
@given(st.data(), banks(), token_rows())
def test_each_row_gets_its_own_prompt_and_none_of_the_filling(data, bank, tokens_BxT):
    B = len(tokens_BxT)
    names = data.draw(st.lists(st.sampled_from(bank.names), min_size=B, max_size=B))
    batch = bank.rows(names).place({"encoder_input_tokens": tokens_BxT}, EOS, pad_id=0)
    for b, name in enumerate(names):
        positions, which = batch["prompt_positions"][b], batch["prompt_ids"][b]
        prompt = bank.prompts[name]
        looked_up = bank.values[which, positions[positions >= 0]]
        np.testing.assert_array_equal(looked_up, prompt.values)
        tokens = batch["encoder_input_tokens"][b][positions < 0]
        np.testing.assert_array_equal(tokens[: tokens_BxT.shape[1]], tokens_BxT[b])
        assert tokens_before(tokens_BxT[b], prompt.layout) == np.argmax(positions == 0)


@law
@given(banks(), token_rows())
def test_an_ensemble_gives_every_input_to_every_member(bank, tokens_BxT):
    B = len(tokens_BxT)
    batch = bank.ensemble().place({"encoder_input_tokens": tokens_BxT}, EOS, pad_id=0)
    assert batch["prompt_ids"].tolist() == [*range(len(bank))] * B
    for row, positions in enumerate(batch["prompt_positions"]):
        values = bank.values[batch["prompt_ids"][row], positions[positions >= 0]]
        np.testing.assert_array_equal(values, bank.prompts[bank.names[row % len(bank)]].values)
        tokens = batch["encoder_input_tokens"][row][positions < 0][: tokens_BxT.shape[1]]
        np.testing.assert_array_equal(tokens, tokens_BxT[row // len(bank)])


# --- templates


# What UTF-8 can hold, the byte order mark too, which is one only at the start of a file.
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAME = st.from_regex(r"[a-z][a-z_0-9]{0,5}", fullmatch=True)
SCALAR = TEXT | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)


@law
@given(st.lists(st.tuples(TEXT, NAME), max_size=5), TEXT, st.data())
def test_a_template_keeps_what_is_around_the_fields(pieces, end, data):
    fields = list(dict.fromkeys(name for _, name in pieces))
    record = {name: data.draw(SCALAR) for name in fields}
    braces = str.maketrans({"{": "{{", "}": "}}"})
    text = "".join(f"{before.translate(braces)}{{{name}}}" for before, name in pieces)
    template = Template(text + end.translate(braces))
    assert template.fields == tuple(fields)
    expected = "".join(before + label_text(record[name]) for before, name in pieces) + end
    assert template.render(record) == expected


@law
@given(st.dictionaries(NAME, st.text("abc {}", max_size=8), min_size=1, max_size=4))
def test_rendered_fields_can_be_read_back(record):
    template = Template("|".join(f"{{{name}}}" for name in record))
    assert template.render(record).split("|") == list(record.values())


@law
@given(st.lists(NAME, min_size=1, max_size=4, unique=True), NAME)
def test_a_missing_field_is_named(present, missing):
    assume(missing not in present)
    with pytest.raises(ValueError, match=f"No field '{missing}'"):
        Template(f"{{{missing}}}").render(dict.fromkeys(present, "x"))


# --- records


@st.composite
def tables(draw, values):
    """Columns, and rows of a value for each; two columns or more, so that no row is empty."""
    columns = draw(st.lists(NAME, min_size=2, max_size=4, unique=True))
    row = st.lists(values, min_size=len(columns), max_size=len(columns))
    return columns, draw(st.lists(row, min_size=1, max_size=6))


LINE = TEXT.filter(lambda text: not set(text) & set("\t\r\n"))


def scanned(name: str, text: str):
    """What a file of this text holds: (line, record), and that each can be read alone."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, name)
        path.write_bytes(text.encode())
        records = RecordFile(path)
        found = list(records.scan())
        with path.open("rb") as file:
            assert [records.read(file, offset) for offset, _, _ in found] == [r for *_, r in found]
    return [(line, record) for _, line, record in found]


@law
@given(st.lists(st.tuples(st.integers(0, 2), st.dictionaries(TEXT, SCALAR, max_size=4))))
def test_every_json_line_is_read_with_its_number(records):
    text, line, expected = "", 1, []
    for empty_lines, record in records:
        text += "\n" * empty_lines + json.dumps(record) + "\n"
        expected.append((line + empty_lines, record))
        line += empty_lines + 1
    assert scanned("x.jsonl", text) == expected


@law
@given(tables(LINE))
def test_every_row_of_a_tsv_is_read_as_it_stands(table):
    columns, rows = table
    text = "".join("\t".join(row) + "\n" for row in [columns, *rows])
    expected = [dict(zip(columns, row, strict=True)) for row in rows]
    assert scanned("x.tsv", text) == list(enumerate(expected, 2))


@law
@given(tables(TEXT))
def test_every_row_of_a_csv_is_read_as_it_was_written(table):
    columns, rows = table
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([columns, *rows])
    found = scanned("x.csv", written.getvalue())
    assert [record for _, record in found] == [dict(zip(columns, r, strict=True)) for r in rows]
    lines = [2]
    for row in rows:
        lines.append(lines[-1] + 1 + sum(value.count("\n") for value in row))
    assert [line for line, _ in found] == lines[:-1]


BAD = {
    "x.jsonl": (
        '{"text": "a", "label": 0}',
        ['{"text"', "[1]", '{"text": "a"}', '{"text": "a", "label": 7}'],
    ),
    "x.tsv": ("a\t0", ["a", "a\t0\t1", "a\t7", "\t0"]),
    "x.csv": ("a,0", ["a", "a,0,1", '"a"b,0', "a,7", ",0"]),
}


@law
@given(st.sampled_from(sorted(BAD)), st.integers(0, 5), st.integers(0, 3), st.data())
def test_a_bad_record_is_named_by_its_line(name, before, after, data):
    good, bad = BAD[name]
    lines = [good] * before + [data.draw(st.sampled_from(bad))] + [good] * after
    header = {"x.jsonl": [], "x.tsv": ["text\tlabel"], "x.csv": ["text,label"]}[name]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, name)
        path.write_text("\n".join(header + lines) + "\n")
        task = file_task(
            train=path,
            input_template="{text}",
            target_template="{label}",
            verbalizers=["no", "yes"],
        )
        with pytest.raises(ValueError, match=rf"{name}, line {len(header) + before + 1}\b"):
            task.split("train")


# --- settings


FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}


def test_every_setting_has_a_macro_of_its_own():
    assert len(macros(TrainConfig)) == len(FIELDS)
    assert {macro: field.name for macro, field in macros(TrainConfig).items()} == {
        macro_name(name): name for name in FIELDS
    }


LITERAL = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab 'c")
LITERAL |= st.lists(LITERAL, max_size=3) | st.dictionaries(NAME, LITERAL, max_size=3)


@law
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), LITERAL, max_size=4))
def test_a_gin_file_gives_the_settings_it_holds(values):
    assume(not any("inf" in repr(value) for value in values.values()))  # not a literal of gin
    gin.clear_config()
    gin.parse_config([f"{macro_name(name)} = {value!r}" for name, value in values.items()])
    assert sorted(given_macros()) == sorted(macro_name(name) for name in values)
    for name, value in values.items():
        assert gin.query_parameter(f"{macro_name(name)}/macro.value") == value
    gin.clear_config()


KINDS = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None), "list": list}


@law
@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3, unique=True), LITERAL)
def test_a_value_is_refused_where_no_kind_of_its_setting_fits(kinds, value):
    annotation = KINDS[kinds[0]]
    for kind in kinds[1:]:
        annotation |= KINDS[kind]
    fits = isinstance(value, tuple(KINDS[kind] for kind in kinds))
    if isinstance(value, bool):  # which Python counts among the whole numbers
        fits = "bool" in kinds
    elif isinstance(value, int):
        fits = fits or "float" in kinds
    if fits:
        check_type("SEED", value, annotation)
    else:
        with pytest.raises(ValueError, match="SEED must be"):
            check_type("SEED", value, annotation)
