"""A small convolutional net as a backbone: all that a third-party package needs."""

from torch import Tensor, nn

from bench.api import Backbone, FeatureExtractor, Weights


class MyFM(FeatureExtractor):
    """Two strided convolutions; one map each."""

    mean = (0.7, 0.5, 0.7)
    std = (0.2, 0.2, 0.2)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.channels, self.strides = (width, 2 * width), (2, 4)
        self.first = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.first(self.normalise(images)).relu()  # (N, C, H/2, W/2)
        return [fine, self.second(fine).relu()]  # (N, 2C, H/4, W/4)


my_fm = Backbone(
    name="my-fm",
    build=MyFM,
    weights=Weights(needed=False),
    title="A small frozen convolutional net with random weights",
    license="Apache-2.0",
)
