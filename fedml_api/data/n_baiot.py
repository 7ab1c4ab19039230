"""N-BaIoT in its official folders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.devices import DeviceSource, DeviceSplit
from fedml_api.data.numbers import read_numbers
from fedml_api.data.split import ClientSplit, Columns, file_digest
from fedml_core.errors import DataError
from fedml_core.settings import settings

DEVICES = (
    *("Danmini_Doorbell", "Ecobee_Thermostat", "Ennio_Doorbell", "Philips_B120N10_Baby_Monitor"),
    *("Provision_PT_737E_Security_Camera", "Provision_PT_838_Security_Camera", "Samsung_SNH_1011_N_Webcam"),
    *("SimpleHome_XCS7_1002_WHT_Security_Camera", "SimpleHome_XCS7_1003_WHT_Security_Camera"),
)
BOTNETS = ("gafgyt_attacks", "mirai_attacks")
FEATURES = 115


@data_sources.register("n_baiot")
@settings
class NBaIoT(DeviceSource):
    """N-BaIoT: the traffic of 9 devices, ordinary and while a botnet has them, the one for training; 115 features (UCI's files).

    In `data_folder/n_baiot/DEVICE/`: `benign_traffic.csv`, `gafgyt_attacks/*.csv` and, where the device was attacked by it,
    `mirai_attacks/*.csv`. A feature is a statistic of the packets up to an instant. The first two thirds of a device's ordinary
    traffic are for training (the paper has a third of all for each of training, choosing settings and testing).
    Meidan et al., IEEE Pervasive Computing 17 (3), 2018.

    Args:
        largest: rows of every file that are read at most, the first ones; all, if None.
    """

    train: Annotated[float, Meta(gt=0, lt=1)] = 2 / 3
    packed: bool = True
    largest: Annotated[int, Meta(ge=2)] | None = None
    how_to_get: ClassVar[str] = "unpack detection_of_IoT_botnet_attacks_N_BaIoT of archive.ics.uci.edu, and the archives in it"

    def files(self, root: Path) -> Sequence[Path]:
        """Ordinary traffic and attacks of every device; the folder of attacks, where there are none."""
        found = []
        for device in DEVICES:
            folder = self.folder(root) / device
            found.append(folder / "benign_traffic.csv")
            for botnet in BOTNETS:
                attacks = sorted((folder / botnet).glob("*.csv"))
                # Two of the devices were attacked by one botnet only. An archive that is still packed is a missing folder.
                needed = botnet == BOTNETS[0] or (folder / f"{botnet}.rar").exists()
                found += attacks or ([folder / botnet] if needed else [])
        return found

    def remedy(self, root: Path) -> str:
        return f"{self.how_to_get}, in {self.folder(root)}"

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        files = self.present(root)
        if empty := [path for path in files if path.is_dir()]:
            raise DataError(f"{empty[0]}: has no CSV files; {self.remedy(root)}")
        of = {device: [path for path in files if device in path.parts] for device in DEVICES}
        about = repr([self.train, self.largest, [file_digest(path, root) for path in files]])

        def read(device: str, half: int) -> Columns:
            benign, *attacks = (read_numbers(path, FEATURES, 1, self.largest, self.remedy(root)) for path in of[device])
            cut = round(self.train * len(benign))
            return self.halves(device, benign[:cut], benign[cut:], np.concatenate(attacks))[half]

        train, test = (
            DeviceSplit(
                DEVICES,
                lambda device, half=half: read(device, half),
                str(self.folder(root)),
                hashlib.sha256(f"{half} {about}".encode()).hexdigest(),
            )
            for half in range(2)
        )
        return train, test
