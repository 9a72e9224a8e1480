"""Train a model: python train.py model=cnn optim=adam"""

import hydra
from omegaconf import DictConfig

from athanor.engine.app import command_line
from athanor.engine.config import hydra_versions


@hydra.main(config_path="configs", config_name="train", **hydra_versions.MAIN)
def main(cfg: DictConfig) -> float:
    # imported here, so that `--cfg job`, `--help` and tab completion need not load torch
    import lightning.pytorch as L

    from athanor.engine.app.job import Job
    from athanor.engine.app.ranks import spread
    from athanor.engine.config import assemble
    from athanor.engine.runs.run import load_weights

    job = Job()
    if job.is_done:
        return job.monitored(cfg)
    with job.recorded():
        config = job.save_config(cfg)
        if spread(config, job.dir):  # over several devices: the rest is done by a process for each
            return job.monitored(cfg)
        L.seed_everything(config["seed"], verbose=False)
        data = assemble.data(config)
        task = assemble.task(config, data)
        if config["weights"]:
            load_weights(task, config["weights"])
        checkpoint, step = job.resume_point()
        trainer = assemble.trainer(config, str(job.dir), data, task.network, step)
        job.record_origin(config, data, task)
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        job.load_chosen(task, trainer)
        if config["eval"]["test"]:
            trainer.test(task, data, verbose=False)
        job.finish(trainer, task)
    return job.monitored(cfg)


if __name__ == "__main__":
    command_line.start(main)
