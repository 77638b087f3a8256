"""Losses of a batch, summed by domain: the public name of what `mixstream.feedback` has for trainers."""

from mixstream.feedback.labelled import labelled
from mixstream.feedback.loss_window import LossWindow
from mixstream.feedback.losses import domain_cross_entropy, domain_sums
from mixstream.feedback.output_losses import OutputLosses

__all__ = ["LossWindow", "OutputLosses", "domain_cross_entropy", "domain_sums", "labelled"]
