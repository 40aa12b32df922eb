"""The small tables that come with scikit-learn; no download."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch

from runner.data.base import Data


@lru_cache(maxsize=1)
def iris() -> Data:
    """Four measurements in centimetres of 150 flowers of 3 species (Anderson 1935, Fisher 1936)."""
    return _table("iris")


@lru_cache(maxsize=1)
def wine() -> Data:
    """Thirteen chemical measurements of 178 wines of 3 growers (Forina et al. 1988)."""
    return _table("wine")


@lru_cache(maxsize=1)
def breast_cancer() -> Data:
    """Thirty measurements of cell nuclei of 569 tumours, malignant (0) or benign (1) (Street et al. 1993)."""
    return _table("breast_cancer")


@lru_cache(maxsize=1)
def optdigits() -> Data:
    """Sixty-four counts of ink of 1,797 handwritten digits (Alpaydin and Kaynak 1998), as a table."""
    return replace(_table("digits"), name="optdigits")


@lru_cache(maxsize=1)
def diabetes() -> Data:
    """Ten measurements of 442 patients and, to predict, a measure of their disease a year later (Efron et al. 2004)."""
    from sklearn.datasets import load_diabetes  # slow to import: only when needed

    bunch = load_diabetes(scaled=False)
    x, y = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target).float()
    return Data("diabetes", "table", x, y, 1, None, task="regression")


def _table(name: str) -> Data:
    from sklearn import datasets  # slow to import: only when needed

    bunch = getattr(datasets, f"load_{name}")()
    x, y = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target).long()
    return Data(name, "table", x, y, len(bunch.target_names), None)
