"""scikit-learn estimators: GoR, and the direct heads it is compared with, on the same encoder and trainer."""

from gor_head.decoding import DECODES
from gor_head.estimator.base import OrdinalRegressor
from gor_head.estimator.direct import DirectRegressor
from gor_head.estimator.gor import GoRRegressor

Decode = str
"""A name in [`DECODES`][gor_head.decoding.DECODES]."""

__all__ = ["DECODES", "Decode", "DirectRegressor", "GoRRegressor", "OrdinalRegressor"]
