"""Losses of a batch, summed by domain: the public name of `mixstream.feedback.losses`."""

from mixstream.feedback.losses import domain_cross_entropy, domain_sums

__all__ = ["domain_cross_entropy", "domain_sums"]
