import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gor_head.tables import column_names, read_features, read_labels, read_table

CUSTOMERS = """id,city,orders,member,spent
007,Oslo,3,True,10.50
008,"Bergen, old",0,False,0.1
009,NA,1,True,1e3
010,,2,False,0
"""


@pytest.fixture
def customers(tmp_path: Path) -> Path:
    path = tmp_path / "customers.csv"
    path.write_text(CUSTOMERS)
    return path


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "data.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_table(customers: Path) -> None:
    table = read_table(customers, "spent", drop=["id"])
    assert table.name == "customers" and table.target == "spent"
    assert table.labels.tolist() == [10.5, 0.1, 1000.0, 0.0]
    assert table.kinds == {"city": "category", "orders": "number", "member": "number"}
    assert table.features["city"].tolist() == ["Oslo", "Bergen, old", "NA", ""]
    assert table.features["city"].cat.categories.tolist() == ["", "Bergen, old", "NA", "Oslo"]
    assert table.features["orders"].tolist() == [3, 0, 1, 2]
    assert table.features["member"].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_another_file_is_read_alike(customers: Path, tmp_path: Path) -> None:
    """Columns in another order, numbers where categories are due, no label, one column too many."""
    kinds = read_table(customers, "spent", drop=["id"]).kinds
    other = write(tmp_path, "orders,extra,member,city\n2,x,False,0150\n3,x,True,None\n")
    features = read_features(other, kinds=kinds)
    assert list(features) == ["city", "orders", "member"]
    assert features["city"].tolist() == ["0150", "None"] and isinstance(features["city"].dtype, pd.CategoricalDtype)
    assert features["member"].tolist() == [0.0, 1.0]


def test_label_by_one_of_several_names(customers: Path) -> None:
    assert read_table(customers, ["response", "orders_next", "spent"]).target == "spent"
    with pytest.raises(ValueError, match="one of the columns 'response', 'price' as label, got 'id', 'city'"):
        read_table(customers, ["response", "price"])
    with pytest.raises(ValueError, match="one of the columns 'spent', 'id' as label, got 'spent', 'id'"):
        read_table(customers, ["spent", "id"])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_labels_are_read_to_the_last_digit(tmp_path_factory: pytest.TempPathFactory, labels: list[float]) -> None:
    path = write(tmp_path_factory.mktemp("labels"), "y\n" + "\n".join(map(repr, labels)) + "\n")
    assert read_labels(path).tolist() == labels


def test_byte_order_mark_blank_lines_and_quoted_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf"y","x"\r\n\r\n"1.5","2"\r\n3,4\r\n\r\n')
    assert read_table(path, "y").labels.tolist() == [1.5, 3.0]
    assert column_names(path) == ["y", "x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "data.csv: the file is empty"),
        ("\n\n", "data.csv: the file is empty"),
        ("x,y\n", "data.csv: wanted rows below the header, got none"),
        ("x,z\n1,2\n", "data.csv: wanted the column 'y' as label, got 'x', 'z'"),
        ("x;y\n1;2\n", r"wanted the column 'y' as label, got 'x;y'; are its fields parted by ';'\?"),
        ("x;y\n1,5;2\n", r"line 2: wanted 1 fields as in the header, got 2; are its fields parted by ';'\?"),
        ("x, y\n1,2\n", "wanted the column 'y' as label, got 'x', ' y'; mind the blank in ' y'"),
        (",x,y\n0,1,2\n", "a name for every column, got none for column 1 of 3; .*index=False"),
        ("x,y, \n1,2,\n", "a name for every column, got none for column 3 of 3"),
        ("y\n1\n", "data.csv: no column of features is left"),
        ("1,2\n3,4\n", "wanted a header of column names in line 1, got the numbers '1', '2'"),
        ("x,y,x\n3,4,5\n", "the column 'x' is there more than once"),
        ("x,y,x \n3,4,5\n", "the column 'x' is there more than once"),
        ("x,y\n1,2\n3,nan\n", "data.csv, line 3: wanted a finite number in column 'y', got 'nan'"),
        ("x,y\n1,2\n3,\n", "line 3: wanted a finite number in column 'y', got ''"),
        ("x,y\n1,2\n\n3,inf\n", r"line 4: wanted a finite number in column 'y', got 'inf' \(1 of 2 rows\)"),
        ('x,y\n"two\nlines",2\n3,many\n4,few\n', r"line 4: .* column 'y', got 'many' \(2 of 3 rows\)"),
        ("x,y\n1,2\n,3\n", "line 3: wanted a finite number in column 'x', got ''"),
        ("x,y\n1,2\nNA,3\n", "line 3: wanted a finite number in column 'x', got 'NA'"),
        ("x,y\n1,2\n3\n4,5\n", "data.csv, line 3: wanted 2 fields as in the header, got 1"),
        ("x,y\n1,2\n3,4,5\n", "data.csv, line 3: wanted 2 fields as in the header, got 3"),
        ("x,y\n1,2,3\n4,5,6\n", "data.csv, line 2: wanted 2 fields as in the header, got 3"),
        ('x,y\n"1,2\n', r"data.csv, line 2: not a CSV \(unexpected end of data\)"),
        ("X,Y\n1,2\n", "wanted the column 'y' as label, got 'X', 'Y'; mind the case of 'Y'"),
        ("x,y\n1,2_5\n", "line 2: wanted a finite number in column 'y', got '2_5'"),
        ("x,y\n1,１２\n", "line 2: wanted a finite number in column 'y', got '１２'"),
        ("x,y\n1,٣\n", "line 2: wanted a finite number in column 'y', got '٣'"),
        ("x,y\n1,True\n", "line 2: wanted a finite number in column 'y', got 'True'"),
        ("x,y\n1,2\n,3\n", "line 3: .* got ''.*; mend the file, drop the column, or name it as one of categories"),
        ("x,y\n1_0,2\n", "line 2: wanted a finite number in column 'x', got '1_0'"),
        ("x,y\ninf,2\n", "line 2: wanted a finite number in column 'x', got 'inf'"),
        ("x,y\n1e999,2\n2,2\n", "line 2: wanted a finite number in column 'x', got '1e999'"),
        ("x,y\n,2\n ,2\n", r"line 2: wanted a finite number in column 'x', got '' \(2 of 2 rows\)"),
        ("x,y\nNA,2\nnull,2\n", r"line 2: wanted a finite number in column 'x', got 'NA' \(2 of 2 rows\)"),
        ('x,y\n"1,234",2\n"5,678",2\n', r"line 2: wanted a finite number in column 'x', got '1,234' \(2 of 2"),
        ('x,y\n"1,5",2\n', "line 2: wanted a finite number in column 'x', got '1,5'"),
        ("x,y\n$5,2\n", r"line 2: wanted a finite number in column 'x', got '\$5'"),
        ("x,y\nTrue,2\n1,2\n", "line 2: wanted a finite number in column 'x', got 'True'"),
        (b"x,y\n\xff\xfe,1\n", "data.csv: not text in UTF-8"),
        (b"\xff\xfex\x00,\x00y\x00", "data.csv: not text in UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path, content), "y")


def test_text_where_a_number_is_due(customers: Path, tmp_path: Path) -> None:
    kinds = read_table(customers, "spent").kinds
    path = write(tmp_path, CUSTOMERS.replace("Oslo,3", "Oslo,three"))
    with pytest.raises(ValueError, match="line 2: wanted a finite number in column 'orders', got 'three'"):
        read_features(path, kinds=kinds)
    with pytest.raises(ValueError, match="wanted the columns 'city', 'orders', 'member', got 'id', 'spent'"):
        read_features(write(tmp_path, "id,spent\n1,2\n"), kinds=kinds)


def test_column_of_labels(customers: Path) -> None:
    assert read_labels(customers, "spent").tolist() == [10.5, 0.1, 1000.0, 0.0]
    with pytest.raises(ValueError, match="name the column of the labels, it has 'id', 'city'"):
        read_labels(customers)
    with pytest.raises(ValueError, match="wanted the column 'age', got 'id'"):
        read_labels(customers, "age")
    with pytest.raises(FileNotFoundError):
        read_labels(customers.with_name("none.csv"))


def test_a_missing_number_in_the_only_column(tmp_path: Path) -> None:
    """`""` is a row, a line of spaces is none."""
    with pytest.raises(ValueError, match=r"line 4: wanted a finite number in column 'y', got '' \(1 of 3 rows\)"):
        read_labels(write(tmp_path, 'y\n1\n  \n""\n3\n'))
    assert read_labels(write(tmp_path, "y\n1\n  \n\n3\n")).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("odd", ["?", "-", ".", "", "NA", "null", "abc", "1,234", "12kg", "2_5", "１２", "nan", "-inf"])
def test_one_odd_field_makes_no_categories_of_numbers(tmp_path: Path, odd: str) -> None:
    """As in UCI's Auto MPG: the numbers would become 93 unordered words, and nobody would be told."""
    path = write(tmp_path, f'horsepower,mpg\n130,18\n"{odd}",25\n165,15\n')
    said = f"line 3: wanted a finite number in column 'horsepower', got '{odd}' (1 of 3 rows); mend the file"
    with pytest.raises(ValueError, match=re.escape(said)):
        read_table(path, "mpg")
    chosen = read_table(path, "mpg", categories=["horsepower", "elsewhere"])
    assert chosen.kinds == {"horsepower": "category"} and chosen.features["horsepower"].tolist() == ["130", odd, "165"]


def test_numbers_that_are_categories(tmp_path: Path) -> None:
    features = read_features(write(tmp_path, "zip,x\n0150,1\n0151,2\n"), categories=["zip"])
    assert features["zip"].tolist() == ["0150", "0151"] and features["x"].tolist() == [1, 2]


def test_numbers_with_blanks_around_are_numbers(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "x,y\n 1 ,2 \n3\t,4\u00a0\n"), "y")
    assert table.features["x"].tolist() == [1, 3] and table.labels.tolist() == [2, 4]


def test_words_with_empty_fields_are_categories(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "x,y\nred,1\n?,2\n,3\n2020-01-31,4\n<5,5\n"), "y")
    assert table.features["x"].tolist() == ["red", "?", "", "2020-01-31", "<5"]
