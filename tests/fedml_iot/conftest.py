import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.brokers import Mosquitto
from tests.fedml_iot.federation import CONFIG, Federation
from tests.forked import Forked


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    (tmp_path / "broker").mkdir()
    with Mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients' data as `fedml export` writes it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "edge.yaml").write_text(yaml.safe_dump(CONFIG))
    with (folder / "log.txt").open("w") as log:
        assert Forked(["export", "edge.yaml", "data"], folder, log, log).wait() == 0
    return folder / "data"


@pytest.fixture
def federation(tmp_path: Path, broker: Mosquitto, exported: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path, broker)
    shutil.copytree(exported, tmp_path / "data")
    yield federation
    federation.stop()
