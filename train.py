"""Train a model: python train.py model=cnn optim=adam"""

import hydra
from omegaconf import DictConfig

from athanor.engine.app import command_line, story
from athanor.engine.config import hydra_versions


@hydra.main(config_path="configs", config_name="train", **hydra_versions.MAIN)
def main(cfg: DictConfig) -> float:
    return story.train_job(cfg)


if __name__ == "__main__":
    command_line.start(main)
