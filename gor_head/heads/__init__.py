"""Direct heads on an encoder's pooled features: the baselines beside generative ordinal regression, one a file."""

from gor_head.heads.base import Head
from gor_head.heads.corn import CORNHead
from gor_head.heads.cross_entropy import CrossEntropyMeanHead, CrossEntropyMedianHead
from gor_head.heads.dldl import DLDLHead
from gor_head.heads.l1 import L1Head
from gor_head.heads.mean_variance import MeanVarianceHead
from gor_head.heads.mse import MSEHead
from gor_head.heads.or_cnn import ORCNNHead
from gor_head.heads.quantile import QuantileHead
from gor_head.heads.sord import SORDHead
from gor_head.heads.ziln import ZILNHead

HEADS: dict[str, type[Head]] = {
    head.name: head
    for head in (
        MSEHead,
        L1Head,
        QuantileHead,
        CrossEntropyMeanHead,
        CrossEntropyMedianHead,
        ORCNNHead,
        CORNHead,
        SORDHead,
        DLDLHead,
        MeanVarianceHead,
        ZILNHead,
    )
}
"""All heads by name."""

__all__ = ["HEADS", "Head"]
