"""A run is a directory: its config, checkpoints and results."""

import json
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from athanor.errors import UserError, explain
from athanor.logs import set_up_logging
from athanor.provenance import environment
from athanor.ranks import is_main_process
from athanor.summary import summary

if TYPE_CHECKING:
    import lightning.pytorch as L

    from athanor.classifier import Classifier
    from athanor.data.module import ImageData

log = logging.getLogger(__name__)

TIME = "%Y-%m-%d %H:%M:%S"
failed_jobs: list[Path] = []  # of this process, which in a multirun has many


class Run:
    """A run's directory. `Run(folder).classifier()` is the trained classifier, for notebooks."""

    def __init__(self, directory: str | Path) -> None:
        self.dir = Path(directory)

    @classmethod
    def at(cls, path: str | Path) -> "Run":
        """The run of a directory or of a checkpoint in it, checked to be one."""
        path = Path(path)
        directory = path.parent.parent if path.suffix == ".ckpt" else path
        if not (directory / "config.yaml").is_file():
            raise UserError(f"{path} is not a run: there is no {directory / 'config.yaml'}")
        return cls(directory)

    @classmethod
    def find_unfinished(cls, outputs: Path = Path("outputs")) -> "Run":
        runs = [cls(path.parent) for path in outputs.glob("**/config.yaml")]
        runs = [run for run in runs if run.results.get("status") != "finished"]
        if not runs:
            raise UserError(f"resume=last: no unfinished run under {outputs}/; name one with resume=<directory>")
        return max(runs, key=lambda run: (run.dir / "config.yaml").stat().st_mtime)

    @classmethod
    def of_this_job(cls) -> "Run":
        return cls(HydraConfig.get().runtime.output_dir)

    @property
    def results(self) -> dict[str, Any]:
        try:
            return json.loads((self.dir / "results.json").read_text())
        except FileNotFoundError:
            return {}

    @property
    def config(self) -> dict[str, Any]:
        return OmegaConf.to_container(OmegaConf.load(self.dir / "config.yaml"))

    @cached_property
    def checkpoint(self) -> Path:
        """The checkpoint that was chosen: the best on validation, or the last."""
        for name in ("best.ckpt", "last.ckpt"):
            if (self.dir / "checkpoints" / name).is_file():
                return self.dir / "checkpoints" / name
        raise UserError(f"{self.dir} has no checkpoint yet; go on with python train.py resume={self.dir}")

    def classifier(self) -> "Classifier":
        """The trained classifier, in eval mode, on the CPU: raw uint8 images [N, C, H, W] in, logits out."""
        return load_classifier(self.checkpoint)

    @property
    def started(self) -> bool:
        return (self.dir / "config.yaml").is_file()

    # what train.py does with the run of its job

    def save_config(self, cfg: DictConfig) -> dict[str, Any]:
        """Check the config, write config.yaml, and give the config in plain values."""
        from athanor import check_config

        config = check_config.plain(cfg)
        for notice in check_config.settle(config, overrides()):
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
        typed = list(dict.fromkeys([*self.results.get("overrides", []), *overrides()]))  # of a resumed run, both
        self.write(fresh=True, status="running", started=time.strftime(TIME), overrides=typed)
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.write(status="interrupted")
            log.info("interrupted; go on with python train.py resume=%s", shown(self.dir))
            raise
        except Exception as error:
            self.write(status="failed", error=f"{type(error).__name__}: {error}")
            with open(self.dir / "train.log", "a") as file:
                file.write(traceback.format_exc())
            failed_jobs.append(self.dir)
            if isinstance(error, UserError) and HydraConfig.get().mode == RunMode.RUN and not self.started:
                shutil.rmtree(self.dir)  # a mistyped override is no run
            if is_main_process() or not isinstance(error, ValueError):  # a person's mistake is found by each process
                print(explain(error, shown(self.dir / "train.log")), file=sys.stderr)
        finally:
            if "wandb" in sys.modules:
                sys.modules["wandb"].finish()  # or the next job of a multirun would log into this one's run

    def write(self, fresh: bool = False, **values: object) -> None:
        if is_main_process():
            replace(
                self.dir / "results.json", json.dumps(values if fresh else {**self.results, **values}, indent=2) + "\n"
            )

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
        started = time.mktime(time.strptime(self.results["started"], TIME))
        self.write(
            status="finished",
            **{stage: values for stage, values in stages.items() if values},
            checkpoint=self.chosen["file"] and f"checkpoints/{self.chosen['file']}",
            checkpoint_epoch=self.chosen["file"] and self.chosen["epoch"] + 1,
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            seconds=round(time.time() - started, 1),
            fit_seconds=round(watch.fit_seconds, 3),
            images_per_second=watch.images_per_second and round(watch.images_per_second, 1),
            parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
            seed=classifier.seed,
            data=describe(data),
            device=str(trainer.strategy.root_device),
            devices=trainer.world_size,
            **environment(),
        )
        log.info(summary(self.results, self.config, shown(self.dir)))


def checkpoint_of(path: str | Path) -> Path:
    """A checkpoint file as it is, or the chosen one of a run's directory."""
    return Path(path) if Path(path).suffix == ".ckpt" else Run.at(path).checkpoint


def load_classifier(checkpoint: Path) -> "Classifier":
    from athanor import assemble

    contents = read_checkpoint(checkpoint)
    classifier = assemble.from_record(contents["athanor"])
    classifier.load_state_dict(contents["state_dict"])
    return classifier.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's contents: tensors and plain data. Nothing in the file can run code."""
    import torch

    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except Exception as error:
        raise UserError(f"{path} is not a checkpoint, or torn: {str(error).splitlines()[0]}") from error
    if "athanor" not in contents:
        raise UserError(f"{path} is a checkpoint, but not one of Athanor's")
    return contents


def load_weights(classifier: "Classifier", source: str) -> None:
    """Start from the network of a run or a checkpoint; a head of other classes stays fresh, with a notice."""
    path = checkpoint_of(source)
    state = read_checkpoint(path)["state_dict"]
    own = classifier.network.state_dict()
    found = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    strange = sorted(own.keys() ^ found.keys())
    head = [name for name in own if name in found and own[name].shape != found[name].shape]
    if strange or not set(head) <= set(list(own)[-2:]):  # the last weight and bias
        wrong = (strange or head)[0]
        raise UserError(
            f"weights={source} are of another network ({wrong} differs); use the model settings of that run"
        )
    classifier.network.load_state_dict({**found, **{name: own[name] for name in head}})
    replaced = f"; the head ({', '.join(head)}) is new, as the classes differ" if head else ""
    log.info("starting from the weights of %s%s", path, replaced)


def metrics(trainer: "L.Trainer") -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def grouped(found: dict[str, float], stage: str) -> dict[str, float]:
    skipped = {f"{stage}/loss_step"}
    return {k.removeprefix(f"{stage}/"): v for k, v in found.items() if k.startswith(f"{stage}/") and k not in skipped}


def describe(data: "ImageData") -> dict[str, Any]:
    sizes = {"train": len(data.train_index), "val": len(data.val_index), "test": len(data.test_index)}
    return {"origin": data.source.origin, **sizes, "split_hash": data.split_hash}


def overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task)


def replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text)
    os.replace(beside, path)


def shown(path: Path) -> Path:
    """Relative where that is shorter to type."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
