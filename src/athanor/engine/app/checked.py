"""Checks before a training: `python train.py check=true`."""

import logging
from pathlib import Path

import lightning.pytorch as L

from athanor.base.errors import UserError
from athanor.craft.checks import check
from athanor.data.module import ArrayData
from athanor.engine.app.ranks import is_main_process
from athanor.engine.config import assemble

log = logging.getLogger(__name__)


def check_before(config: dict, directory: Path, data: ArrayData, module: L.LightningModule) -> None:
    """Make all checks on one device, the fast ones first, with a picture in the run's directory. Nothing is changed.

    Raises UserError at the first check that says wrong.
    """
    if not is_main_process():
        return
    trainer = assemble.bare_trainer(config, str(directory), data, module)
    report = check(module, data, trainer=trainer, folder=directory / "figures", stop=True, tell=log.info)
    if report.is_wrong:
        raise UserError(
            f"check=true: {', '.join(report.names('wrong'))} is wrong, as said above, so nothing is trained\n"
            "  python scripts/check.py with the same words makes the other checks too; check=false trains without them"
        )
