"""Train a model: python train.py model=cnn optim=adam"""

import hydra
from omegaconf import DictConfig

from athanor.engine.app import command_line
from athanor.engine.config import hydra_versions


@hydra.main(config_path="configs", config_name="train", **hydra_versions.MAIN)
def main(cfg: DictConfig) -> None:
    # imported here, so that `--cfg job`, `--help` and tab completion need not load torch
    import lightning.pytorch as L

    from athanor.engine.app.job import Job
    from athanor.engine.app.ranks import spread
    from athanor.engine.config import assemble
    from athanor.engine.runs.lineage import load_weights

    job = Job()
    if job.is_done(cfg):
        return
    with job.recorded():
        config = job.save_config(cfg)
        if spread(config, job.dir):  # over several devices: the rest is done by a process for each
            return
        L.seed_everything(config["seed"], verbose=False)
        data = assemble.data(config)
        task = assemble.task(config, data)
        checkpoint, step = job.resume_point
        if config["weights"] and not checkpoint:
            load_weights(task, config["weights"])
        trainer = assemble.trainer(config, str(job.dir), data, task.network, step)
        job.record_origin(config, data, task, checkpoint)
        job.extend(trainer)
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        job.load_chosen(task, trainer)
        if config["eval"]["test"]:
            trainer.test(task, data, verbose=False)
        job.finish(trainer, task)


if __name__ == "__main__":
    command_line.start(main)
