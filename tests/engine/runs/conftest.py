"""What tests of runs and sweeps share."""

from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig

from athanor.engine.config import hydra_versions

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def compose_sweep():
    """The config that Hydra hands to the callbacks of a multirun."""

    def compose_sweep(*words):
        with hydra.initialize_config_dir(str(REPO / "configs"), **hydra_versions.COMPOSE):
            config = hydra.compose("train", [*words], return_hydra_config=True)
        HydraConfig.instance().set_config(config)  # ${name} asks it what was chosen
        return config

    yield compose_sweep
    HydraConfig.instance().cfg = None
