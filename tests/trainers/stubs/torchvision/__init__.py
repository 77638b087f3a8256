"""Stands in for torchvision, which has no build for the CPU torch that the tests use.

Composer and torchmetrics import names of it for vision models, and nothing that is tested here uses them.
"""

from stand_in import stand_in

stand_in(__name__, "datasets", "io", "models", "models.resnet", "ops", "transforms", "transforms.functional", "utils")
