"""`streaming.vision`: the datasets of images that that package's converters store."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mixstream.compat.dataset import StreamingDataset
from mixstream.compat.text import DEFAULTS
from mixstream.errors import ConfigError

Function = Callable[..., Any] | None


def _to_tensor(image: Any) -> Any:
    try:
        functional = import_module("torchvision.transforms.functional")
    except ImportError as error:
        raise ConfigError(
            "images become tensors by torchvision, which is missing: `pip install torchvision`, or pass transform="
        ) from error
    return functional.to_tensor(image)


class StandardTransform:
    """An image and its target, each through a function of its own; an image without one becomes a tensor."""

    def __init__(self, transform: Function = None, target_transform: Function = None) -> None:
        self.transform, self.target_transform = transform, target_transform

    def __call__(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return both, transformed."""
        return (self.transform or _to_tensor)(x), y if self.target_transform is None else self.target_transform(y)


class StreamingVisionDataset(StreamingDataset):
    """Images and labels: columns `x` and `y`.

    Args:
        transforms: function of both; instead of the other two.
        transform: function of the image.
        target_transform: function of the label.
        options: as for `StreamingDataset`.
    """

    def __init__(
        self,
        *,
        transforms: Function = None,
        transform: Function = None,
        target_transform: Function = None,
        **options: Any,
    ) -> None:
        if transforms is not None and (transform is not None or target_transform is not None):
            raise ConfigError(
                "Only transforms or transform/target_transform can be passed as an argument: put the others into it"
            )
        super().__init__(**DEFAULTS | options)
        self.transform, self.target_transform = transform, target_transform
        self.transforms = transforms or StandardTransform(transform, target_transform)

    def get_item(self, sample_id: int, retry: int = 7) -> tuple[Any, Any]:
        """Return the image and the label, transformed."""
        stored = super().get_item(sample_id, retry)
        return self.transforms(stored["x"], stored["y"])


class StreamingCIFAR10(StreamingVisionDataset):
    """CIFAR-10."""


class StreamingImageNet(StreamingVisionDataset):
    """ImageNet."""


class StreamingADE20K(StreamingDataset):
    """ADE20K: an image and its segmentation.

    Args:
        joint_transform: function of the pair.
        transform: function of the image, after it.
        target_transform: function of the segmentation, after it.
        options: as for `StreamingDataset`.
    """

    def __init__(
        self,
        *,
        joint_transform: Function = None,
        transform: Function = None,
        target_transform: Function = None,
        **options: Any,
    ) -> None:
        super().__init__(**DEFAULTS | options)
        self.joint_transform, self.transform, self.target_transform = joint_transform, transform, target_transform

    def get_item(self, sample_id: int, retry: int = 7) -> tuple[Any, Any]:
        """Return the image and the segmentation, transformed."""
        stored = super().get_item(sample_id, retry)
        x, y = stored["x"], stored["y"]
        if self.joint_transform is not None:
            x, y = self.joint_transform((x, y))
        return x if self.transform is None else self.transform(x), (
            y if self.target_transform is None else self.target_transform(y)
        )


class StreamingCOCO(StreamingDataset):
    """COCO: an image, its id, its size, and boxes with their labels.

    Args:
        transform: function of image, (height, width), boxes and labels.
        options: as for `StreamingDataset`.
    """

    def __init__(self, *, transform: Function = None, **options: Any) -> None:
        super().__init__(**DEFAULTS | options)
        self.transform = transform

    def get_item(self, sample_id: int, retry: int = 7) -> tuple[Any, Any, Any, Any, Any]:
        """Return image, id, (height, width), boxes and labels, transformed."""
        stored = super().get_item(sample_id, retry)
        image, size = stored["img"].convert("RGB"), (stored["htot"], stored["wtot"])
        boxes, labels = stored["bbox_sizes"], stored["bbox_labels"]
        if self.transform is not None:
            image, size, boxes, labels = self.transform(image, size, boxes, labels)
        return image, stored["img_id"], size, boxes, labels
