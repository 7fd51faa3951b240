"""Texts of tables: the same from every format, votes, copies, and what is wrong with a table."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from rarl.datasets import TableSource, load_source, split_by_content, verify, with_shots, without_copies, without_shots
from rarl.task import OrdinalTask, get_task, register_task

TEXTS = ["Fine.", "Bad, <br> really.", 'He said "no".\nTwice.', "שלום עולם", "🎬 ok"]
VALUES = [7.5, 1.0, 3.25, 6.0, 5.0]
VOTES = [[8, 7], [1, 1, 1], [3, 3.5], [6], [0, 10, 5]]


def table(name: str, folder: Path, votes: bool = False) -> Any:
    """The texts in a format, with values or votes."""
    column = {"votes": VOTES} if votes else {"value": VALUES}
    frame = pd.DataFrame({"id": range(5), "text": TEXTS, **column})
    path = folder / f"table.{name}"
    if name == "csv":
        if votes:
            frame["votes"] = [json.dumps(each) for each in VOTES]
        frame.to_csv(path, index=False)
    elif name == "jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif name == "parquet":
        frame.to_parquet(path)
    else:
        found = Dataset.from_pandas(frame)
        if name == "dataset":
            return found
        found.save_to_disk(folder / "saved")
        return str(folder / "saved")
    return path


FORMATS = ["csv", "jsonl", "parquet", "dataset", "folder"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_texts_and_values(name: str, tmp_path: Path) -> None:
    source = load_source("table", table=table(name, tmp_path))
    verify(source)
    assert source.kind == "text" and source.task.name == "sentiment"
    assert [source.load(i) for i in range(len(source))] == TEXTS
    assert source.values.tolist() == VALUES
    voted = TableSource(table(name, tmp_path, votes=True), votes_column="votes")
    assert voted.votes == VOTES
    assert voted.values.tolist() == [round(float(np.mean(each)), 2) for each in VOTES]


def test_labels_of_fewer_votes_are_means_of_some_of_them() -> None:
    votes = np.random.default_rng(0).integers(0, 11, size=(200, 9)).tolist()
    data = Dataset.from_dict({"text": [f"text {i}" for i in range(200)], "votes": votes})
    source = load_source("table", table=data, votes_column="votes", raters=1, seed=3)
    assert all(label in each for label, each in zip(source.labels, votes, strict=True))
    assert source.rated().values.tolist() == source.labels.tolist() != source.values.tolist()
    again = TableSource(data, votes_column="votes", raters=1, seed=3)
    other = TableSource(data, votes_column="votes", raters=1, seed=4)
    assert again.labels.tolist() == source.labels.tolist() != other.labels.tolist()
    whole = TableSource(data, votes_column="votes", raters=9)
    assert whole.labels.tolist() == whole.values.tolist()


def test_labels_are_drawn_with_the_deviation_of_votes() -> None:
    data = Dataset.from_dict({"text": [f"t{i}" for i in range(4000)], "value": [5.0] * 4000, "s": [1.0] * 4000})
    source = TableSource(data, std_column="s", raters=4)
    assert source.labels.mean() == pytest.approx(5, abs=0.05)
    assert source.labels.std() == pytest.approx(0.5, abs=0.03)


def test_texts_alike_are_copies_and_stand_in_one_split() -> None:
    texts = [f"Text number {i}" for i in range(300)] + ["TEXT  number 7", "Text\nnumber ７", "Text number 7!"]
    source = TableSource(Dataset.from_dict({"text": texts, "value": [1.0] * 303}))
    assert source.content_hash(7) == source.content_hash(300) == source.content_hash(301) != source.content_hash(302)
    splits = split_by_content(source)
    [home] = [name for name, indices in splits.items() if 7 in indices]
    assert {300, 301} <= set(splits[home].tolist())
    assert not {300, 301} & set(without_copies(source, splits[home]).tolist())


def test_solved_examples_are_spread_over_the_labels() -> None:
    values = np.linspace(0, 10, 100)
    source = TableSource(Dataset.from_dict({"text": [f"t{i}" for i in range(100)], "value": values.tolist()}))
    shown = with_shots(source, 5, seed=1)
    training = split_by_content(source, seed=1)["train"]
    parts = np.array_split(np.sort(source.values[training]), 5)
    drawn = sorted(value for _, value in shown.task.shots)
    assert all(part.min() <= value <= part.max() for value, part in zip(drawn, parts, strict=True))
    assert {int(text[1:]) for text, _ in shown.task.shots} <= set(training.tolist())
    assert all(source.values[int(text[1:])] == value for text, value in shown.task.shots)
    assert with_shots(source, 5, seed=1).task == shown.task
    assert with_shots(source, 0) is source
    for number, of, message in ((101, source, r"wanted 0 to \d\d, the number of texts"), (2, shown, "has 5 already")):
        with pytest.raises(ValueError, match=message):
            with_shots(of, number)
    with pytest.raises(ValueError, match="solved examples are texts, but source BuiltinSource holds images"):
        with_shots(load_source("builtin", size=4), 1)


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no column": ("text,rating\na,1\n", {}, r"bad\.csv: wanted the columns 'text', 'value', got 'text', 'rating'"),
    "case": ("Text,value\na,1\n", {}, "mind the case of 'Text'"),
    "semicolons": ("text;value\na;1\n", {}, "parted by ';'"),
    "empty": ("text,value\na,1\n,2\n", {}, r"bad\.csv line 3: text: wanted a text, got ''"),
    "blank": ('text,value\n" \t",2\n', {}, r"line 2: text: wanted a text, got ' \\t'"),
    "word": (
        "text,value\na,good\n",
        {},
        r"line 2: value 'good' is not a finite number; task 'sentiment' wants: number",
    ),
    "nan": ("text,value\na,nan\n", {}, "value 'nan' is not a finite number"),
    "outside": (
        "text,value\na,11\n",
        {},
        "line 2: value 11 is outside the range of task 'sentiment', which is 0 to 10",
    ),
    "no rows": ("text,value\n", {}, "holds no texts"),
    "votes": ("text,votes\na,3 4\n", {"votes_column": "votes"}, r"line 2: votes: wanted votes such as \[3, 4, 2\]"),
    "no votes": ("text,votes\na,[]\n", {"votes_column": "votes"}, "wanted a list of at least one vote"),
    "vote": ('text,votes\na,"[3, ""x""]"\n', {"votes_column": "votes"}, "votes, vote 2, 'x' is not a finite number"),
    "high vote": ('text,votes\na,"[3, 12]"\n', {"votes_column": "votes"}, "votes, vote 2: value 12"),
    "null vote": ('text,votes\na,"[3, null]"\n', {"votes_column": "votes"}, "vote 2, None is not"),
    "few votes": (
        'text,votes\na,"[3, 1]"\n',
        {"votes_column": "votes", "raters": 3},
        "line 2: raters: wanted at most 2",
    ),
    "deviation": ("text,value,std\na,3,-1\n", {"std_column": "std", "raters": 2}, "std '-1': wanted a standard dev"),
    "no draw": ("text,value\na,3\n", {"raters": 2}, "raters: wanted votes_column or std_column"),
    "unused std": ("text,value,std\na,3,1\n", {"std_column": "std"}, "std_column: only raters draws with it"),
    "both": ("text,value,votes\na,3,[3]\n", {"value_column": "value", "votes_column": "votes"}, "or votes_column, got"),
    "split": ("text,value\na,3\n", {"table_split": "train"}, "table_split: .* is a CSV, which has none"),
    "unseen": ("text,value\n\u200b\ufeff,3\n", {}, "line 2: text: wanted a text"),
    "text of votes": (
        'text,votes\na,"""345"""\n',
        {"votes_column": "votes"},
        "wanted a list of at least one vote, got '345'",
    ),
    "huge vote": (
        f"text,votes\na,[1{'0' * 400}]\n",
        {"votes_column": "votes"},
        "vote 1, 1000.* is not a finite number",
    ),
    "deep votes": (f"text,votes\na,{'[' * 100_000}\n", {"votes_column": "votes"}, r"wanted votes such as \[3, 4, 2\]"),
    "votes and std": (
        "text,votes,std\na,[3],1\n",
        {"votes_column": "votes", "std_column": "std", "raters": 1},
        "std_column: votes are drawn among 'votes'",
    ),
    "ragged": ("text,value\na,3,4\n", {}, "line 2: wanted 2 fields as in the header, got 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_table_is_said(name: str, tmp_path: Path) -> None:
    content, arguments, message = BAD[name]
    path = tmp_path / "bad.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_source("table", table=path, **arguments)


def test_what_is_wrong_with_a_data_set_is_said(tmp_path: Path) -> None:
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(FileNotFoundError, match=f"{name}: wanted a .* of texts"):
            TableSource(tmp_path / name)
    (tmp_path / "broken.parquet").write_bytes(b"PAR0")
    with pytest.raises(ValueError, match="broken.parquet: wanted a CSV, Parquet or JSONL file or a data set"):
        TableSource(tmp_path / "broken.parquet")
    rows = {"text": ["a", None], "value": [1.0, 2.0]}
    with pytest.raises(ValueError, match="the table row 2: text: wanted a text, got None"):
        TableSource(Dataset.from_dict(rows))
    with pytest.raises(ValueError, match="the table row 1: value True is not"):
        TableSource(Dataset.from_dict({"text": ["a"], "value": [True]}))
    DatasetDict({"one": Dataset.from_dict(rows), "two": Dataset.from_dict(rows)}).save_to_disk(tmp_path / "parts")
    for split, message in ((None, "parts has one, two; wanted one of them, got None"), ("two", "row 2: text")):
        with pytest.raises(ValueError, match=message):
            TableSource(str(tmp_path / "parts"), table_split=split)


def test_what_tables_may_also_be(tmp_path: Path) -> None:
    rows = {"text": ["a", "b" * 200_000], "value": [1.5, 2.0]}
    for name in ("x*", "a[1]", "x1"):
        Dataset.from_dict(rows if name != "x1" else {"text": ["q"], "value": [9.0]}).to_json(tmp_path / f"{name}.jsonl")
    for name in ("x*", "a[1]"):  # no patterns
        assert TableSource(tmp_path / f"{name}.jsonl").values.tolist() == [1.5, 2.0]
    Dataset.from_dict(rows).to_csv(tmp_path / "long.csv")
    assert len(TableSource(tmp_path / "long.csv").load(1)) == 200_000
    pd.DataFrame({"text": ["a"], "value": [Decimal("3.5")]}).to_parquet(tmp_path / "decimal.parquet")
    assert TableSource(tmp_path / "decimal.parquet").values.tolist() == [3.5]
    votes = Dataset.from_dict({"text": ["a", "b"], "votes": [[1, 2], [3, 4]]})
    for form in ("numpy", "torch", "pandas"):
        assert TableSource(votes.with_format(form), votes_column="votes").values.tolist() == [1.5, 3.5]
    votes.save_to_disk(tmp_path / "saved")
    for table in (votes, str(tmp_path / "saved")):
        with pytest.raises(ValueError, match="table_split: .*; wanted None, got 'dev'"):
            TableSource(table, votes_column="votes", table_split="dev")


def test_solved_examples_are_not_asked_about(caplog: pytest.LogCaptureFixture) -> None:
    source = TableSource(
        Dataset.from_dict({"text": [f"Text {i}" for i in range(9)], "value": [float(i) for i in range(9)]})
    )
    indices = np.arange(9)
    assert without_shots(source, indices) is indices
    task = replace(source.task, shots=(("TEXT  4", 1.0), ("another", 2.0)))
    assert without_shots(source.with_task(task), indices).tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert "1 of 9 texts are solved examples of the prompts" in caplog.text


def test_texts_and_images_are_not_taken_for_each_other(tmp_path: Path) -> None:
    path = table("csv", tmp_path)
    with pytest.raises(ValueError, match="TableSource holds texts, but task 'count' judges images"):
        load_source("table", "count", table=path)
    with pytest.raises(ValueError, match="BuiltinSource holds images, but task 'sentiment' judges texts"):
        load_source("builtin", "sentiment")
    with pytest.raises(ValueError, match="'table' does not use max_pixels"):
        load_source("table", table=path, max_pixels=100)
    with pytest.raises(ValueError, match="'builtin' does not use table"):
        load_source("builtin", table=path)
    with pytest.raises(ValueError, match="kind must be image or text, got 'sound'"):
        OrdinalTask("loud", "loudness", 0, 1, 0.1, kind="sound")  # type: ignore[arg-type]


def test_a_whole_number_is_wanted_where_a_task_has_them(tmp_path: Path) -> None:
    task = register_task(OrdinalTask("stars", "number of stars", 1, 5, tolerance=1, integer=True, kind="text"))
    data = Dataset.from_dict({"text": ["a", "b"], "votes": [[1, 2], [4, 5]]})
    assert TableSource(data, task, votes_column="votes").values.tolist() == [2.0, 5.0]  # half units upwards
    with pytest.raises(ValueError, match="the table row 1: value 1.5"):
        TableSource(Dataset.from_dict({"text": ["a"], "value": [1.5]}), get_task("stars"))
