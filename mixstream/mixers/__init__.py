"""Mixers: policies that turn feedback into weights, one paper a file.

A mixer is a frozen dataclass of hyper-parameters with two pure methods (`Mixer`). One whose weights depend on the step
alone has one method (`OpenLoop`) and needs no reports. `protocol.py` lists the optional methods. Arrays over domains
are in the plan's order, `names`.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.mixers import scaling_law
    from mixstream.mixers.ado import ADO
    from mixstream.mixers.aioli import Aioli
    from mixstream.mixers.doge import DoGE
    from mixstream.mixers.doremi import DoReMi
    from mixstream.mixers.lmo import LMO, MatrixMixer
    from mixstream.mixers.odm import ODM
    from mixstream.mixers.protocol import Adapting, Binding, Checking, Explaining, Mixer, Opening, OpenLoop, Validating
    from mixstream.mixers.schedule import Schedule
    from mixstream.mixers.sized import Natural, Stratified, Temperature
    from mixstream.mixers.skill_it import SkillIt
    from mixstream.mixers.static import Static
    from mixstream.mixers.unimax import UniMax

__getattr__, __dir__ = lazily(
    __name__,
    {
        "ado": ["ADO"],
        "aioli": ["Aioli"],
        "doge": ["DoGE"],
        "doremi": ["DoReMi"],
        "lmo": ["LMO", "MatrixMixer"],
        "odm": ["ODM"],
        "protocol": ["Adapting", "Binding", "Checking", "Explaining", "Mixer", "Opening", "OpenLoop", "Validating"],
        "scaling_law": [],
        "schedule": ["Schedule"],
        "sized": ["Natural", "Stratified", "Temperature"],
        "skill_it": ["SkillIt"],
        "static": ["Static"],
        "unimax": ["UniMax"],
    },
)

__all__ = [
    "ADO",
    "LMO",
    "ODM",
    "Adapting",
    "Aioli",
    "Binding",
    "Checking",
    "DoGE",
    "DoReMi",
    "Explaining",
    "MatrixMixer",
    "Mixer",
    "Natural",
    "OpenLoop",
    "Opening",
    "Schedule",
    "SkillIt",
    "Static",
    "Stratified",
    "Temperature",
    "UniMax",
    "Validating",
    "scaling_law",
]
