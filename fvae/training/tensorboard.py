"""The figures of a run in TensorBoard, where that is installed (the extra ``tensorboard``)."""

from pathlib import Path

from fvae.training.trainer import Callback, Row, Trainer


class TensorBoard(Callback):
    """Writes each evaluation's figures into the folder ``tensorboard`` of a run."""

    def __init__(self, run: Path):
        self.run = run

    def on_start(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(self.run / "tensorboard", purge_step=trainer.step + 1)

    def on_evaluation(self, trainer: Trainer, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, trainer.step)

    def on_end(self, trainer: Trainer) -> None:
        self.writer.close()
