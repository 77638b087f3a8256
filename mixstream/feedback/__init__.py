"""From the losses that a trainer reports to the weights of later steps.

    session      what one loader has running: collector, consensus, channel
    collector    reports of the trainer, by row and micro-batch, become complete steps      numbers, losses
    losses       sums by domain, as a trainer computes them                                 cross_entropy, output_losses
    loss_window  sums by domain for a trainer's own log
    consensus    all ranks conclude the same from a step, and log it                        background
    loop         the states of a step, and the mixer at work
    logged_plan  what a log says of the plan besides weights
    log          the mixing log on disk                                                     replay, tensorboard
    evaluate     a model's losses on a validation set
    json_arrays  a mixer's state as JSON

Importing the package imports none of its modules, so that reading a log does not import torch.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.feedback.json_arrays import from_json, to_json
    from mixstream.feedback.log import FILE
    from mixstream.feedback.loop import FeedbackLoop
    from mixstream.feedback.replay import LoggedRun, read_log

__getattr__, __dir__ = lazily(
    __name__,
    {
        "json_arrays": ["from_json", "to_json"],
        "log": ["FILE"],
        "loop": ["FeedbackLoop"],
        "replay": ["LoggedRun", "read_log"],
    },
)

__all__ = ["FILE", "FeedbackLoop", "LoggedRun", "from_json", "read_log", "to_json"]
