"""What Hydra 1.3 (OmegaConf 2.3) and Hydra 1.4 (OmegaConf 2.4) are told differently, in one place."""

import hydra
from omegaconf import OmegaConf

IS_1_3 = hydra.__version__.startswith("1.3.")

# Hydra 1.3 behaves as 1.1 did unless it is told otherwise; 1.4 warns of the argument.
COMPOSE: dict[str, str] = {"version_base": "1.3"} if IS_1_3 else {}

# Arguments of hydra.main. Hydra 1.4 builds those callbacks of its own (hydra.callbacks) that are named here.
MAIN: dict[str, str] = COMPOSE if IS_1_3 else {"execution_whitelist": "athanor.engine.app.directories.Directories"}

# In OmegaConf 2.3 the shorter name means an older kind of resolver; 2.4 warns of the longer name.
register_resolver = OmegaConf.register_new_resolver if IS_1_3 else OmegaConf.register_resolver
