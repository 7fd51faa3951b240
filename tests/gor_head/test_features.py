"""Tables as the encoder takes them."""

import json
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from gor_head.features import FARTHEST, TableFeatures, is_number

MIXED = pd.DataFrame(
    {
        "age": [20, 40, 60],
        "town": ["b", "a", "b"],
        "member": [True, False, True],
        "size": pd.Categorical([3, 1, 3], categories=[1, 2, 3]),
        "price": [1.0, 1.0, 1.0],
    }
)


def test_a_mixed_table_by_hand() -> None:
    features = TableFeatures.fit(MIXED)
    table = features.transform(MIXED)
    deviation = np.sqrt(800 / 3)
    np.testing.assert_allclose(table["numeric"], [[-20 / deviation, 0], [0, 0], [20 / deviation, 0]], rtol=1e-6)
    # town: a 1, b 2; member: False 1, True 2; size: 1 is 1, 3 is 2, and 2 occurs in no row.
    assert table["categorical"].tolist() == [[2, 2, 2], [1, 1, 1], [2, 2, 2]]
    assert features.encoder_sizes() == {"numeric": 2, "categories": [3, 3, 3]}
    assert (str(table["numeric"].dtype), str(table["categorical"].dtype)) == ("torch.float32", "torch.int64")


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(-1e3, 1e3)))
def test_numbers_are_standardised_as_scikit_learn_does(X: np.ndarray) -> None:
    # Spreads near rounding are cut off at another place there.
    X = X.round(3)
    np.testing.assert_allclose(
        TableFeatures.fit(X).transform(X)["numeric"], StandardScaler().fit_transform(X), atol=1e-4
    )


def test_numbers_of_tiny_units_count_and_rounding_does_not() -> None:
    column = np.array([1.0, 2.0, 3.0])
    small, large = (TableFeatures.fit(scale * column[:, None]) for scale in (1e-15, 1e15))
    for scale, features in ((1e-15, small), (1e15, large)):
        found = features.transform(scale * column[:, None])["numeric"][:, 0].numpy()
        np.testing.assert_allclose(found, (column - 2) / column.std(), rtol=1e-6)
    assert TableFeatures.fit(np.full((30, 1), 1e-15 / 3)).scale == [1.0]


@given(st.lists(st.sampled_from("abcde"), min_size=1), st.lists(st.sampled_from("abcdefgh"), min_size=1))
@pytest.mark.filterwarnings("ignore:X. column 'letter'. no row has a category")
def test_categories_are_numbered_as_scikit_learn_does_and_strangers_are_0(seen: list[str], later: list[str]) -> None:
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(np.array(seen)[:, None])
    ids = TableFeatures.fit(pd.DataFrame({"letter": seen})).transform(pd.DataFrame({"letter": later}))["categorical"]
    np.testing.assert_array_equal(ids, encoder.transform(np.array(later)[:, None]) + 1)


def test_what_was_learned_is_plain_json() -> None:
    features = TableFeatures.fit(MIXED)
    again = TableFeatures(**json.loads(json.dumps(asdict(features), allow_nan=False)))
    assert again == features


def test_arrays_and_frames_of_numbers_give_the_same() -> None:
    X = np.random.default_rng(0).normal(size=(5, 3))
    frame = pd.DataFrame(X, columns=["a", "a", "b"])
    one, other = TableFeatures.fit(X), TableFeatures.fit(frame)
    assert (one.mean, one.scale) == (other.mean, other.scale)
    assert (one.names, other.names) == (["0", "1", "2"], ["a", "a", "b"])


def test_numbers_among_objects_are_numbers_and_nullable_types_are_read() -> None:
    frame = pd.DataFrame(
        {
            "object": pd.Series([1, 2.5], dtype=object),
            "Int64": pd.array([1, 2], dtype="Int64"),
            "boolean": pd.array([True, False], dtype="boolean"),
            "string": pd.array(["x", "y"], dtype="string"),
        }
    )
    assert TableFeatures.fit(frame).encoder_sizes() == {"numeric": 2, "categories": [3, 3]}
    assert [is_number(dtype) for dtype in frame.dtypes] == [False, True, False, False]


def test_a_number_far_from_all_of_training_is_cut() -> None:
    features = TableFeatures.fit(np.array([[0.0], [2.0]]))
    table = features.transform(np.array([[1e300], [-1e300], [3.0]]))
    assert table["numeric"].tolist() == [[FARTHEST], [-FARTHEST], [2.0]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (MIXED.assign(town=["b", None, "b"]), "column 'town' has 1 missing values (NaN), the first in row 1"),
        (
            MIXED.assign(size=pd.Categorical([None, 1, None])),
            "column 'size' has 2 missing values (NaN), the first in r",
        ),
        (MIXED.assign(age=[1.0, 2.0, np.nan]), "column 'age' has 1 missing values (NaN), the first in row 2"),
        (MIXED.assign(age=[1.0, np.inf, 2.0]), "column 'age' holds infinity in row 1"),
        (
            MIXED.assign(day=pd.Timestamp("2020-01-01")),
            "column 'day': wanted numbers, text, bool or categories, got da",
        ),
        (MIXED.assign(wave=1j), "column 'wave': wanted numbers, text, bool or categories, got complex128"),
        (MIXED.assign(age=[1e200, 0, 0]), "column 'age': wanted numbers whose squares can be added, got 1e+200"),
        (MIXED.iloc[:0], "X: wanted one or more rows, got none"),
    ],
)
def test_what_cannot_be_read_is_named(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError) as error:
        TableFeatures.fit(table)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (MIXED.assign(age=["x", "y", "z"]), "column 'age': wanted numbers, as in training, got 'x'"),
        (MIXED.assign(town=[1, 2, 3]), "column 'town': wanted categories, as in training, got 1"),
        (np.zeros((2, 5)), "column 'town': wanted categories, as in training, got"),
        (MIXED.drop(columns="age"), "X: wanted 5 columns, got 4"),
        (MIXED.assign(town=["b", None, "b"]), "column 'town' has 1 missing values"),
    ],
)
def test_other_columns_than_those_of_training_are_refused(table: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        TableFeatures.fit(MIXED).transform(table)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", [object, str])
def test_numbers_as_text_with_an_odd_one_are_said(kind: type) -> None:
    """What pandas makes of a column of numbers with a `?` in it."""
    table = pd.DataFrame({"power": pd.Series(["130", "?", "165.5"], dtype=kind), "x": [1, 2, 3]})
    said = r"column 'power' is read as categories, but 2 of its 3 texts are numbers; the first other is '\?' in row 1"
    with pytest.warns(UserWarning, match=said):
        fitted = TableFeatures.fit(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.transform(table)
        TableFeatures.fit(table.astype({"power": "category"}))
        TableFeatures.fit(table.assign(power=["1", "2", "3"]))
        TableFeatures.fit(table.assign(power=["a", "b", "?"]))


def test_a_column_without_a_known_category_is_said() -> None:
    """Such as `a ` for `a`, or 1.0 for 1: each row would become the category that training does not know."""
    fitted = TableFeatures.fit(MIXED)
    with pytest.warns(UserWarning, match=r"column 'town': no row has a category of training \('a', 'b', …\), .* 'a '"):
        ids = fitted.transform(MIXED.assign(town=["a ", "b ", "b "]))["categorical"][:, 0]
    assert not ids.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.transform(MIXED.assign(town=["a", "c", "d"]))
