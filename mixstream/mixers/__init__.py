"""Mixers: policies that turn feedback into weights, one paper a file.

A mixer is a frozen dataclass of hyper-parameters with two pure methods (`Mixer`). One whose weights depend on nothing
but the step has one (`OpenLoop`), and needs no reports. State is JSON-able: dicts, lists, numbers, strings. Arrays
over domains stand in the plan's canonical order, `names`.
"""

from mixstream.mixers.protocol import Mixer, OpenLoop
from mixstream.mixers.schedule import Schedule
from mixstream.mixers.static import Static

__all__ = ["Mixer", "OpenLoop", "Schedule", "Static"]
