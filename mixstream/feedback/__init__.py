"""From the losses that a trainer reports to the weights of later steps.

    session      what one loader has running: collector, consensus, channel
    collector    reports of the trainer, by row and micro-batch, become complete steps      losses, cross_entropy
    consensus    all ranks conclude the same from a step, and log it                        background
    loop         the states of a step, and the mixer at work
    log          the mixing log on disk                                                     replay, tensorboard
    evaluate     a model's losses on a validation set
    json_arrays  a mixer's state as JSON

Importing the package imports none of its modules, so that reading a log does not import torch.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.feedback.json_arrays import from_json, to_json
    from mixstream.feedback.log import FILE, MixingLog, log_file
    from mixstream.feedback.loop import FeedbackLoop
    from mixstream.feedback.replay import LoggedRun, Replay, read_log
    from mixstream.feedback.session import FeedbackSession

__getattr__, __dir__ = lazily(
    __name__,
    {
        "FILE": "log",
        "FeedbackLoop": "loop",
        "FeedbackSession": "session",
        "LoggedRun": "replay",
        "MixingLog": "log",
        "Replay": "replay",
        "from_json": "json_arrays",
        "log_file": "log",
        "read_log": "replay",
        "to_json": "json_arrays",
    },
)

__all__ = [
    "FILE",
    "FeedbackLoop",
    "FeedbackSession",
    "LoggedRun",
    "MixingLog",
    "Replay",
    "from_json",
    "log_file",
    "read_log",
    "to_json",
]
