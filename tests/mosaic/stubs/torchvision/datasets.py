"""See the package."""


class VisionDataset:
    """A base class to be named, not used."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError("torchvision is a stand-in here")
