"""The run that this process makes: train.py's side of a run's directory."""

import json
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from athanor.errors import UserError, explain
from athanor.logs import set_up_logging
from athanor.provenance import environment
from athanor.ranks import is_main_process
from athanor.runs import Run, read_checkpoint, shown
from athanor.summary import summary

if TYPE_CHECKING:
    import lightning.pytorch as L

    from athanor.classifier import Classifier
    from athanor.data.module import ImageData

log = logging.getLogger(__name__)

failed_jobs: list[Path] = []  # of this process, which in a multirun has many


class Job(Run):
    """The run of Hydra's current job. In a multirun each job has its own, below the sweep's directory."""

    def __init__(self) -> None:
        super().__init__(HydraConfig.get().runtime.output_dir)
        self.overrides = list(HydraConfig.get().overrides.task)

    def save_config(self, cfg: DictConfig) -> dict[str, Any]:
        """Check the config, write config.yaml, and give the config in plain values."""
        from athanor import check_config

        config = check_config.plain(cfg)
        for notice in check_config.settle(config, self.overrides):
            log.info(notice)
        check_config.check(config)
        if is_main_process():
            (self.dir / "config.yaml").write_text(OmegaConf.to_yaml({**config, "resume": None}))
        return config

    def resume_from(self, config: dict) -> Path | None:
        last = self.dir / "checkpoints" / "last.ckpt"
        if not config["resume"] or not last.is_file():
            return None
        log.info("resuming from %s", shown(last))
        return last

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Whatever happens inside ends up in results.json and train.log; a failure does not stop a multirun."""
        set_up_logging()
        typed = list(dict.fromkeys([*self.results.get("overrides", []), *self.overrides]))  # of a resumed run, both
        self.begun = time.monotonic()
        self.write(fresh=True, status="running", started=time.strftime("%Y-%m-%d %H:%M:%S"), overrides=typed)
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.write(status="interrupted")
            log.info("interrupted; go on with python train.py resume=%s", shown(self.dir))
            raise
        except Exception as error:
            self.fail(error)
        finally:
            if "wandb" in sys.modules:
                sys.modules["wandb"].finish()  # or the next job of a multirun would log into this one's run

    def fail(self, error: Exception) -> None:
        self.write(status="failed", error=f"{type(error).__name__}: {error}")
        failed_jobs.append(self.dir)
        with open(self.dir / "train.log", "a") as file:
            file.write("".join(traceback.format_exception(error)))
        if is_main_process() or not isinstance(error, ValueError):  # a person's mistake is found by each process
            print(explain(error, shown(self.dir / "train.log")), file=sys.stderr)
        single, begun = HydraConfig.get().mode == RunMode.RUN, (self.dir / "config.yaml").exists()
        if isinstance(error, UserError) and single and not begun:
            shutil.rmtree(self.dir)  # a mistyped override is no run

    def write(self, fresh: bool = False, **values: object) -> None:
        if is_main_process():
            contents = values if fresh else {**self.results, **values}
            replace(self.dir / "results.json", json.dumps(contents, indent=2) + "\n")

    def load_chosen(self, classifier: "Classifier", trainer: "L.Trainer") -> None:
        """Give the classifier the weights that are to be tested."""
        from athanor.callbacks.checkpoints import Checkpoints

        trainer.strategy.barrier("checkpoints are written")
        chosen = next((c.chosen for c in trainer.callbacks if isinstance(c, Checkpoints)), None)
        if chosen is None or "epoch" not in chosen:  # nothing was saved
            self.chosen = {"file": None, "metrics": metrics(trainer)}
            return
        self.chosen = chosen
        state = read_checkpoint(self.dir / "checkpoints" / chosen["file"])["state_dict"]
        classifier.load_state_dict(state)

    def finish(self, trainer: "L.Trainer", classifier: "Classifier", data: "ImageData") -> None:
        """Write results.json and say what came out."""
        if not is_main_process():
            return
        from athanor.callbacks.stopwatch import Stopwatch

        watch = next(callback for callback in trainer.callbacks if isinstance(callback, Stopwatch))
        found = {**self.chosen["metrics"], **{k: v for k, v in metrics(trainer).items() if k.startswith("test/")}}
        stages = {stage: grouped(found, stage) for stage in ("train", "val", "test")}
        self.write(
            status="finished",
            **{stage: values for stage, values in stages.items() if values},
            checkpoint=self.chosen["file"] and f"checkpoints/{self.chosen['file']}",
            checkpoint_epoch=self.chosen["file"] and self.chosen["epoch"] + 1,
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            seconds=round(time.monotonic() - self.begun, 1),
            fit_seconds=round(watch.fit_seconds, 3),
            images_per_second=watch.images_per_second and round(watch.images_per_second, 1),
            parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
            seed=classifier.seed,
            data=describe(data),
            device=str(trainer.strategy.root_device),
            devices=trainer.world_size,
            precision=trainer.precision,
            **environment(),
        )
        log.info(summary(self.results, self.config, shown(self.dir)))


def metrics(trainer: "L.Trainer") -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def grouped(found: dict[str, float], stage: str) -> dict[str, float]:
    skipped = {f"{stage}/loss_step"}
    return {k.removeprefix(f"{stage}/"): v for k, v in found.items() if k.startswith(f"{stage}/") and k not in skipped}


def describe(data: "ImageData") -> dict[str, Any]:
    sizes = {"train": len(data.train_index), "val": len(data.val_index), "test": len(data.test_index)}
    return {"origin": data.source.origin, **sizes, "split_hash": data.split_hash}


def replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text)
    os.replace(beside, path)
